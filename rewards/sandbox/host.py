"""Our side of a sandbox: start it, hand it programs and inputs, never wait without end, and clear up after it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import select
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from reasonrl.errors import RewardError
from reasonrl.rewards.sandbox.wire import HEADER, frame

_STARTS = itertools.count()
_FOLDER = Path(__file__).resolve().parent
# The packages themselves stay unimported inside: only the files of this folder are needed there.
_BOOTSTRAP = f"""
import sys, types
for name, folder in (("reasonrl", None), ("reasonrl.rewards", None), ("reasonrl.rewards.sandbox", {str(_FOLDER)!r})):
    module = types.ModuleType(name)
    module.__path__ = [folder] if folder else []
    sys.modules[name] = module
from reasonrl.rewards.sandbox.serve import main
main()
"""
_START_SECONDS = 30.0
_SLACK_SECONDS = 20.0


@dataclass(frozen=True)
class Limits:
    """What one program may use.

    Attributes:
        seconds: processor time of one test, and likewise the time it may wait without running.
        memory_mb: address space of one process, MiB.
        output_bytes: what one test may print, and the size of any file.
        work_mb: all files it writes, MiB.
        processes: processes and threads at a time.
        open_files: descriptors of one process.
    """

    seconds: float = 6.0
    memory_mb: int = 1024
    output_bytes: int = 8 << 20
    work_mb: int = 64
    processes: int = 32
    open_files: int = 128


@dataclass(frozen=True)
class Isolation:
    """What keeps a program away from the host, besides its limits.

    Attributes:
        user: it has no privileges over the host's other users' things.
        pids: it sees and signals no process but its own.
        network: it has no network.
        mounts: it has a root of its own, read-only, and writes to memory only.
        files: it sees system files and Python only, and writes to a folder of its own (`mounts`, or by Landlock).
        calls: dangerous system calls are refused.
        no_sockets: it can open no socket that leads anywhere (`network`, or by refused calls).
    """

    user: bool = False
    pids: bool = False
    network: bool = False
    mounts: bool = False
    files: bool = False
    calls: bool = False
    no_sockets: bool = False

    @property
    def whole(self) -> bool:
        """Whether the kernel's namespaces hold it altogether."""
        return self.user and self.pids and self.network and self.mounts

    def __str__(self) -> str:
        if self.whole:
            return "namespaces"
        held = [name for name, there in asdict(self).items() if there]
        return "limits only" + (f" with {', '.join(held)}" if held else "")


@dataclass(frozen=True)
class Outcome:
    """What came of one request.

    Attributes:
        status: `ok`, `compile_error`, `runtime_error`, `timeout`, `memory_limit`, `output_limit`, `crash` (ended by a
            signal, or gone).
        output: what a whole program printed.
        reply: the reply of a function or of tests, as JSON (`wire`).
        note: the end of its error output, or what it raised.
        seconds: processor time.
    """

    status: str
    output: str = ""
    reply: Mapping[str, Any] | None = None
    note: str = ""
    seconds: float = 0.0


class Sandbox:
    """One locked-down process tree for one program, used by one thread at a time; a context manager.

    Args:
        limits: what the program may use.
        isolate: False leaves the namespaces out (for machines without them, and for tests of that).
        python: the interpreter; ours if None.

    Raises:
        RewardError: it could not be started.
    """

    def __init__(self, limits: Limits = Limits(), isolate: bool = True, python: str | None = None) -> None:
        self.limits = limits
        self.folder = tempfile.mkdtemp(prefix="reasonrl-sandbox-")
        os.chmod(self.folder, 0o700)
        command = [python or sys.executable, "-s", "-S", "-P", "-c", _BOOTSTRAP]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(self.folder, isolate),
            cwd="/",
            start_new_session=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._in, self._out = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        try:
            hello = self._exchange(_configuration(limits, isolate, self.folder), _START_SECONDS)
            if "isolation" not in hello:
                raise EOFError(str(hello.get("fault", hello)))
            self.isolation = Isolation(**hello["isolation"])
            if self.isolation.mounts:  # it served as a place to mount on; a kill from now on leaves nothing behind
                os.rmdir(self.folder)
        except (EOFError, OSError, ValueError, TypeError) as problem:
            self.close()
            raise RewardError(f"the sandbox for programs could not be started: {problem}") from problem

    def load(self, code: str, tests: bool = False) -> None:
        """Take a program (`tests`: definitions of tests) for the requests that follow."""
        self._request({"do": "load", "code": code, "tests": tests})

    def script(self, text: str) -> Outcome:
        """Run the loaded program with `text` as standard input; every run starts anew."""
        reply = self._request({"do": "script", "input": text})
        return Outcome(reply["status"], reply.get("output", ""), None, reply.get("note", ""), reply.get("seconds", 0.0))

    def ask(
        self, request: Mapping[str, Any], relay: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    ) -> Outcome:
        """One request to the loaded functions or tests; they stay loaded from one to the next until they die.

        Args:
            request: `{"name", "args"}`, `{"get": name}`, or `{"code"}` of a test.
            relay: answers what tests ask of the program.
        """
        reply = self._request({"do": "ask", "request": dict(request)}, relay)
        note, seconds = str(reply.get("note", "")), float(reply.get("seconds", 0.0))
        if "status" in reply:
            return Outcome(reply["status"], "", None, note, seconds)
        if "raised" in reply and "passed" not in reply:
            kinds = {"CompileError": "compile_error", "MemoryError": "memory_limit"}
            return Outcome(kinds.get(reply["raised"], "runtime_error"), "", reply, note, seconds)
        return Outcome("ok", "", reply, note, seconds)

    def close(self) -> None:
        """End everything in it and remove its files; may be called again."""
        if self.process.returncode is None:
            self.process.stdin.close()  # type: ignore[union-attr]
            if not self.isolation_known:
                self.process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1.0)
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()  # type: ignore[union-attr]
        _remove(self.folder)

    @property
    def isolation_known(self) -> bool:
        """Whether it got as far as serving."""
        return hasattr(self, "isolation")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def _request(
        self, message: Mapping[str, Any], relay: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    ) -> dict[str, Any]:
        """A reply, whatever happens: a sandbox that is gone or does not answer is a crash or a timeout."""
        seconds = self.limits.seconds * 11 + _SLACK_SECONDS
        try:
            reply = self._exchange(message, seconds)
            while "ask" in reply and relay is not None:
                reply = self._exchange(relay(reply["ask"]), seconds)
        except TimeoutError:
            self.close()
            return {"status": "timeout", "note": "the sandbox did not answer"}
        except (EOFError, OSError, ValueError, RecursionError) as problem:
            self.close()
            return {"status": "crash", "note": f"the sandbox is gone: {problem}"}
        return reply

    def _exchange(self, message: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        rest = memoryview(frame(message))
        if self.process.returncode is not None:
            raise EOFError("it was closed")
        while rest:
            self._wait(self._in, select.POLLOUT, deadline)
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(self._in, rest) :]
        (size,) = HEADER.unpack(self._read(HEADER.size, deadline))
        if size > 8 * self.limits.output_bytes + (1 << 20):
            raise ValueError(f"a reply of {size} bytes")
        reply = json.loads(self._read(size, deadline))
        if not isinstance(reply, dict):
            raise ValueError("a reply that is no mapping")
        return reply

    def _read(self, size: int, deadline: float) -> bytes:
        parts = []
        while size:
            self._wait(self._out, select.POLLIN, deadline)
            part = os.read(self._out, min(size, 1 << 20))
            if not part:
                raise EOFError("it ended")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    @staticmethod
    def _wait(descriptor: int, event: int, deadline: float) -> None:
        poll = select.poll()  # select() fails for descriptors above 1023
        poll.register(descriptor, event)
        if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
            raise TimeoutError


@functools.cache
def isolation(warn: bool = True) -> Isolation:
    """What this machine's kernel lets a sandbox have; asked once. Warns where namespaces are not to be had."""
    try:
        with Sandbox() as sandbox:
            found, why = sandbox.isolation, ""
    except RewardError as problem:  # namespaces begun, but a mount refused, say
        with Sandbox(isolate=False) as sandbox:
            found, why = sandbox.isolation, f": {problem}"
    if warn and not found.whole:
        danger = "" if found.files else ", may read this user's files and write where this user may"
        warnings.warn(
            f"programs run without the kernel's namespaces here ({found}{why}): they see other processes{danger}"
            " -> allow unprivileged user namespaces, or set args.requires_isolation",
            RuntimeWarning,
            stacklevel=3,
        )
    return found


def _configuration(limits: Limits, isolate: bool, folder: str) -> dict[str, Any]:
    """The first frame: all that the inside has to know."""
    prefixes = sorted({os.path.realpath(prefix) for prefix in (sys.prefix, sys.base_prefix, sys.exec_prefix)})
    shown = [prefix for prefix in {*prefixes, sys.prefix, sys.base_prefix} if prefix not in ("/", "/usr")]
    inside = [
        path for path in sys.path if path and any(Path(path).is_relative_to(prefix) for prefix in [*shown, "/usr"])
    ]
    return {
        "limits": asdict(limits),
        "isolate": isolate,
        "folder": folder,
        "parent": os.getpid(),
        "number": os.getpid() * 64 + next(_STARTS),
        "show": sorted(shown),
        "path": inside,
    }


def _environment(folder: str, isolate: bool) -> dict[str, str]:
    """Nothing of ours but where shared libraries are; sets of text iterate alike in every run."""
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/sandbox" if isolate else folder,
        "TMPDIR": "/sandbox" if isolate else folder,
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    libraries = os.environ.get("LD_LIBRARY_PATH")
    return {**environment, "LD_LIBRARY_PATH": libraries} if libraries else environment


def _remove(folder: str) -> None:
    """Remove what a program left on the disk, closed folders and thousands of nested ones too."""
    for command in (["rm", "-rf"], ["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        if os.path.exists(folder):
            subprocess.run([*command, folder], check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
