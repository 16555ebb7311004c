"""The processes behind a pool: a template that imports the grader once, and workers that it forks.

The pool starts the template as a fresh program: never by fork, for the pool's process may hold a GPU and threads. The
template holds one thread and no work, so that *it* may fork: a worker stands ready in milliseconds with the grader and
its libraries loaded, and replacing one that was killed costs next to nothing. Nothing here writes to standard output,
and what a grader writes there is thrown away; standard error goes to the pool, which keeps its end.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import inspect
import json
import os
import resource
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from reasonrl.rewards.pool_wire import Frames, Slot, checked, encode, result_of
from reasonrl.rewards.verdict import SCORE_OF_STATUS, Status, Verdict

ORPHAN_CHECK = 0.5
"""Seconds between two looks whether the parent is alive; a signal from the kernel and the closed socket come sooner."""
GROWTH_LIMIT = 384 << 10
"""KiB of resident memory that a worker may gain before it asks to be replaced."""
HOLD = 0.002
"""Seconds for which verdicts are held to be sent together. What is held behind an item that hangs is not waited for:
the pool has it graded again."""
_PR_SET_PDEATHSIG = 1

_GRADER = "reasonrl.rewards.math:verify"
_ALGEBRA = (("x^2+2x+1", "(x+1)^2"), (r"\{1,2\}", r"\{2,1\}"), (r"(-\infty,2)", "x<2"), (r"\sin(x)=1", r"1=\sin(x)"))
"""What computer algebra compares before the first worker is forked, so that no item pays for its imports and caches."""


def main(control: int, grader: str, parent: int) -> None:
    """The template: load the grader, say `ready`, then fork, kill and reap workers as the pool asks.

    Args:
        control: descriptor of the socket to the pool.
        grader: `module:function`.
        parent: the pool's process; the template ends when it is gone.
    """
    # By default this ends the template while it loads; once it serves, it ends and reaps its workers first.
    die_with_parent(parent, signal.SIGTERM)
    link = socket.socket(fileno=control)
    try:
        grade = load_grader(grader)
        threads = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
        if threads > 1:
            raise RuntimeError(f"{grader} has started {threads - 1} threads while it was imported: start them later")
    except BaseException as problem:
        traceback.print_exc()
        link.sendall(encode(["failed", f"{type(problem).__name__}: {problem}"]))
        raise SystemExit(1) from None
    gc.collect()
    gc.freeze()  # what is loaded stays shared with the workers: no collection touches it
    link.sendall(encode(["ready"]))
    _Template(link, grade, parent).serve()


def load_grader(spec: str) -> Callable[..., Any]:
    """The function `module:function`, after it has graded its module's `POOL_WARM_UP` pairs, or ours."""
    module_name, _, name = spec.partition(":")
    module = importlib.import_module(module_name)
    grade: Callable[..., Any] = getattr(module, name)
    for gold, response in getattr(module, "POOL_WARM_UP", ()):
        grade(gold, response, "default")
    if spec == _GRADER:
        from reasonrl.rewards.symbolic import symbolically_equal

        for gold, answer in _ALGEBRA:
            grade(gold, rf"\boxed{{{answer}}}", "default")
            symbolically_equal(gold, answer)
    return grade


def die_with_parent(parent: int, number: int) -> None:
    """Has the kernel send this process a signal when its parent ends (Linux); ends it now if that has happened."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(0)


class _Template:
    """Forks workers, kills them on request, tells how they ended."""

    def __init__(self, link: socket.socket, grade: Callable[..., Any], parent: int) -> None:
        self.link, self.grade, self.parent = link, grade, parent
        self.workers: dict[int, int] = {}  # process id -> the pool's number of the worker
        self.waker, self.bell = socket.socketpair()
        self.waker.setblocking(False)
        self.bell.setblocking(False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda number, frame: None)  # it only wakes `serve`
        signal.set_wakeup_fd(self.bell.fileno(), warn_on_full_buffer=False)

    def serve(self) -> None:
        frames, descriptors = Frames(), list[int]()
        while os.getppid() == self.parent:
            readable, _, _ = select.select([self.link, self.waker], [], [], ORPHAN_CHECK)
            if self.waker in readable:
                with contextlib.suppress(BlockingIOError):
                    self.waker.recv(4096)
            self._reap()
            if self.link in readable:
                try:
                    data, received, _, _ = socket.recv_fds(self.link, 65536, 16)
                except ConnectionError:
                    break
                if not data:
                    break
                descriptors += received
                for order in frames.feed(data):
                    if order[0] == "stop":
                        return self._end()
                    self._obey(order, descriptors)
        self._end()

    def _obey(self, order: list[Any], descriptors: list[int]) -> None:
        if order[0] == "kill":
            for pid, number in self.workers.items():
                if number == order[1]:
                    _kill_group(pid)
        elif order[0] == "fork":
            _, number, settings = order
            given, descriptors[:3] = descriptors[:3], []
            pid = os.fork()
            if pid == 0:
                self._become_worker(given, settings)
            for descriptor in given:
                os.close(descriptor)
            self.workers[pid] = number
            self._tell(["forked", number, pid])

    def _become_worker(self, given: list[int], settings: dict[str, Any]) -> None:
        """Never returns."""
        template = os.getppid()
        status = 1
        try:
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            for connection in (self.link, self.waker, self.bell):
                connection.close()
            die_with_parent(template, signal.SIGKILL)
            link, errors, slot = given
            os.dup2(errors, 2)
            os.close(errors)
            shared = Slot(slot)
            os.close(slot)
            limit_resources(settings["memory_limit_mb"])
            _Worker(socket.socket(fileno=link), shared, self.grade, settings).serve()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        while self.workers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            number = self.workers.pop(pid, None)
            if number is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)  # what the grader itself had started
                self._tell(["ended", number, os.waitstatus_to_exitcode(status)])

    def _tell(self, message: list[Any]) -> None:
        with contextlib.suppress(ConnectionError):  # the pool is gone: the next look ends this process
            self.link.sendall(encode(message))

    def _end(self) -> None:
        for pid in self.workers:
            _kill_group(pid)
        for pid in self.workers:
            os.waitpid(pid, 0)


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # a worker that has not made its group yet is met by the second
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def limit_resources(memory_limit_mb: int | None) -> None:
    """Bounds this process's address space and forbids core files; MemoryError where it already holds that much."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_limit_mb is not None:
        wanted = memory_limit_mb << 20
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        held = _address_space()
        if held >= limit:  # what is mapped already stays usable: the limit would bite at some later item, or never
            raise MemoryError(f"a worker holds {held >> 20} MiB of address space before its first item")
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _address_space() -> int:
    """Bytes of address space of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as sizes:
            return int(sizes.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


class _Worker:
    """Grades one item after another in its main thread, where the grader's own alarms work."""

    def __init__(self, link: socket.socket, slot: Slot, grade: Callable[..., Any], settings: dict[str, Any]) -> None:
        self.link, self.slot, self.grade = link, slot, grade
        self.extra: dict[str, Any] = {}
        with contextlib.suppress(TypeError, ValueError):  # a grader written in C may have no signature
            if "limit" in inspect.signature(grade).parameters:
                self.extra["limit"] = settings["time_limit"]
        self.start_kb = _peak_kb()
        self.held: list[list[Any]] = []
        self.sent = 0.0
        self.retire = False

    def serve(self) -> None:
        """Until the pool closes the socket."""
        self.link.sendall(encode(["ready"]))
        frames = Frames()
        while data := self.link.recv(1 << 18):
            for items in frames.feed(data):
                for number, gold, response, policy in items:
                    if number > self.slot.skipped():
                        self._one(number, gold, response, policy)
            self._send()

    def _one(self, number: int, gold: str, response: str, policy: str) -> None:
        start = time.monotonic()
        self.slot.begin(number, start)
        try:
            verdict = self.grade(gold, response, policy, **self.extra)
            problem = checked(verdict)
            if problem is not None:
                verdict = _ours("fault", gold, problem, start)
        except MemoryError:
            verdict, self.retire = _ours("crash", gold, "the grader ran out of memory", start), True
        except RecursionError:
            verdict = _ours("crash", gold, "the grader recursed too deeply", start)
        except Exception as error:
            traceback.print_exc()
            verdict = _ours("fault", gold, f"the grader raised {type(error).__name__}: {error}"[:500], start)
        except BaseException as error:  # SystemExit, or a grader's own kind: this process may be in any state
            verdict = _ours("crash", gold, f"the grader raised {type(error).__name__}: {error}"[:500], start)
            self.retire = True
        self.held.append(result_of(number, verdict))
        self.slot.end()
        if start - self.sent > HOLD or verdict.seconds > HOLD or self.retire:
            self._send()

    def _send(self) -> None:
        """Sends the verdicts that are held."""
        if self.held:
            peak = _peak_kb()
            self.link.sendall(encode([self.held, peak, self.retire or peak - self.start_kb > GROWTH_LIMIT]))
            self.held = []
        self.sent = time.monotonic()


def _ours(status: Status, gold: str, reason: str, start: float) -> Verdict:
    return Verdict(status, SCORE_OF_STATUS[status], None, gold[:4000], reason, time.monotonic() - start)


def _peak_kb() -> int:
    """Peak resident memory of this process, KiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


BOOTSTRAP = (
    "import sys;path,control,grader,parent=sys.argv[1:];"
    "sys.path[:]=__import__('json').loads(path);"
    "from reasonrl.rewards.pool_worker import main;main(int(control),grader,int(parent))"
)


def command(control: int, grader: str) -> list[str]:
    """How a template is started: this interpreter, this process's import path, nobody's `__main__`."""
    path = [os.path.abspath(entry) if entry == "" else entry for entry in sys.path if isinstance(entry, str)]
    return [sys.executable, "-P", "-c", BOOTSTRAP, json.dumps(path), str(control), grader, str(os.getpid())]
