"""What is running, how fast, and how long is left: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Any

from reasonrl.observe.metrics import format_number, format_seconds

if TYPE_CHECKING:
    from rich.console import Console


class Progress:
    """Progress of one stage.

    On a terminal a live line shows description, phase, bar, count, rate and time left; elsewhere only `line()` prints.

    Args:
        total: how many units the stage has in all; None when unknown.
        description: what runs, such as the stage's name.
        unit: name of one unit, shown with the rate (`step`, `sample`).
        completed: units already done before this process (a resumed stage); they do not count into the rate.
        console: a rich console; a new one on stderr by default.
        window: the rate is taken over this many latest updates.
    """

    def __init__(
        self,
        total: int | None = None,
        description: str = "",
        *,
        unit: str = "step",
        completed: int = 0,
        console: Console | None = None,
        window: int = 50,
    ) -> None:
        from rich.console import Console

        self.total = total
        self.description = description
        self.unit = unit
        self.completed = completed
        self._phase = ""
        self._console = console if console is not None else Console(stderr=True)
        self._marks: deque[tuple[float, int]] = deque([(time.monotonic(), completed)], maxlen=window)
        self._reported = False
        self._bar: Any = None
        self._task: Any = None

    @property
    def live(self) -> bool:
        """Whether a live bar can be drawn (a terminal that is not dumb)."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    @property
    def rate(self) -> float | None:
        """Units a second over the latest updates; None before the first."""
        (start, first), (end, last) = self._marks[0], self._marks[-1]
        return (last - first) / (end - start) if end > start and last > first else None

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the end; None when the total or the rate is unknown."""
        rate = self.rate
        if self.total is None or rate is None:
            return None
        return max(self.total - self.completed, 0) / rate

    def start(self) -> Progress:
        """Begins to draw; on anything but a terminal this does nothing."""
        if self.live and self._bar is None:
            from rich.progress import BarColumn, SpinnerColumn, TextColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[status]}", markup=False, style="dim"),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(
                self.description, total=self.total, completed=self.completed, status=self.status()
            )
            self._bar.start()
        return self

    def stop(self) -> None:
        """Takes the live line away; lines printed above it stay."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def status(self) -> str:
        """Phase, count, rate and time left, such as `generate · 12/40 steps · 0.31 step/s · 1 min 30 s left`."""
        count = f"{self.completed:,}/{self.total:,}" if self.total is not None else f"{self.completed:,}"
        parts = [self._phase] if self._phase else []
        parts.append(f"{count} {self.unit}s")
        if (rate := self.rate) is not None:
            parts.append(
                f"{format_number(rate)} {self.unit}/s" if rate >= 0.1 else f"{format_seconds(1 / rate)}/{self.unit}"
            )
        if (left := self.seconds_left) is not None:
            parts.append(f"{format_seconds(left)} left")
        return " · ".join(parts)

    def _draw(self) -> None:
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=self.completed,
                total=self.total,
                description=self.description,
                status=self.status(),
            )

    def phase(self, name: str) -> None:
        """Says what is running within a unit: `generate`, `score`, `update`, `save`, `waiting for ...`."""
        self._phase = name
        self._draw()

    def advance(self, units: int = 1) -> None:
        """Counts finished units."""
        self.update(self.completed + units)

    def update(self, completed: int) -> None:
        """Sets the number of finished units."""
        self.completed = completed
        self._marks.append((time.monotonic(), completed))
        self._draw()

    def report(self, done: float, total: float | None, unit: str, note: str) -> None:
        """Takes a stage's report (the pipeline's `ProgressReporter`): units done, units in all, their plural, a note.

        The first report marks where this attempt began, so that work done before a resume does not count into the rate.
        """
        self.total = None if total is None else round(total)
        self.unit = unit.removesuffix("s")
        self._phase = note
        if not self._reported:
            self._reported = True
            self._marks.clear()
        self.update(round(done))

    def line(self, text: str) -> None:
        """Prints one line that stays, above the bar when there is one; the same on every kind of output."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def __enter__(self) -> Progress:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
