"""Seconds a decode step takes, by how many samples it decodes: PTL(batch), given or fitted from a log with stamps.

One sample of L tokens takes PTL(batch) * L, and PTL rises with the batch (StreamRL, arXiv 2504.15930).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from reasonrl.errors import DataError

_MOMENTS = 0.01
#: The median absolute error of a standard normal; the least standard deviation of a sample's relative error.
_MEDIAN_OF_NORMAL, _LEAST_SCALE = 0.6745, 0.005
_ROUNDS = 5


@dataclass(frozen=True)
class LatencyCurve:
    """Seconds per decode step as a function of the number of samples running; every running sample gains one token.

    Attributes:
        points: (batch, seconds) with rising batch, at least one. Between two points the seconds are interpolated
            linearly, below the first they are the first's, beyond the last the slope of the upper half (from the
            last point at half the last batch) goes on, but never falls.
    """

    points: tuple[tuple[int, float], ...]

    def __post_init__(self) -> None:
        batches = [batch for batch, _ in self.points]
        if not batches or batches[0] < 1 or any(b <= a for a, b in pairwise(batches)):
            raise DataError(f"latency curve: batches {batches} must be at least one number >= 1, each above the last")
        if not all(0 < seconds < float("inf") for _, seconds in self.points):
            raise DataError(f"latency curve: every point needs seconds above 0, got {[s for _, s in self.points]}")

    def __call__(self, batch: int) -> float:
        """Seconds of one decode step over `batch` samples."""
        if batch <= self.points[0][0] or len(self.points) == 1:
            return self.points[0][1]
        right = bisect_right([b for b, _ in self.points], batch)
        if right == len(self.points):
            high, second = self.points[-1]
            # Two fitted points side by side say little about a slope.
            low, first = [point for point in self.points[:-1] if 2 * point[0] <= high or point is self.points[0]][-1]
            return second + max(0.0, (second - first) / (high - low)) * (batch - high)
        (low, first), (high, second) = self.points[right - 1], self.points[right]
        return first + (second - first) / (high - low) * (batch - low)

    def table(self, most: int) -> tuple[float, ...]:
        """Seconds for batches 0 (which takes none) to `most`."""
        return _table(self, most)

    @classmethod
    def parse(cls, text: str) -> LatencyCurve:
        """A curve written as `batch:seconds,batch:seconds,…`, such as `1:0.010,64:0.018,256:0.040`.

        Raises:
            DataError: the text is no such list.
        """
        try:
            pairs = [part.split(":") for part in text.split(",")]
            points = tuple((int(batch), float(seconds)) for batch, seconds in pairs)
        except ValueError:
            raise DataError(
                f"latency curve {text!r} is no list of batch:seconds -> write for example 1:0.010,64:0.018,256:0.040"
            ) from None
        return cls(points)

    def __str__(self) -> str:
        return ",".join(f"{batch}:{seconds:.4g}" for batch, seconds in self.points)


@lru_cache(maxsize=64)
def _table(curve: LatencyCurve, most: int) -> tuple[float, ...]:
    return (0.0, *(curve(batch) for batch in range(1, most + 1)))


@dataclass(frozen=True)
class Span:
    """One sample as it ran: on which server, from its first to its last token (seconds of one clock), and how many
    tokens it gained.
    """

    server: str
    started: float
    finished: float
    tokens: int


def fit_latency(spans: Iterable[Span], max_batch: int | None = None) -> LatencyCurve:
    """Fit PTL(batch) to samples that ran together.

    While b samples run each gains tokens at the rate 1/PTL(b), so a sample's tokens are the sum over b of its seconds
    at b times that rate: linear in the rates, which are found by non-negative least squares and forced to fall with b.
    Errors are relative to the tokens that a sample should have. Samples that the curve misses by far more than most (a
    server that stood still, another load) weigh less, or nothing: Huber's weights first, then Tukey's. Batches that
    never occurred get no point.

    Args:
        spans: the samples; those of one server must be all that ran there.
        max_batch: most samples a server decodes together; while more are open, each is taken to run its share of the
            time. None: the batch that is exceeded for less than 1 % of the samples' time; the end of a sample is seen
            after the next one has begun, so moments with more say nothing.

    Raises:
        DataError: no span has both a positive duration and tokens.
    """
    from scipy.optimize import nnls

    usable = [span for span in spans if span.finished > span.started and span.tokens > 0]
    if not usable:
        raise DataError("no sample in the log has a start before its end -> give the latency curve with --ptl")
    servers: dict[str, list[Span]] = {}
    for span in usable:
        servers.setdefault(span.server, []).append(span)
    most = max_batch or usual_batch(servers.values())
    clocks = [_Clock(spans, most) for spans in servers.values()]
    knots = _knots(sorted({int(batch) for clock in clocks for batch in clock.running if batch > 0}))
    seconds = np.concatenate([clock.seconds_at(knots) for clock in clocks])
    tokens = np.array([span.tokens for spans in servers.values() for span in spans], dtype=np.float64)
    # A rate that falls with the batch is a sum of non-negative drops counted from the largest batch.
    falling = np.triu(np.ones((len(knots), len(knots))))
    design = np.column_stack([seconds @ falling, tokens])
    # Errors are relative to what a sample should have gained, at first to its seconds: what was held up for long cannot
    # outweigh the others.
    rows = 1 / seconds.sum(axis=1)
    for weigh in (_huber,) * _ROUNDS + (_bisquare,) * _ROUNDS:
        # The triangle of a QR decomposition has the same least squares with as many rows as there are knots.
        triangle = np.asarray(np.linalg.qr(design * rows[:, None], mode="r"))
        drops, _ = nnls(triangle[:, :-1], triangle[:, -1])
        expected = np.maximum(design[:, :-1] @ drops, 0.01 * tokens)  # a largest batch may get no rate at all
        rows = np.sqrt(weigh(tokens / expected - 1)) / expected
    rates = falling @ drops
    return LatencyCurve(tuple((batch, float(1 / rate)) for batch, rate in zip(knots, rates, strict=True) if rate > 0))


def _scale(errors: NDArray[np.float64]) -> float:
    """The standard deviation of the errors, as their median tells it."""
    return max(float(np.median(np.abs(errors))) / _MEDIAN_OF_NORMAL, _LEAST_SCALE)


def _huber(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Huber's weights (1964): 1 up to 1.345 standard deviations, then falling with the error."""
    weights: NDArray[np.float64] = np.minimum(1.0, 1.345 * _scale(errors) / np.maximum(np.abs(errors), 1e-12))
    return weights


def _bisquare(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tukey's weights (Beaton and Tukey 1974): none from 4.685 standard deviations on, so that what was held up for
    long does not count at all.
    """
    weights: NDArray[np.float64] = np.square(1 - np.minimum(np.abs(errors) / (4.685 * _scale(errors)), 1) ** 2)
    return weights


def usual_batch(servers: Iterable[Sequence[Span]]) -> int:
    """The smallest batch that was exceeded for less than 1 % of the time that samples ran, over all servers."""
    seconds: dict[int, float] = {}
    for spans in servers:
        clock = _Clock(spans, None)
        for running, length in zip(clock.running.tolist(), clock.lengths.tolist(), strict=True):
            seconds[running] = seconds.get(running, 0.0) + running * length
    allowed = _MOMENTS * sum(seconds.values())
    ordered = sorted(seconds, reverse=True)
    for batch in ordered:
        allowed -= seconds[batch]
        if allowed < 0:
            return max(batch, 1)
    return 1


class _Clock:
    """When how many samples ran on one server."""

    def __init__(self, spans: Sequence[Span], max_batch: int | None) -> None:
        starts = np.array([span.started for span in spans])
        ends = np.array([span.finished for span in spans])
        edges = np.unique(np.concatenate([starts, ends]))
        self.first, self.last = np.searchsorted(edges, starts), np.searchsorted(edges, ends)
        change = np.zeros(len(edges), dtype=np.int64)
        np.add.at(change, self.first, 1)
        np.add.at(change, self.last, -1)
        self.lengths, self.running = np.diff(edges), np.cumsum(change)[:-1]
        if max_batch is not None:
            self.share = np.minimum(1.0, max_batch / np.maximum(self.running, 1))
            self.running = np.minimum(self.running, max_batch)
        else:
            self.share = np.ones(len(self.running))

    def seconds_at(self, knots: Sequence[int]) -> NDArray[np.float64]:
        """(S, K) seconds that each sample ran with about this many samples, shared between the knots around."""
        # The rate is linear in 1/batch between knots: exact both where a step takes constant time and where its time is
        # proportional to the batch.
        where, at = -1.0 / np.array(knots, dtype=np.float64), -1.0 / np.maximum(self.running, 1)
        columns = []
        for hat in np.eye(len(knots)):
            spent = np.concatenate([[0.0], np.cumsum(self.lengths * self.share * np.interp(at, where, hat))])
            columns.append(spent[self.last] - spent[self.first])
        return np.stack(columns, axis=1)


def _knots(batches: Sequence[int]) -> list[int]:
    """The smallest and largest batch that occurred, and some between, each about a quarter above the last."""
    knots = [batches[0]]
    for batch in batches[1:]:
        if batch >= knots[-1] * 1.25:
            knots.append(batch)
    if knots[-1] != batches[-1]:
        if len(knots) > 1 and batches[-1] < knots[-1] * 1.1:
            knots.pop()
        knots.append(batches[-1])
    return knots
