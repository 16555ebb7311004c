"""The first process of a sandbox: shuts itself in, then runs programs in children of its own, one request at a time.

Standard library only. It is started as `python -c BOOTSTRAP` by `host` and speaks frames on standard input and output.
A program can do nothing to it that gains the program anything: what is expected of a program is never in here.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from reasonrl.rewards.sandbox import landlock, programs, seccomp, setup
from reasonrl.rewards.sandbox.watch import Clock, size_of, sweep, usage
from reasonrl.rewards.sandbox.wire import HEADER, frame

_MOST_POLL = 0.03
_NOTE_BYTES = 500
_LIBRARY = os.path.dirname(os.__file__)


def main() -> None:
    """Enter the sandbox and serve; never returns. The first frame tells how (`host._configuration`)."""
    setup.die_with_parent()
    setup.adopt_orphans()
    config = programs.receive(0)
    if os.getppid() != config["parent"]:
        os._exit(1)
    done = (
        setup.enter_namespaces() if config["isolate"] else dict.fromkeys(("user", "pids", "network", "mounts"), False)
    )
    child = os.fork()
    if child == 0:
        try:
            _Server(config, done).serve()
        except BaseException as problem:  # the process ends here: the pool must hear why
            programs.send(1, {"fault": f"{type(problem).__name__}: {problem}"})
        os._exit(1)
    for descriptor in (0, 1):  # the channel must end with the child
        os.close(descriptor)
    os.waitpid(child, 0)
    sweep(os.getpid(), whole=False)
    os._exit(0)


class _Server:
    """The process that forks for every program.

    Attributes:
        isolation: what was left of the host, and whether system calls are filtered.
        alone: no process but ours can be signalled from here.
    """

    def __init__(self, config: dict[str, Any], done: dict[str, bool]) -> None:
        self.limits = config["limits"]
        self.show = config["show"]
        self.code = ""
        self.tests = False
        self.child = 0
        self.channel: socket.socket | None = None
        self.stderr = -1
        self.isolation = done
        self.work = setup.WORK if done["mounts"] else config["folder"]
        os.setsid()
        setup.adopt_orphans()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        self.has_proc = (
            setup.build_root(config["folder"], self.show, self.limits["work_mb"]) if done["mounts"] else True
        )
        number = 50_000 + config["number"] % 10_000
        own_user = number if os.geteuid() == 0 and setup.user_exists(number) else None
        self.alone = done["pids"] or own_user is not None
        self.isolation["user"] = self.alone
        hidden = own_user is not None and not done["mounts"] and not setup.can_live_as(own_user, _LIBRARY)
        if own_user is not None and not done["mounts"]:
            os.chown(config["folder"], own_user, own_user)
        setup.drop_privileges(own_user, read_all=hidden)
        setup.die_with_parent()  # again: a change of user clears it
        setup.set_dumpable(False)
        os.chdir(self.work)
        sys.path[:] = config["path"]
        sys.argv[:] = ["program"]

    def serve(self) -> None:
        """Answer requests until the host is gone."""
        programs.send(1, {"isolation": self._with_filter()})
        gc.collect()
        gc.freeze()  # a child's collections shall not touch, and so copy, what it shares with us
        operations: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "load": self._load,
            "script": self._script,
            "ask": self._ask,
        }
        while True:
            request = programs.receive(0)
            programs.send(1, operations[request["do"]](request))

    def _with_filter(self) -> dict[str, bool]:
        """What is in force, once a child has tried the filter."""
        seccomp.prepare_filter(allow_network=self.isolation["network"], allow_signals=self.isolation["pids"])
        self.isolation["calls"] = _tried(self._filter)
        self.isolation["files"] = self.isolation["mounts"] or _tried(self._fence)
        self.isolation["no_sockets"] = self.isolation["network"] or self.isolation["calls"]
        return self.isolation

    def _filter(self) -> bool:
        return seccomp.install_filter(allow_network=self.isolation["network"], allow_signals=self.isolation["pids"])

    def _fence(self) -> bool:
        """Files by Landlock, where there is no root of our own."""
        readable = [*setup.SYSTEM, *setup.SYSTEM_FILES, *self.show, "/proc/self", "/proc/cpuinfo", "/proc/meminfo"]
        return landlock.restrict_files(readable, [f"/dev/{name}" for name in setup.DEVICES], self.work)

    def _load(self, request: dict[str, Any]) -> dict[str, Any]:
        self._end_child()
        self.code, self.tests = request["code"], request["tests"]
        return {"status": "ok"}

    # --- whole programs

    def _script(self, request: dict[str, Any]) -> dict[str, Any]:
        """One run between standard input and output, both files in memory."""
        given, out, err = os.memfd_create("in"), os.memfd_create("out"), os.memfd_create("err")
        try:
            with open(given, "wb", closefd=False) as file:
                file.write(request["input"].encode("utf-8", "surrogateescape"))
            os.lseek(given, 0, os.SEEK_SET)
            child = self._fork(lambda: programs.run_script(self.code), given, out, err, ())
            status, seconds = self._watch(child)
            size = os.fstat(out).st_size
            if size > self.limits["output_bytes"]:
                status = "output_limit"
            output = os.pread(out, min(size, self.limits["output_bytes"]), 0).decode("utf-8", "replace")
            return {"status": status, "output": output, "note": _tail(err), "seconds": seconds}
        finally:
            for descriptor in (given, out, err):
                os.close(descriptor)

    def _watch(self, child: int) -> tuple[str, float]:
        """Wait for a child within its limits, then end everything it left behind."""
        clock = Clock(child, self.limits["seconds"], self.has_proc)
        try:
            exits = os.pidfd_open(child)
        except OSError:
            exits = -1
        wait, status = 0.001, ""
        while not status:
            if exits >= 0:
                select.select([exits], [], [], wait)
            else:
                time.sleep(wait)
            wait = min(wait * 1.5, _MOST_POLL)
            ended, code, used = os.wait4(child, os.WNOHANG)
            if ended:
                status = _status_of(os.waitstatus_to_exitcode(code))
                clock.used = used.ru_utime + used.ru_stime
                if clock.used > self.limits["seconds"]:
                    status = "timeout"
            else:
                status = clock.over() or self._too_big(clock)
        if exits >= 0:
            os.close(exits)
        self._sweep()
        return status, round(clock.used, 4)

    # --- functions

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request to the loaded program or tests; a program that has died is loaded anew."""
        if not self.child:
            begun = self._begin()
            if "ready" not in begun:
                return begun
        return self._converse(request["request"])

    def _begin(self) -> dict[str, Any]:
        ours, theirs = socket.socketpair()
        self.stderr = os.memfd_create("err")
        nothing = os.open("/dev/null", os.O_RDWR)
        serve = programs.serve_tests if self.tests else programs.serve_calls
        self.child = self._fork(
            lambda: serve(self.code, theirs.fileno()), nothing, nothing, self.stderr, (theirs.fileno(),)
        )
        theirs.close()
        os.close(nothing)
        self.channel = ours
        return self._converse(None)

    def _converse(self, request: dict[str, Any] | None) -> dict[str, Any]:
        """Hand a request on and wait for the reply; what tests ask of the program goes to the host and back."""
        assert self.channel is not None
        clock = Clock(self.child, self.limits["seconds"], self.has_proc)
        try:
            if request is not None:
                self.channel.settimeout(self.limits["seconds"])
                self.channel.sendall(frame(request))
            while True:
                reply = self._receive(clock)
                if "ask" not in reply:
                    return {**reply, "seconds": round(clock.used, 4)}
                programs.send(1, reply)
                answer = programs.receive(0)
                clock.restart()
                self.channel.settimeout(self.limits["seconds"])
                self.channel.sendall(frame(answer))
        except _Over as problem:
            return self._dead(str(problem), "", clock)
        except TimeoutError:
            return self._dead("timeout", "", clock)
        except (EOFError, OSError, ValueError, RecursionError, MemoryError) as problem:
            return self._dead("crash", str(problem), clock)

    def _receive(self, clock: Clock) -> dict[str, Any]:
        data, size, wait = b"", HEADER.size, 0.001
        assert self.channel is not None
        parts: list[bytes] = []
        header = True
        have = 0
        while True:
            if have >= size:
                data = b"".join(parts)
                if not header:
                    message: dict[str, Any] = json.loads(data)
                    clock.over()
                    return message
                (size,), header, parts, have = HEADER.unpack(data), False, [], 0
                # As JSON grows many times over when it is read, a value may be smaller than what is printed.
                if size > self.limits["output_bytes"] // 4:
                    raise _Over("output_limit")
            if select.select([self.channel], [], [], wait)[0]:
                part = self.channel.recv(min(size - have, 1 << 20))
                if not part:
                    raise EOFError("the program ended in the middle of a call")
                parts.append(part)
                have += len(part)
                continue
            wait = min(wait * 1.5, _MOST_POLL)
            over = clock.over() or self._too_big(clock)
            if over:
                raise _Over(over)

    def _dead(self, status: str, note: str, clock: Clock) -> dict[str, Any]:
        note = note or _tail(self.stderr)
        clock.over()
        self._end_child()
        return {"status": status, "note": note, "seconds": round(clock.used, 4)}

    def _end_child(self) -> None:
        if self.child:
            self._sweep()
            self.child = 0
            if self.channel is not None:
                self.channel.close()
            os.close(self.stderr)

    # --- both

    def _fork(self, run: Callable[[], None], given: int, out: int, err: int, keep: tuple[int, ...]) -> int:
        """A child with only these descriptors, under the limits and the filter."""
        child = os.fork()
        if child:
            return child
        try:
            self._become_program(given, out, err, keep)
            run()
        except BaseException as problem:  # in the forked child: nothing may return into the server's loop
            with contextlib.suppress(BaseException):
                os.write(2, f"{type(problem).__name__}: {problem}".encode())
        os._exit(1)

    def _become_program(self, given: int, out: int, err: int, keep: tuple[int, ...]) -> None:
        os.setsid()
        for old, new in ((given, 0), (out, 1), (err, 2)):
            os.dup2(old, new)
        last = 3
        for descriptor in sorted(keep):
            os.closerange(last, descriptor)
            last = descriptor + 1
        os.closerange(last, 1 << 16)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        streams = [
            os.fdopen(number, mode, encoding="utf-8", errors=errors, closefd=False)
            for number, mode, errors in ((0, "r", "surrogateescape"), (1, "w", "surrogateescape"), (2, "w", "replace"))
        ]
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        sys.set_int_max_str_digits(0)
        # A served program lives through many calls, whose time the server watches; this is the last resort.
        setup.limit_resources(self.limits, int(self.limits["seconds"] * (50 if keep else 1)) + 2)
        setup.set_dumpable(True)
        if self.isolation["files"] and not self.isolation["mounts"] and not self._fence():
            os._exit(1)
        if self.isolation["calls"] and not self._filter():
            os._exit(1)
        for name in [name for name in sys.modules if name.split(".")[0] == "reasonrl"]:
            del sys.modules[name]

    def _too_big(self, clock: Clock) -> str:
        """`memory_limit` when all processes together hold more than twice what one may, `timeout` when together they
        used the time of one, `output_limit` when their files on the host's disk are too big (in a root of its own that
        space is bounded); looked at now and then.
        """
        if not clock.due():
            return ""
        if not self.isolation["mounts"] and size_of(self.work) > self.limits["work_mb"] << 20:
            return "output_limit"
        if self.alone and self.has_proc:
            memory, seconds = usage(all_users=self.isolation["pids"])
            if memory > self.limits["memory_mb"] << 21:
                return "memory_limit"
            # Processes that ended count no more, so this is late at worst, never early.
            return "timeout" if seconds - clock.before > self.limits["seconds"] else ""
        return ""

    def _sweep(self) -> None:
        """End every process but this one, and empty the folder the programs work in."""
        sweep(os.getpid(), whole=self.alone)
        with contextlib.suppress(OSError):
            os.makedirs(self.work, exist_ok=True)
            os.chdir(self.work)
        for entry in list(os.scandir(self.work)):
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):  # however deep it goes
                    os.spawnv(os.P_WAIT, "/bin/rm", ["rm", "-rf", "--", entry.path])
                else:
                    os.unlink(entry.path)


def _tried(restrict: Callable[[], bool]) -> bool:
    """Whether a restriction can be put in force, found out in a child."""
    child = os.fork()
    if child == 0:
        held = False
        with contextlib.suppress(OSError):
            held = restrict()
        os._exit(0 if held else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class _Over(Exception):
    """A limit was passed; its text is the status."""


def _status_of(code: int) -> str:
    if code == 0:
        return "ok"
    if code == programs.COMPILE_ERROR:
        return "compile_error"
    if code == programs.MEMORY_ERROR:
        return "memory_limit"
    if code == -signal.SIGXCPU:
        return "timeout"
    return "crash" if code < 0 else "runtime_error"


def _tail(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    start = max(size - _NOTE_BYTES, 0)
    return os.pread(descriptor, size - start, start).decode("utf-8", "replace").strip()
