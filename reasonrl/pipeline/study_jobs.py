"""Several runs of a study at once, each in a process of its own; a stage that several need is still made once."""

from __future__ import annotations

import os
import pickle
import re
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import IO, cast

from reasonrl.errors import StageFailed
from reasonrl.pipeline.node import kill_family
from reasonrl.pipeline.runner import RunSummary, Say
from reasonrl.pipeline.signals import StopFlag, stop_on_signals
from reasonrl.pipeline.stages import stage_kind
from reasonrl.pipeline.study_plan import PlannedRun
from reasonrl.pipeline.study_shares import environments
from reasonrl.pipeline.study_worker import Answer, Order, carry_out, send_order

POLL = 0.2
_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass
class _Child:
    """A run's process: what it has said, what it has answered, and the place it holds."""

    run: PlannedRun
    process: subprocess.Popen[bytes]
    place: int
    answers: IO[bytes]
    said: bytes = b""
    answered: bytes = b""
    open: dict[int, str] = field(default_factory=dict)

    def ask_to_stop(self, signal_number: int | None) -> None:
        """Let it save and stop; nothing if it is gone already."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(bytes([signal_number or 0]))
            self.process.stdin.flush()
        except OSError:
            return

    def answer(self) -> Answer:
        """What the process answered, or what its end without an answer means."""
        if self.answered:
            try:
                return cast(Answer, pickle.loads(self.answered))
            except (pickle.UnpicklingError, EOFError):
                pass
        status = self.process.returncode
        if status in (-signal.SIGTERM, -signal.SIGINT):
            return Answer(error="stopped before it began", exit_status=128 - status, stopped=True)
        if status < 0:
            why = f"its process was killed by {signal.Signals(-status).name}"
            hint = " -> if nobody did that, memory ran out: fewer --jobs need less" if status == -signal.SIGKILL else ""
            return Answer(error=why + hint, exit_status=1)
        return Answer(error=f"its process ended with status {status}; its last lines stand above", exit_status=1)


def run_side_by_side(
    planned: Sequence[PlannedRun],
    jobs: int,
    *,
    study: str,
    restart_stages: Sequence[str],
    say: Say,
    command: str,
) -> dict[tuple[str, int], RunSummary]:
    """Run up to `jobs` runs at a time, in the order of the list among those whose shared stages are done.

    Args:
        planned: all runs of the study, from `plan_study`.
        jobs: above 0.
        study: its name.
        restart_stages, say, command: as for `train`. A run's lines are led by its name.

    Raises StageFailed naming the run that failed, once the others have saved and stopped; Interrupted if all were asked
    to stop; RunError if so many runs cannot go side by side.
    """
    places = environments(planned, jobs, lambda line: say(f"study {study}: {line}"))
    pool = _Pool(planned, places, study, tuple(restart_stages), say, command)
    with stop_on_signals(pool.stop, say, pool.kill):
        try:
            return pool.work()
        finally:
            pool.kill()
            pool.selector.close()


class _Pool:
    """The runs of a study that wait, are at work, and are done."""

    def __init__(
        self,
        planned: Sequence[PlannedRun],
        places: Sequence[Mapping[str, str]],
        study: str,
        restart_stages: tuple[str, ...],
        say: Say,
        command: str,
    ) -> None:
        self.planned = planned
        self.waiting = list(planned)
        self.places = places
        self.study = study
        self.restart_stages = restart_stages
        self.say = say
        self.command = command
        self.stop = StopFlag()
        self.children: list[_Child] = []
        self.done: dict[str, RunSummary] = {}
        self.failed: tuple[PlannedRun, Answer] | None = None
        self.stopping = False
        self.told: set[str] = set()
        self.selector = selectors.DefaultSelector()

    def work(self) -> dict[tuple[str, int], RunSummary]:
        looked = 0.0
        while self.children or (self.waiting and not self.stopping):
            if time.monotonic() - looked > POLL and not self.stopping:
                self._start_ready()
                looked = time.monotonic()
            self._listen()
            self._reap()
            if self.stop.is_set() and not self.stopping:
                self._stop_all(self.stop.signal_number)
        if self.failed is not None:
            run, answer = self.failed
            failure = StageFailed(f"run {run.name} of study {self.study!r} failed: {answer.error}")
            failure.exit_status = answer.exit_status
            raise failure
        if len(self.done) < len(self.planned):
            raise self.stop.interrupted(
                f"study {self.study!r} with {len(self.done)} of {len(self.planned)} runs done", self.command
            )
        return {(run.arm, run.seed): self.done[run.name] for run in self.planned}

    def kill(self) -> None:
        """Kill all that is still at work at once."""
        for child in list(self.children):
            kill_family(child.process.pid)
            child.process.wait(timeout=30)

    def _say_of(self, run: PlannedRun, line: str) -> None:
        self.say(f"{run.name} | {line}")

    def _start_ready(self) -> None:
        for run in list(self.waiting):
            taken = {child.place for child in self.children}
            free = [place for place in range(len(self.places)) if place not in taken]
            if not free or self.stopping or self.stop.is_set():
                return
            if not self._is_ready(run):
                continue
            self.waiting.remove(run)
            number = self.planned.index(run) + 1
            self.say(f"study {self.study}, run {number} of {len(self.planned)}: arm {run.arm}, seed {run.seed}")
            if run.is_done:
                answer = carry_out(self._order(run), self.stop, partial(self._say_of, run))
                self._conclude(run, answer)  # nothing is left to do in it, which needs no process
            else:
                self._start(run, free[0])

    def _is_ready(self, run: PlannedRun) -> bool:
        """Whether all stages that the run shares are there; says once what it waits for."""
        if not self.children and run is self.waiting[0]:
            return True  # all before it are done
        for need in run.needs:
            owner = need.folder.parent.parent.name
            if owner not in self.done and not need.is_met():
                if run.name not in self.told:
                    self.told.add(run.name)
                    self._say_of(run, f"waits for stage {need.stage!r}, which {owner} makes")
                return False
        return True

    def _order(self, run: PlannedRun) -> Order:
        return Order(
            run.resolved,
            run.directory,
            self.restart_stages,
            {need.stage: need.folder for need in run.needs},
            self.command,
            tuple(sys.argv),
            {kind: stage_kind(kind) for kind in {stage.kind for stage in run.stages}},
        )

    def _start(self, run: PlannedRun, place: int) -> None:
        read, write = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", "reasonrl.pipeline.study_worker", str(write)],
            env=self.places[place],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(write,),
            start_new_session=True,  # Ctrl-C in the terminal is for the study's process, which then asks the others
        )
        os.close(write)
        child = _Child(run, process, place, os.fdopen(read, "rb"))
        self.children.append(child)
        assert process.stdin is not None and process.stdout is not None
        for stream, what in ((process.stdout, "said"), (child.answers, "answered")):
            os.set_blocking(stream.fileno(), False)
            child.open[stream.fileno()] = what
            self.selector.register(stream.fileno(), selectors.EVENT_READ, child)
        try:
            send_order(process.stdin, self._order(run))
        except OSError:
            return  # it is gone: `_reap` finds out why

    def _listen(self) -> None:
        for key, _ in self.selector.select(POLL):
            self._read(cast(_Child, key.data), key.fd)

    def _read(self, child: _Child, handle: int) -> bool:
        """Take in what is there; gives whether there may be more."""
        try:
            part = os.read(handle, 1 << 16)
        except BlockingIOError:
            return False
        if not part:
            self._close(child, handle)
            return False
        if child.open[handle] == "answered":
            child.answered += part
            return True
        *lines, child.said = _LINE_END.split(child.said + part)
        for line in lines:
            self._relay(child, line)
        return True

    def _relay(self, child: _Child, line: bytes) -> None:
        if line.strip():
            self._say_of(child.run, line.decode(errors="replace"))

    def _close(self, child: _Child, handle: int) -> None:
        self.selector.unregister(handle)
        del child.open[handle]

    def _reap(self) -> None:
        for child in [child for child in self.children if child.process.poll() is not None]:
            for handle in list(child.open):
                while handle in child.open and self._read(child, handle):
                    pass
                if handle in child.open:  # a process that it started holds it still
                    self._close(child, handle)
            self._relay(child, child.said)
            for stream in (child.process.stdin, child.process.stdout, child.answers):
                _close_quietly(stream)
            self.children.remove(child)
            self._conclude(child.run, child.answer())

    def _conclude(self, run: PlannedRun, answer: Answer) -> None:
        if answer.summary is not None:
            self.done[run.name] = answer.summary
            return
        if answer.stopped:
            self._say_of(run, answer.error.partition(" -> ")[0])
            if not self.stopping:  # it was asked by somebody else, who means the study: it cannot be finished
                self.stop.set(answer.exit_status - 128)
            return
        self._say_of(run, f"failed: {answer.error.splitlines()[0]}")
        if self.failed is None:
            self.failed = run, answer
        if self.children and not self.stopping:
            names = ", ".join(child.run.name for child in self.children)
            self.say(f"study {self.study}: {run.name} failed; {names} will save and stop at the next safe point")
        self._stop_all(None)

    def _stop_all(self, signal_number: int | None) -> None:
        self.stopping = True
        for child in self.children:
            child.ask_to_stop(signal_number)


def _close_quietly(stream: IO[bytes] | None) -> None:
    try:
        if stream is not None:
            stream.close()
    except OSError:
        return
