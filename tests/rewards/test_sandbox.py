"""Hostile programs in real sandboxes, with the kernel's namespaces and without."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from reasonrl.rewards.sandbox import Limits, Sandbox, isolation
from reasonrl.rewards.sandbox.wire import decode, encode

LIMITS = Limits(seconds=0.7, memory_mb=160, output_bytes=1 << 20, work_mb=16, processes=16)
WHOLE = isolation(warn=False).whole
FORGE = "    for d in range(3, 99):\n        try: os.write(d, "
SECRET = "a-secret-of-the-host-51"


@pytest.fixture(params=["namespaces", "limits only"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    if request.param == "namespaces" and not WHOLE:
        pytest.skip("this machine has no namespaces to give")
    with Sandbox(LIMITS, isolate=request.param == "namespaces") as made:
        yield made
        if made.process.returncode is not None:
            return
        # Whatever went on before, the same sandbox still works.
        made.load("print(int(input()) + 1)")
        after = made.script("41\n")
        if made.isolation.pids:
            assert (after.status, after.output) == ("ok", "42\n"), after


def run(sandbox: Sandbox, program: str, text: str = "") -> tuple[str, str]:
    sandbox.load(program)
    outcome = sandbox.script(text)
    return outcome.status, outcome.output


def left_over(mark: str) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark in Path(f"/proc/{name}/cmdline").read_bytes().decode().replace("\0", " "):
                found.append(int(name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("import sys; print(1); sys.exit()", "ok"),
        ("import sys; sys.exit(3)", "runtime_error"),
        ("import sys; sys.exit('no')", "runtime_error"),
        ("import os; os._exit(0)", "ok"),
        ("1/0", "runtime_error"),
        ("def f(:", "compile_error"),
        ("x = '\\x00'\n\0", "compile_error"),
        ("while True: pass", "timeout"),
        ("import time; time.sleep(60)", "timeout"),
        ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", "timeout"),
        ("while True: print('y' * 1000)", "output_limit"),
        ("x = 'a' * 10**10", "memory_limit"),
        ("x = []\nwhile True: x.append('a' * 10**7 + str(len(x)))", "memory_limit"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", None),
        ("import ctypes; ctypes.string_at(0)", "crash"),
        ("import os\nos.execv('/bin/true', ['true'])", "ok"),
    ],
)
def test_how_a_program_ends(sandbox: Sandbox, program: str, status: str | None) -> None:
    started = time.monotonic()
    given = run(sandbox, program)[0]
    expected = status or ("crash" if sandbox.isolation.pids else "runtime_error")
    assert given == expected
    assert time.monotonic() - started < 30


def test_input_output_and_a_fresh_start_each_time(sandbox: Sandbox) -> None:
    program = "import sys, os\nprint(sys.stdin.read().upper(), os.path.exists('left'), 'é')\nopen('left', 'w').close()"
    assert run(sandbox, program, "häh\n") == ("ok", "HÄH\n False é\n")
    assert sandbox.script("x").output == "X False é\n"
    assert run(sandbox, "print(open('/dev/stdin').read(), open(0).read())", "ab")[0] == "ok"
    assert run(sandbox, "print(list(map(hash, ['a', 'b'])))")[1] == run(sandbox, "print([hash('a'), hash('b')])")[1]


@pytest.mark.parametrize(
    ("program", "output"),
    [
        ("import numpy as np\nprint(np.linalg.inv(np.eye(3) * 2).sum())", "1.5\n"),
        ("import threading\nt = threading.Thread(target=print, args=('t',))\nt.start()", "t\n"),
        ("import subprocess, sys\nprint(subprocess.check_output([sys.executable, '-c', 'print(5)']))", "b'5\\n'\n"),
        ("import tempfile\nwith tempfile.NamedTemporaryFile('w') as f: f.write('x')\nprint('ok')", "ok\n"),
        ("import asyncio\nasync def f(): await asyncio.sleep(0); print('a')\nasyncio.run(f())", "a\n"),
        ("import sys\nsys.setrecursionlimit(10**6)\ndef f(n): return n and 1 + f(n - 1)\nprint(f(40000))", "40000\n"),
        (
            "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))).__name__, __name__)",
            "A __main__\n",
        ),
        ("import atexit\natexit.register(print, 'bye')\nprint(7**5000 > 0)", "True\nbye\n"),
    ],
)
def test_ordinary_programs_work(program: str, output: str) -> None:
    for isolate in (True, False):
        with Sandbox(Limits(), isolate) as made:
            made.load(program)
            outcome = made.script("")
            assert (outcome.status, outcome.output) == ("ok", output), outcome


def test_a_fork_bomb_and_daemons_leave_nothing_behind(sandbox: Sandbox) -> None:
    mark = "987.5" if sandbox.isolation.pids else "986.5"
    bomb = f"""
import os
for _ in range(40):
    try:
        if os.fork() == 0:
            try:
                os.setsid()
                if os.fork() == 0:
                    os.execv('/bin/sleep', ['sleep', '{mark}'])
            finally:
                os._exit(0)
    except OSError:
        pass
print('done')
"""
    assert run(sandbox, bomb) == ("ok", "done\n")
    assert left_over(f"sleep {mark}") == []
    status, _ = run(sandbox, "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass")
    assert status in ("timeout", "memory_limit")


def test_closing_a_sandbox_ends_what_runs_in_it() -> None:
    for isolate in {WHOLE, False}:
        made = Sandbox(LIMITS, isolate)
        made.load(
            "import subprocess\ndef f():\n    return subprocess.Popen(['sleep', '985.5'], start_new_session=True).pid"
        )
        assert made.ask({"name": "f", "args": []}).status == "ok"
        deadline = time.monotonic() + 10
        while not left_over("sleep 985.5") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(left_over("sleep 985.5")) == 1
        folder = made.folder
        made.close()
        made.close()
        while left_over("sleep 985.5") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert left_over("sleep 985.5") == [] and not os.path.exists(folder)
        assert made.script("").status == "crash"


def test_killing_the_host_takes_the_programs_along(tmp_path: Path) -> None:
    program = (
        "from reasonrl.rewards.sandbox import Limits, Sandbox\n"
        "made = Sandbox(Limits(seconds=100))\n"
        "made.load(\"import os\\nos.execv('/bin/sleep', ['sleep', '984.5'])\")\n"
        "print('up', flush=True)\nmade.script('')"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as host:
        assert host.stdout is not None and host.stdout.readline() == b"up\n"
        deadline = time.monotonic() + 10
        while not left_over("sleep 984.5") and time.monotonic() < deadline:
            time.sleep(0.01)
        assert left_over("sleep 984.5")
        host.kill()
    while left_over("sleep 984.5") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert left_over("sleep 984.5") == []


def test_no_secret_of_the_host_is_seen(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_SECRET", SECRET)
    with subprocess.Popen(["sleep", "20"]) as neighbour:
        program = """
import glob, os
seen = [str(os.environ)]
for place in glob.glob('/proc/[0-9]*/environ'):
    try: seen.append(open(place).read())
    except OSError: pass
print(input() in ''.join(seen), sorted(os.environ))
"""
        with Sandbox(LIMITS, isolate=sandbox.isolation.pids) as later:
            status, output = run(later, program, SECRET)
        neighbour.kill()
    assert status == "ok" and "HOST_SECRET" not in output and "PATH" in output
    if sandbox.isolation.files:
        assert output.startswith("False")


def test_no_file_outside_is_written_or_read(sandbox: Sandbox, tmp_path: Path) -> None:
    if not sandbox.isolation.files:
        pytest.skip("this kernel has no Landlock")
    (tmp_path / "gold.txt").write_text(SECRET)
    tmp_path.chmod(0o777)
    outside = [str(tmp_path / "x"), "/etc/x", "/usr/x", "/var/tmp/reasonrl-x", f"{sys.prefix}/x", "/x"]
    own = ["/tmp/reasonrl-x", "/dev/shm/reasonrl-x"]
    program = f"""
import os
for path in {outside + own!r}:
    try:
        open(path, 'w').write('x')
        print('wrote', path)
    except OSError: pass
for path in ({str(tmp_path / "gold.txt")!r}, {str(Path(__file__))!r}):
    try: print('read', open(path).read())
    except OSError: pass
open('mine', 'w').write('x')
print(os.listdir('.'))
"""
    status, output = run(sandbox, program)
    assert status == "ok" and "'mine'" in output.splitlines()[-1], output
    # Under a root of its own these lie in its own memory.
    assert set(output.splitlines()[:-1]) <= {f"wrote {path}" for path in own if sandbox.isolation.mounts}
    assert not [path for path in (*outside, *own) if os.path.exists(path)]
    if sandbox.isolation.mounts:
        filled = run(sandbox, "for i in range(99): open(str(i), 'wb').write(b'x' * 1000_000)")
    else:
        filled = run(sandbox, "i = 0\nwhile True:\n    i += 1\n    open(str(i % 99), 'wb').write(b'x' * 1000_000)")
    assert filled[0] in ("runtime_error", "output_limit")


def test_nested_closed_and_linked_folders_are_removed(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("x")
    program = f"""
import os
os.symlink({str(tmp_path)!r}, 'link')
os.mkdir('closed')
open('closed/x', 'w').close()
os.chmod('closed', 0)
for _ in range(600):
    try: os.mkdir('d')
    except OSError: break
    os.chdir('d')
print('done')
"""
    assert run(sandbox, program) == ("ok", "done\n")
    sandbox.close()
    assert not os.path.exists(sandbox.folder) and (tmp_path / "kept").exists()


def test_no_network(sandbox: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        port = server.getsockname()[1]
        program = f"import socket\ntry:\n    socket.create_connection(('127.0.0.1', {port}), 1)\n    print('in')\n"
        program += "except OSError: print('out')"
        assert run(sandbox, program) == ("ok", "out\n")
        with pytest.raises(TimeoutError):
            server.accept()


def test_the_host_cannot_be_killed_or_traced(sandbox: Sandbox) -> None:
    host = os.getpid()
    program = f"""
import ctypes, os, resource, signal
for target in (os.getppid(), {host}, {sandbox.process.pid}, -1, 1):
    try:
        if target != 1 or os.getppid() == 1: os.kill(target, signal.SIGTERM if target == {host} else signal.SIGKILL)
    except OSError: pass
    try: resource.prlimit(target, resource.RLIMIT_CPU, (0, 0))
    except (OSError, ValueError): pass
libc = ctypes.CDLL(None, use_errno=True)
print([libc.ptrace(16, one, 0, 0) for one in (os.getppid(), {host})], libc.unshare(0x10000000))
for path in ('/proc/%d/mem' % os.getppid(), '/proc/{host}/mem'):
    try: open(path, 'rb'); print('opened', path)
    except OSError: pass
"""
    status, output = run(sandbox, program)
    assert status == "ok" and output.startswith("[-1, -1] -1"), output
    assert f"opened /proc/{os.getpid()}/mem" not in output
    assert sandbox.process.poll() is None


# --- functions


def test_calls_give_plain_values_and_keep_their_state() -> None:
    with Sandbox(LIMITS) as made:
        made.load(
            "n = 0\ndef f(x):\n    global n\n    n += 1\n    print('noise')\n"
            "    return [n, (x, {x}), {'k': 2**70}, 1.5, None]"
        )
        for count in (1, 2):
            outcome = made.ask({"name": "f", "args": [7]})
            assert outcome.reply is not None
            assert decode(outcome.reply["value"]) == [count, (7, {7}), {"k": 2**70}, 1.5, None]


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("def f(): raise SystemExit(0)", "runtime_error"),
        ("import os\ndef f(): os._exit(0)", "crash"),
        ("import os\ndef f(): os.execv('/bin/true', ['true'])", "crash"),
        ("def f():\n    while True: pass", "timeout"),
        ("def f():\n    while True: print('x' * 10000)", "timeout"),
        ("def f(): return 'x' * (5 << 20)", "output_limit"),
        ("def f(): return object()", "runtime_error"),
        ("def f():\n    x = []\n    x.append(x)\n    return x", "runtime_error"),
        ("import sys\nsys.exit()\ndef f(): return 1", "runtime_error"),
        (
            "import os\ndef f():\n"
            + FORGE
            + "b'\\0\\0\\0\\x0e{\"value\": 4.2}')\n        except OSError: pass\n    while True: pass",
            None,
        ),
        (
            "import os\ndef f():\n" + FORGE + "b'\\xff' * 64)\n        except OSError: pass\n    return 1",
            "output_limit",
        ),
        ("def g(): pass", "runtime_error"),
        ("def f(: pass", "compile_error"),
    ],
)
def test_how_a_call_ends(sandbox: Sandbox, program: str, status: str | None) -> None:
    sandbox.load(program)
    outcome = sandbox.ask({"name": "f", "args": []})
    # A forged reply is worth what a returned value is worth: it still has to be the right one.
    assert outcome.status == (status or "ok")
    sandbox.load("def f(x): return x")
    again = sandbox.ask({"name": "f", "args": ["still here"]})
    assert again.reply is not None and again.reply["value"] == "still here"


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -3,
        10**40,
        Fraction(-1, 3),
        Decimal("1.50"),
        1.5,
        float("inf"),
        2 + 3j,
        "ü\ud800",
        b"\x00\xff",
        [1, [2]],
        (1, (2,)),
        {1, 2},
        {(1, 2): [3]},
    ],
)
def test_values_cross_unchanged(value: object) -> None:
    assert decode(encode(value)) == value and type(decode(encode(value))) is type(value)
