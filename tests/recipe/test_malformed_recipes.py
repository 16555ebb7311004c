"""Every malformed recipe gives one clear message with its place and exit status 2; no traceback, nothing written."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from reasonrl.cli import main

_SPEC = importlib.util.spec_from_file_location("malformed", Path(__file__).with_name("malformed.py"))
assert _SPEC and _SPEC.loader
malformed = importlib.util.module_from_spec(_SPEC)
sys.modules["malformed"] = malformed
_SPEC.loader.exec_module(malformed)

BY_PROCESS = [
    "typo in a key",
    "two problems at once",
    "a bracket left open",
    "a binary file",
    "a missing reward function",
    "an unknown key",
]


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder with the hash of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check_message(case, output: str) -> None:
    for fragment in case.says:
        assert expand(fragment) in output, f"{fragment!r} not in:\n{output}"
    assert "Traceback" not in output
    reported = [line for line in output.splitlines() if line.startswith("  ")]
    assert len(reported) == case.problems, output


def expand(fragment: str) -> str:
    """`@12` stands for `recipe.yaml:12`."""
    return f"recipe.yaml:{fragment[1:]}" if fragment.startswith("@") else fragment


def test_there_are_enough_and_their_names_differ():
    names = [case.name for case in malformed.CASES]
    assert len(set(names)) == len(names) >= 100


@pytest.mark.parametrize("case", malformed.CASES, ids=lambda case: case.name)
def test_malformed(case, tmp_path, monkeypatch):
    case.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    result = CliRunner().invoke(main, ["train", case.recipe, *case.arguments])
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    check_message(case, result.stderr)
    assert result.stdout == ""
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", BY_PROCESS)
def test_malformed_as_a_process(name, tmp_path):
    case = next(case for case in malformed.CASES if case.name == name)
    case.write(tmp_path)
    before = snapshot(tmp_path)
    command = [sys.executable, "-m", "reasonrl", "train", case.recipe, *case.arguments]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    )
    assert done.returncode == 2
    check_message(case, done.stderr)
    assert done.stdout == ""
    assert snapshot(tmp_path) == before


def test_the_good_recipe_is_good(tmp_path, monkeypatch):
    malformed.Case("good", ()).write(tmp_path)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["train", "recipe.yaml", "--print-config"])
    assert result.exit_code == 0, result.output


def test_dry_run_and_study_refuse_alike(tmp_path, monkeypatch):
    case = next(case for case in malformed.CASES if case.name == "typo in a key")
    case.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    for options in (["--dry-run"], ["--study", "short"], ["--print-config"]):
        result = CliRunner().invoke(main, ["train", "recipe.yaml", *options])
        assert result.exit_code == 2
        check_message(case, result.stderr)
