"""A pool and the process that holds it: Ctrl-C, sudden death, forks, import paths, rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1]


def start(program: str, *, folder: Path | None = None, session: bool = True) -> subprocess.Popen[str]:
    """A program that can import the graders and the package by `sys.path` alone."""
    head = f"import sys; sys.path[:0] = [{str(HERE)!r}, {str(PACKAGE)!r}]\n"
    return subprocess.Popen(
        [sys.executable, "-P", "-c", head + program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=session,
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    text = process.stdout.readline().strip()
    assert text, process.stderr.read() if process.stderr and process.poll() is not None else "no line"
    return text


def gone(processes: list[psutil.Process], seconds: float) -> bool:
    """Whether they have ended by then; one whose parent has died may stand as a zombie until init takes it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes):
            return True
        time.sleep(0.02)
    return False


STUCK = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in a shell's background ignores it
from reasonrl.rewards.pool import RewardPool
pool = RewardPool(2, time_limit=50, grader="pool_graders:obey")
assert pool.map([("1", "1")])[0].correct
print("ready", flush=True)
pool.map([("1", "pow"), ("1", "sleep 60"), ("1", "deaf")])
"""


def test_ctrl_c_ends_a_map_and_every_process() -> None:
    process = start(STUCK)
    assert line(process) == "ready"
    time.sleep(0.5)
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) >= 3
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
    _, errors = process.communicate(timeout=20)
    assert process.returncode != 0 and errors.count("KeyboardInterrupt") == 1 and errors.count("Traceback") == 1
    assert gone(below, 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_death_of_the_parent_ends_every_process_within_a_second(number: int) -> None:
    process = start(STUCK)
    assert line(process) == "ready"
    time.sleep(0.5)
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) >= 3
    os.kill(process.pid, number)
    process.wait(10)
    assert gone(below, 1)
    zombies = [process for process in below if process.is_running()]
    assert len(zombies) <= 1  # the template, if this system's init takes its time; it has reaped its workers


def test_a_program_that_never_closes_its_pool_ends_quietly() -> None:
    program = """
from reasonrl.rewards.pool import RewardPool, shared_pool
pool = RewardPool(1, grader="pool_graders:obey")
pool.submit("1", "sleep 60")
assert shared_pool(1).map([("1", "1")])[0].correct
print("done", flush=True)
"""
    process = start(program)
    assert line(process) == "done"
    output, errors = process.communicate(timeout=10)
    assert (process.returncode, output, errors) == (0, "", "")


def run(program: str, folder: Path | None = None) -> list[str]:
    process = start(program, folder=folder)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return output.splitlines()


def test_a_fork_leaves_the_parents_pool_alone_and_gets_its_own() -> None:
    program = """
import os, sys
from reasonrl.errors import RewardError
from reasonrl.rewards.pool import RewardPool, shared_pool
pool = RewardPool(2, grader="pool_graders:obey")
shared = shared_pool(1)
assert pool.map([("1", "1")])[0].correct and shared.map([("1", "1")])[0].correct
waiting = pool.submit("1", "sleep 0.5")
child = os.fork()
if child == 0:
    try:
        pool.submit("1", "1")
    except RewardError as error:
        assert "belongs to process" in str(error), error
    else:
        os._exit(3)
    pool.close()
    assert pool.closed and shared.closed
    mine = shared_pool(1)
    assert mine is not shared and mine.map([("5", r"\\boxed{5}")])[0].correct
    sys.exit(0)
status = os.waitpid(child, 0)[1]
assert status == 0, status
assert waiting.result(10).status == "wrong"
assert pool.map([("2", "2")])[0].correct and shared_pool(1) is shared and shared.map([("2", "2")])[0].correct
print(pool.counters().kills, pool.counters().crashes)
"""
    assert run(program) == ["0 0"]


def test_the_parents_death_ends_its_workers_though_a_fork_lives_on() -> None:
    program = """
import os, time
from reasonrl.rewards.pool import RewardPool
pool = RewardPool(1, time_limit=50, grader="pool_graders:obey")
pool.map([("1", "1")])
if os.fork() == 0:
    time.sleep(5)
    os._exit(0)
print("ready", flush=True)
pool.map([("1", "sleep 60")])
"""
    process = start(program)
    assert line(process) == "ready"
    time.sleep(0.3)
    workers = [p for p in psutil.Process(process.pid).children(recursive=True) if p.ppid() != process.pid]
    templates = [psutil.Process(p.ppid()) for p in workers]
    assert len(workers) == 1
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    assert gone(workers + templates, 1)
    os.killpg(process.pid, signal.SIGKILL)  # the fork


def test_data_loader_workers_may_grade() -> None:
    program = """
from torch.utils.data import DataLoader, Dataset
from reasonrl.rewards.pool import shared_pool

class Rows(Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, place):
        return shared_pool(1).submit(str(place), r"\\boxed{%d}" % place).result(60).correct

shared_pool(1).map([("1", "1")])
loader = DataLoader(Rows(), batch_size=2, num_workers=2, multiprocessing_context="fork")
print(sum(int(flag) for batch in loader for flag in batch))
print(shared_pool(1).submit("9", r"\\boxed{9}").result(60).status)
"""
    assert run(program) == ["8", "correct"]


def test_the_users_program_is_not_imported_and_the_working_directory_does_not_matter(tmp_path: Path) -> None:
    # Files that would break a worker, were it to look for modules where it runs or to run the user's program again.
    for name in ("json", "reasonrl", "signal"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path[:1] = [{str(HERE)!r}, {str(PACKAGE)!r}]\n"
        "from reasonrl.rewards.pool import RewardPool\n"
        "print('once', flush=True)\n"
        "with RewardPool(1, grader='pool_graders:obey') as pool:\n"
        "    print(pool.submit('', 'surroundings').result(60).reason)\n"
    )
    program = [sys.executable, str(script)]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["once", repr(("", "1", 2048 << 20, None, str(HERE)))]


def test_threads_of_the_caller_that_hold_locks_do_not_matter() -> None:
    """The pool is made while other threads run and log: a fork of this process would inherit their locks."""
    program = """
import logging, threading
from reasonrl.rewards.pool import RewardPool
logging.basicConfig(level=logging.CRITICAL)
stop = threading.Event()
def chatter():
    while not stop.is_set():
        logging.getLogger("x").debug("x")
threads = [threading.Thread(target=chatter) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(3):
    with RewardPool(2, grader="pool_graders:obey") as pool:
        assert all(v.correct for v in pool.map([(str(i), str(i)) for i in range(50)]))
stop.set()
print("fine")
"""
    assert run(program) == ["fine"]


def test_a_pool_at_rest_takes_no_time() -> None:
    program = """
import time, psutil
from reasonrl.rewards.pool import RewardPool
with RewardPool(2, grader="pool_graders:obey") as pool:
    pool.map([("1", "1"), ("2", "sleep 0.2")])
    def spent():
        everybody = [psutil.Process(), *psutil.Process().children(recursive=True)]
        return sum(sum(process.cpu_times()[:2]) for process in everybody)
    time.sleep(0.3)
    before = spent()
    time.sleep(2)
    print(spent() - before)
"""
    (seconds,) = run(program)
    assert float(seconds) < 0.1


def test_importing_the_pool_loads_no_grader_and_starts_nothing(tmp_path: Path) -> None:
    program = """
import sys, threading, reasonrl.rewards.pool
print([name for name in ("sympy", "math_verify", "torch", "multiprocessing.process") if name in sys.modules])
print(threading.active_count())
"""
    assert run(program, tmp_path) == ["[]", "1"]
