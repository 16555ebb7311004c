"""Graders for the pool's tests: what a response says is what the grader does."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import subprocess
import sys
import time
from typing import Any

from reasonrl.rewards.verdict import Verdict

STUCK_GOLD = "stuck gold"


def obey(gold: str, response: str, policy: str) -> Any:
    """`sleep 3`, `spin`, `pow`, `memory`, … do that; anything else is right if it is the gold."""
    started = time.perf_counter()
    if gold == STUCK_GOLD:
        time.sleep(60)
    word, _, argument = response.partition(" ")
    if word in _DEEDS:
        done = _DEEDS[word](argument)
        if done is not None:
            return done
    same = gold == response
    said = f"process {os.getpid()}, policy {policy}, at {time.time()!r}"
    return Verdict("correct" if same else "wrong", float(same), response, gold, said, time.perf_counter() - started)


def sleep_or_verify(gold: str, response: str, policy: str) -> Any:
    """The real grader, but for `sleep 3`."""
    from reasonrl.rewards.math import verify

    if response.startswith("sleep "):
        _sleep(response.removeprefix("sleep "))
    return verify(gold, response, policy)


def _sleep(argument: str) -> None:
    time.sleep(float(argument))


def _busy(argument: str) -> None:
    end = time.perf_counter() + float(argument)
    while time.perf_counter() < end:
        pass


def _work(argument: str) -> None:
    """So many seconds of CPU, however long they take."""
    end = time.process_time() + float(argument)
    while time.process_time() < end:
        pass


def _spin(argument: str) -> None:
    re.match(r"(a|a)*$", "a" * 60 + "b")  # in C, holding the interpreter


def _pow(argument: str) -> None:
    3 ** (10**9)  # likewise, deaf to signals


def _stop_ears(argument: str) -> None:
    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    while True:
        pass


def _fill(argument: str) -> None:
    """Holds so many MiB."""
    kept = []
    for _ in range(int(argument)):
        kept.append(bytearray(b"x" * (1 << 20)))


def _memory(argument: str) -> None:
    """Asks for so many MiB, and fills the first hundred."""
    kept = [b"x" * (100 << 20)]
    while len(kept) * 100 < int(argument):
        kept.append(bytes(100 << 20))


def _segfault(argument: str) -> None:
    ctypes.string_at(0)


def _exit(argument: str) -> None:
    os._exit(int(argument))


def _abort(argument: str) -> None:
    os.write(2, b"GNU MP: Cannot allocate memory\n")
    os.abort()


def _die_once(argument: str) -> None:
    """Crashes the first time, as an item does that inherits a broken process."""
    if not os.path.exists(argument):
        open(argument, "w").close()
        os._exit(9)


def _print(argument: str) -> None:
    print("noise on standard output" * 1000)
    os.write(1, b"\x00\xff\xff\xff noise of C code")
    os.write(2, b"noise on standard error\n" * 10_000)
    sys.stdin.read()


def _child(argument: str) -> None:
    """Leaves a process behind, which holds what it inherited, and hangs."""
    subprocess.Popen(["sleep", "60"], close_fds=False)
    time.sleep(60)


def _raise(argument: str) -> None:
    raise ValueError(f"no {argument}")


def _leave(argument: str) -> None:
    sys.exit(5)


def _recurse(argument: str) -> None:
    _recurse(argument)


_DEEDS = {
    "sleep": _sleep,
    "busy": _busy,
    "work": _work,
    "spin": _spin,
    "pow": _pow,
    "deaf": _stop_ears,
    "fill": _fill,
    "memory": _memory,
    "segfault": _segfault,
    "exit": _exit,
    "abort": _abort,
    "die_once": _die_once,
    "print": _print,
    "child": _child,
    "raise": _raise,
    "leave": _leave,
    "recurse": _recurse,
    "junk": lambda argument: "correct",
    "nonsense": lambda argument: Verdict("splendid", 1.0, None, "", "", 0.0),  # type: ignore[arg-type]
    "infinite": lambda argument: Verdict("correct", float("inf"), None, "", "", 0.0),
    "surroundings": lambda argument: Verdict("correct", 1.0, None, "", _surroundings(), 0.0),
}


def _surroundings() -> str:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    main = getattr(sys.modules["__main__"], "__file__", None)
    return repr((os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS"), limit, main, sys.path[0]))


def with_limit(gold: str, response: str, policy: str, limit: float = 0.0) -> Verdict:
    """Takes the pool's time limit."""
    return Verdict("correct", 1.0, None, gold, f"limit {limit}", 0.0)


def math_or_worse(gold: str, response: str, policy: str) -> Verdict:
    """The math verifier, but for texts that hang it or break it."""
    from reasonrl.rewards.math import verify

    if "HANG" in response:
        _spin("")
    if "BREAK" in response:
        _segfault("")
    return verify(gold, response, policy)
