"""A step's samples on their way: drawn in the step's own thread, or one step ahead in a thread of their own.

With `max_staleness` 1 the engine draws step k + 1 by the weights of version k while step k trains them. One thread at
most draws, the engine takes weights only when none does, and what went wrong in it is raised by the step that wants the
samples.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from reasonrl.errors import ModelError
from reasonrl.rollout.engine import Request, RolloutEngine, Sample, SamplingParams
from reasonrl.trainers.drawn_files import read_drawn, read_held, write_drawn

_MOMENT = 0.05


@dataclass(frozen=True)
class Order:
    """What to draw for one step: this rank's share.

    Attributes:
        step: the step the samples are for, counted from 0: the version of the weights it trains.
        rows: the dataset rows, one a sample.
        requests: one a row, their ids "0", "1", … in the order of the rows.
        params: how to draw.
    """

    step: int
    rows: Sequence[dict[str, Any]]
    requests: Sequence[Request]
    params: SamplingParams


Arrived = Callable[[Order, Sample], None]


@dataclass
class Drawn:
    """An order and what became of it: its samples in the order of the rows, or what went wrong.

    Attributes:
        seconds: wall time of a drawing in a thread of its own; None for any other.
        figures: what the engine said of itself when the last sample was in (`figures`, where it has that); None for
            samples out of a checkpoint.
    """

    order: Order
    samples: list[Sample] = field(default_factory=list)
    problem: BaseException | None = None
    seconds: float | None = None
    figures: dict[str, float] | None = None


class Drawing:
    """Draws the samples of steps through an engine.

    Args:
        engine: draws; for `start` one with weights of its own.
        max_staleness: steps that a sample's weights may be older than those of the step that trains on it.
        arrived: called with each sample the moment it ends, in the thread that draws: with `start` another one than
            that of the step, and while another step's samples are being trained on.
    """

    def __init__(self, engine: RolloutEngine, max_staleness: int, arrived: Arrived | None = None) -> None:
        self.engine, self.max_staleness, self.arrived = engine, max_staleness, arrived
        #: What the engine said of itself when the samples that were taken last had been drawn; see `Drawn`.
        self.figures: dict[str, float] | None = None
        self._ready: Drawn | None = None
        self._ahead: _Ahead | None = None

    def holds(self, step: int) -> bool:
        """Whether the samples of a step have been drawn, or are being drawn."""
        there = [self._ready, self._ahead.drawn if self._ahead is not None else None]
        return any(drawn is not None and drawn.order.step == step for drawn in there)

    def draw(self, order: Order) -> None:
        """Draw here and now; the engine must be free."""
        samples = in_order(self._stream(order, None), len(order.requests))
        self._ready = Drawn(order, samples, figures=_figures(self.engine))

    def start(self, order: Order) -> None:
        """Draw in a thread of its own, from now on; the engine must be free."""
        if self._ahead is not None:
            raise RuntimeError(f"step {self._ahead.drawn.order.step} is still being drawn -> wait() for it")
        self._ahead = _Ahead(order, self._stream, self.engine)
        self._ahead.start()

    def ahead(self, order: Callable[..., Order], step: int, steps: int, rows: Sequence[dict[str, Any]]) -> None:
        """See that a step has its samples, and start on those of the next one if there is one; the engine must be free.

        Args:
            order: what to draw for a step, and for these rows if they are known.
            step, steps: the step, counted from 0, and how many there are.
            rows: of this step.
        """
        if not self.holds(step):
            self.draw(order(step, rows))
        if step + 1 < steps:
            self.start(order(step + 1))

    def wait(self) -> None:
        """Until nothing is being drawn: the engine may take weights, or draw something else.

        Raises:
            Exception: what ended the drawing before its time.
        """
        self.settle()
        if self._ready is not None and self._ready.problem is not None:
            raise self._ready.problem

    def settle(self) -> None:
        """`wait`, but leave what went wrong to whoever wants the samples."""
        if self._ahead is not None:
            self._ahead.join()
            self._ready, self._ahead = self._ahead.drawn, None

    def take(self, step: int, rows: Sequence[dict[str, Any]]) -> Drawn:
        """The samples of a step, once.

        Raises:
            ModelError: they were drawn for other rows, or by weights that are too old or from the future.
            Exception: what ended their drawing before its time.
        """
        drawn, self._ready = self._ready, None
        assert drawn is not None and drawn.order.step == step
        if drawn.problem is not None:
            raise drawn.problem
        wanted, there = ([str(row["id"]) for row in given] for given in (rows, drawn.order.rows))
        if wanted != there:
            raise ModelError(
                f"rollout: the samples of step {step + 1} were drawn ahead for the rows {there[:3]}…, but the step is"
                f" given {wanted[:3]}… -> the order of the data must not change during a run"
            )
        for sample in drawn.samples:
            age = step - sample.weight_version
            if not 0 <= age <= self.max_staleness:
                raise ModelError(
                    f"rollout: sample {sample.request.id} of step {step + 1} was drawn by weights of version"
                    f" {sample.weight_version}, {age} steps older than the step's version {step}; allowed are 0 to"
                    f" max_staleness = {self.max_staleness} -> the engine does not report or did not take its weights"
                )
        self.figures = drawn.figures
        return drawn

    def save(self, folder: Path, rank: int, ranks: int, *, stopping: bool = False) -> None:
        """Write the samples of the coming step into a checkpoint, when they have all arrived.

        If their drawing failed the checkpoint says that there are none: whoever resumes from it draws them anew, by
        the checkpoint's own weights.

        Args:
            folder: the checkpoint.
            rank, ranks: this process, and how many there are.
            stopping: end the drawing now instead of waiting for it. The checkpoint then says for which step samples
                are missing; with `drawn_files.write_held` after it, a resumed run draws the same ones.
        """
        ended = self.end_early() if stopping else None
        self.settle()
        drawn = self._ready
        whole = drawn is not None and drawn.problem is None
        step = drawn.order.step if drawn and whole else None
        write_drawn(folder, rank, ranks, step, drawn.samples if drawn and whole else [], ended)

    def end_early(self) -> int | None:
        """End what is being drawn now and forget its samples: the step that they were for; None where all were in, or
        none are being drawn.
        """
        if self._ahead is None:
            return None
        ahead, self._ahead = self._ahead, None
        ahead.end(getattr(self.engine, "interrupt", None))
        if ahead.drawn.problem is not None:
            return ahead.drawn.order.step
        self._ready = ahead.drawn
        return None

    def restore(self, folder: Path, rank: int, ranks: int, order: Order) -> None:
        """Take the samples of a step from a checkpoint, if it holds any; they arrive as if they were drawn now. Where
        it holds the weights that were drawing them instead, they are drawn by those, now.

        Raises:
            ModelError: the checkpoint has no record of them, or they belong to another step or to other prompts.
        """
        samples = read_drawn(folder, rank, ranks, order.step, order.requests)
        if samples is None:
            held = read_held(folder, order.step)
            if held is not None and hasattr(self.engine, "held_weights"):
                # They are not the trainer's: nothing to compare them with.
                self.engine.sync_weights(held, order.step - self.max_staleness, compare=False)  # type: ignore[call-arg]
                self.draw(order)
            return
        self._ready = Drawn(order, samples)
        for sample in samples if self.arrived is not None else ():
            assert self.arrived is not None
            self.arrived(order, sample)

    def close(self) -> None:
        """End the thread and forget all samples."""
        self.end_early()
        self._ready = None

    def _stream(self, order: Order, stopping: threading.Event | None) -> Iterable[Sample]:
        stream = self.engine.stream(order.requests, order.params)
        try:
            for sample in stream:
                if stopping is not None and stopping.is_set():
                    return
                if self.arrived is not None:
                    self.arrived(order, sample)
                yield sample
        finally:
            # A reader that stops early ends the other samples: at once, not when the iterator is collected.
            getattr(stream, "close", lambda: None)()


class _Ahead(threading.Thread):
    """The thread that draws an order."""

    def __init__(
        self, order: Order, stream: Callable[[Order, threading.Event | None], Iterable[Sample]], engine: Any
    ) -> None:
        super().__init__(name=f"reasonrl-draw-{order.step}", daemon=True)
        self.drawn = Drawn(order)
        self.stopping = threading.Event()
        self._stream, self._engine = stream, engine
        # Which accelerator is meant without a number is a thread's own matter.
        self._device = torch.cuda.current_device() if torch.cuda.is_initialized() else None

    def run(self) -> None:
        started = time.perf_counter()
        order = self.drawn.order
        try:
            if self._device is not None:
                torch.cuda.set_device(self._device)
            self.drawn.samples = in_order(self._stream(order, self.stopping), len(order.requests))
            self.drawn.figures = _figures(self._engine)
        except BaseException as problem:  # it is raised where the samples are wanted
            self.drawn.problem = problem
        self.drawn.seconds = time.perf_counter() - started

    def end(self, interrupt: Callable[[], None] | None) -> None:
        """End it before its time: at once where the engine can be interrupted, else after the sample that it waits
        for.
        """
        self.stopping.set()
        while self.is_alive():
            if interrupt is not None:  # again and again: the stream may not have begun
                interrupt()
            self.join(_MOMENT)


def _figures(engine: Any) -> dict[str, float] | None:
    figures: dict[str, float] | None = engine.figures() if hasattr(engine, "figures") else None
    return figures


def in_order(samples: Iterable[Sample], count: int) -> list[Sample]:
    """Samples in the order of their requests, whose ids are "0", "1", …; raises ModelError when one is missing."""
    placed: dict[int, Sample] = {int(sample.request.id): sample for sample in samples}
    missing = [place for place in range(count) if place not in placed]
    if missing:
        raise ModelError(
            f"rollout: the engine gave no sample for {len(missing)} of {count} requests, first {missing[0]}"
        )
    return [placed[place] for place in range(count)]
