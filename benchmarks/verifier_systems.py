"""The verifiers that `verifier.py` compares, each in a process of its own, as its users would run it.

A process grades in its main thread with the system's own time limits on, tells the CPU and wall seconds of every pair,
and is killed when a pair has taken 30 s: then the pair counts as not graded, and a new process goes on behind it.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

PATIENCE = 30.0
MEMORY = 6 << 30


@dataclass(frozen=True)
class Outcome:
    """What a system made of one pair: whether it called it equal, and what that cost."""

    equal: bool
    cpu: float
    wall: float
    status: str = ""
    reason: str = ""


def boxed(row: dict[str, Any]) -> tuple[str, str]:
    """Gold and answer as the other systems want them: bare golds and short answers wrapped in a box."""
    gold, pred = row["gold"], row["pred"]
    if "$" not in gold and "boxed" not in gold:
        gold = rf"\boxed{{{gold}}}"
    if row.get("kind") == "short" and "$" not in pred and "boxed" not in pred:
        pred = rf"\boxed{{{pred}}}"
    return gold, pred


def _ours() -> Callable[[dict[str, Any]], tuple[bool, str, str]]:
    from reasonrl.rewards.math import verify

    def grade(row: dict[str, Any]) -> tuple[bool, str, str]:
        verdict = verify(row["gold"], row["pred"], row.get("policy", "default"))
        return verdict.correct, verdict.status, verdict.reason

    return grade


def _math_verify() -> Callable[[dict[str, Any]], tuple[bool, str, str]]:
    from math_verify import parse, verify

    def grade(row: dict[str, Any]) -> tuple[bool, str, str]:
        gold, pred = boxed(row)
        return bool(verify(parse(gold), parse(pred))), "", ""

    return grade


def _trl() -> Callable[[dict[str, Any]], tuple[bool, str, str]]:
    from trl.rewards import accuracy_reward

    def grade(row: dict[str, Any]) -> tuple[bool, str, str]:
        gold, pred = boxed(row)
        return accuracy_reward([[{"role": "assistant", "content": pred}]], [gold])[0] == 1.0, "", ""

    return grade


SYSTEMS = {"ours": _ours, "math-verify": _math_verify, "TRL": _trl}


def serve(name: str) -> None:
    """The process: rows as JSON lines in, outcomes out."""
    import logging
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no reply
    grade = SYSTEMS[name]()
    logging.disable(logging.ERROR)
    grade({"gold": "x^2+1", "pred": "1+x^2", "kind": "short"})
    print("[]", file=replies)
    for line in sys.stdin:
        row = json.loads(line)
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            equal, status, reason = grade(row)
        except Exception as error:
            equal, status, reason = False, "raised", f"{type(error).__name__}: {error}"[:200]
        spent = [time.process_time() - cpu, time.perf_counter() - wall]
        print(json.dumps([equal, *spent, status, reason]), file=replies)


class System:
    """One verifier in its process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.hung = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._buffer = b""

    def grade(self, rows: list[dict[str, Any]]) -> list[Outcome]:
        """The outcomes of some rows, one after another."""
        outcomes = []
        for row in rows:
            if self._process is None:
                self._start()
            assert self._process is not None and self._process.stdin is not None
            began = time.perf_counter()
            reply = None
            try:
                self._process.stdin.write(json.dumps(row).encode() + b"\n")
                self._process.stdin.flush()
                reply = self._reply(PATIENCE)
            except BrokenPipeError:
                pass
            if reply is None:
                self.hung += 1
                self.close()
                seconds = time.perf_counter() - began
                outcomes.append(Outcome(False, seconds, seconds, "hung" if seconds >= PATIENCE else "died"))
            else:
                outcomes.append(Outcome(*json.loads(reply)))
        return outcomes

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> None:
        command = [sys.executable, __file__, self.name]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
        )
        self._buffer = b""
        if self._reply(300) is None:
            raise SystemExit(f"the process of {self.name} did not start: try `{' '.join(command)}`")

    def _reply(self, patience: float) -> bytes | None:
        assert self._process is not None and self._process.stdout is not None
        end = time.monotonic() + patience
        while b"\n" not in self._buffer:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


if __name__ == "__main__":
    serve(sys.argv[1])
