"""What a run was made with: versions, git state, command, host. Never the environment's variables: keys live there."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

import reasonrl

TRACKED = (
    "accelerate",
    "datasets",
    "deepspeed",
    "math-verify",
    "numpy",
    "peft",
    "sympy",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
    "vllm",
)
_SECRET = r"(api[_-]?key|secret|passw(or)?d|credentials?|(^|[._-])(key|token|auth))"
_SECRET_VALUE = re.compile(rf"(?i)^([^=\s]*{_SECRET}=).+", re.DOTALL)
_SECRET_OPTION = re.compile(rf"(?i)--?[^=\s]*{_SECRET}")


def versions() -> dict[str, str]:
    """Versions of Python, this library, and those installed packages that can change a result; nothing is imported."""
    found = {"python": platform.python_version(), "reasonrl": reasonrl.__version__}
    for name in TRACKED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def changed_versions(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """`torch 2.11.0 -> 2.13.0` for each version that differs; packages that came or went count."""
    names = sorted(before.keys() | now.keys())
    return [
        f"{name} {before.get(name, 'absent')} -> {now.get(name, 'absent')}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def git_state(directory: Path) -> dict[str, Any] | None:
    """Commit, branch and whether tracked files are changed, of the repository a folder is in; None without one."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(directory), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "branch": git("rev-parse", "--abbrev-ref", "HEAD"), "changed": bool(changes)}


def redacted_command(arguments: Sequence[str]) -> list[str]:
    """The command line with the value of anything that looks like a key (`api_key=…`, `--token …`) left out."""
    cleaned: list[str] = []
    hide_next = False
    for argument in arguments:
        value = _SECRET_VALUE.match(argument)
        if hide_next:
            cleaned.append("[redacted]")
        else:
            cleaned.append(f"{value[1]}[redacted]" if value else argument)
        hide_next = not hide_next and bool(_SECRET_OPTION.fullmatch(argument))
    return cleaned


def environment_record(seed: int, package: Path | None = None) -> dict[str, Any]:
    """The content of `environment.json`.

    Args:
        seed: the recipe's seed.
        package: folder of this package, for its git state; default where it is imported from.
    """
    package = Path(reasonrl.__file__).resolve().parent if package is None else package
    return {
        "written_by": "reasonrl",
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": redacted_command(sys.argv),
        "working_directory": str(Path.cwd()),
        "seed": seed,
        "versions": versions(),
        "git": {"working_directory": git_state(Path.cwd()), "reasonrl": git_state(package)},
        "host": {
            "name": platform.node(),
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "cores_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        },
    }
