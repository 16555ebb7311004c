"""Sandboxes on machines that give less: no namespaces, no rights."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from reasonrl import errors
from reasonrl.rewards import sandbox as sandbox_package
from reasonrl.rewards.sandbox import Limits, Sandbox, isolation

LIMITS = Limits(seconds=0.7, memory_mb=160)
WHOLE = isolation(warn=False).whole


def test_isolation_is_told() -> None:
    with Sandbox(LIMITS, isolate=False) as made:
        assert not made.isolation.whole and str(made.isolation).startswith("limits only")
        assert made.isolation.no_sockets and made.isolation.calls
    if WHOLE:
        assert str(isolation()) == "namespaces"


@pytest.mark.skipif(shutil.which("unshare") is None or not WHOLE, reason="needs unshare and namespaces to take away")
def test_a_machine_without_namespaces_is_told_and_programs_still_run() -> None:
    """A shell that may make no more namespaces stands for a machine whose kernel gives none."""
    program = (
        "import warnings\nwarnings.simplefilter('always')\nfrom reasonrl.rewards.code import CodeReward\n"
        "from reasonrl.rewards.sandbox import isolation\n"
        "row = {'inputs': ['1'], 'outputs': ['2']}\n"
        "metrics = {}\n"
        "print(CodeReward()(completions=['print(2)'] * 2, tests=[row] * 2, log_metric=metrics.__setitem__), "
        "metrics['code/isolated'])\n"
        "print(isolation(), isolation().no_sockets)\n"
        "try: CodeReward(requires_isolation=True)(completions=['print(2)'], tests=[row])\n"
        "except Exception as problem: print(type(problem).__name__, problem)\n"
    )
    limits = "; ".join(f"echo 0 > /proc/sys/user/max_{kind}_namespaces" for kind in ("user", "mnt", "pid", "net"))
    command = ["unshare", "-Ur", "sh", "-c", f"{limits}; exec '{sys.executable}' -c \"$0\"", program]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    lines = found.stdout.splitlines()
    assert lines[0] == "[1.0, 1.0] 0.0", found.stderr
    assert lines[1].startswith("limits only") and lines[1].endswith("True")
    assert lines[2].startswith("RewardError reward 'code': requires_isolation is true")
    assert found.stderr.count("RuntimeWarning: programs run without the kernel's namespaces") == 1


def other_python() -> str | None:
    """A Python of the system, which a user without rights may run too."""
    names = ("python3.13", "python3.12", "python3.11")
    return next(filter(None, (shutil.which(name, path="/usr/bin:/usr/local/bin") for name in names)), None)


INSIDE = """
import os, socket
try: socket.create_connection(("127.0.0.1", 9), 1)
except OSError as problem: print(type(problem).__name__)
seen = [name for name in os.listdir("/proc") if name.isdigit()] if os.access("/proc", os.R_OK) else []
print(len(seen), os.access(HIDDEN, os.R_OK), os.access("/usr", os.W_OK), os.getuid())
"""
OUTSIDE = """
import sys
from reasonrl.rewards.sandbox import Limits, Sandbox
for isolate in (True, False):
    with Sandbox(Limits(seconds=2), isolate) as made:
        made.load(sys.argv[1])
        print(made.isolation, made.script("").output.split())
        made.load("while True: pass")
        print(made.script("").status)
        made.load("import os\\nwhile True:\\n    try: os.fork()\\n    except OSError: break\\nprint(1)")
        print(made.script("").status)
"""


@pytest.mark.skipif(os.geteuid() != 0 or other_python() is None, reason="needs root, to become somebody else")
def test_a_user_without_rights_is_held_as_well() -> None:
    """What most people are: no root, so a user namespace is the only way in."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        package = Path(folder) / "reasonrl"
        shutil.copytree(Path(sandbox_package.__file__).parent, package / "rewards" / "sandbox")
        shutil.copy(Path(errors.__file__), package / "errors.py")
        (package / "__init__.py").touch()
        (package / "rewards" / "__init__.py").touch()
        found = subprocess.run(
            [str(other_python()), "-c", OUTSIDE, INSIDE.replace("HIDDEN", repr(folder))],
            env={"PYTHONPATH": folder, "PATH": "/usr/bin:/bin"},
            user=65534,
            group=65534,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=90,
        )
    lines = found.stdout.splitlines()
    assert len(lines) == 6, found.stderr
    if lines[0].startswith("namespaces"):
        assert lines[0] == "namespaces ['OSError', '2', 'False', 'False', '65534']"
    assert lines[3].startswith("limits only") and "'PermissionError'" in lines[3]
    assert lines[1] == lines[4] == "timeout" and {lines[2], lines[5]} <= {"ok", "timeout", "memory_limit"}
