"""The run's own lengths at work: what is expected of each request before a step, and what the step has taught.

The guide holds the predictor, the lengths of the last step and the engines' latency curve, and writes what follows from
them onto requests; engines decide by it where and in which order samples are drawn. What is drawn stays the seeds'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reasonrl.errors import DataError
from reasonrl.rollout.engine import Expected, Outlook, Request, Stamp
from reasonrl.rollout.latency import LatencyCurve, Span, fit_latency
from reasonrl.rollout.lengths import LengthPredictor, Outcome, PredictorSettings, PromptKey

_VERSION = 1


@dataclass(frozen=True)
class Seen:
    """One finished sample: its prompt, the tokens of its response, and where and when it was drawn if that is known."""

    prompt: PromptKey
    length: int
    stamp: Stamp | None = None


class LengthGuide:
    """Turns what a run has seen into expectations for its next step.

    Nothing in it depends on the order in which samples came in, and nothing in `expect` on anything but `state()`.
    """

    def __init__(self, settings: PredictorSettings | None = None) -> None:
        self._predictor = LengthPredictor(settings)
        self._outlook = Outlook(())
        self._was_on = False

    @property
    def enabled(self) -> bool:
        """Whether the predictions rank well enough to be followed."""
        return self._predictor.enabled

    def expect(self, requests: Sequence[Request], prompts: Sequence[PromptKey]) -> list[Request]:
        """The requests with their expected lengths; as they are while the predictor is not good enough.

        Args:
            requests: of a step, or of one process's share of it.
            prompts: whose they are, one each.
        """
        if not self.enabled:
            return list(requests)
        lengths = self._predictor.predict(prompts)
        return [
            replace(request, expected=Expected(length, self._outlook))
            for request, length in zip(requests, lengths, strict=True)
        ]

    def observe(self, samples: Sequence[Seen]) -> None:
        """Take in all samples of a step: they judge the predictor, and then teach it.

        Raises:
            ValueError: there are none, or one has no tokens.
        """
        self._was_on = self.enabled
        self._predictor.observe(Outcome(sample.prompt, sample.length) for sample in samples)
        self._outlook = Outlook(tuple(sorted(sample.length for sample in samples)), self._curve(samples))

    def metrics(self) -> dict[str, float]:
        """Of the last step: the predictor's (`LengthPredictor.metrics`), with `lengths/dispatch_on` saying whether it
        had been found good enough before that step. Empty before the first step.
        """
        found = self._predictor.metrics()
        return {**found, "lengths/dispatch_on": float(self._was_on)} if found else {}

    def state(self) -> dict[str, Any]:
        """Everything that decides what is expected, as plain JSON values."""
        curve = self._outlook.curve
        return {
            "version": _VERSION,
            "predictor": self._predictor.state(),
            "lengths": list(self._outlook.lengths),
            "curve": None if curve is None else [list(point) for point in curve.points],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], settings: PredictorSettings | None = None) -> LengthGuide:
        """The guide that saved this state: it expects the same, to the last bit.

        Raises:
            ValueError: the state is of another version.
        """
        if state.get("version") != _VERSION:
            raise ValueError(f"the saved lengths have version {state.get('version')!r}, known is {_VERSION}")
        guide = cls(settings)
        guide._predictor = LengthPredictor.from_state(state["predictor"], settings)
        points = state["curve"]
        curve = None if points is None else LatencyCurve(tuple((int(batch), seconds) for batch, seconds in points))
        guide._outlook = Outlook(tuple(state["lengths"]), curve)
        return guide

    def _curve(self, samples: Sequence[Seen]) -> LatencyCurve | None:
        """Fitted where it decides something: over several engines whose samples are all stamped; else the last one."""
        spans = [
            Span(sample.stamp.server, sample.stamp.started, sample.stamp.finished, sample.length)
            for sample in samples
            if sample.stamp is not None
        ]
        if len(spans) < len(samples) or len({span.server for span in spans}) < 2:
            return self._outlook.curve
        try:
            return fit_latency(sorted(spans, key=lambda span: (span.server, span.started, span.finished, span.tokens)))
        except DataError:  # no sample took any time
            return self._outlook.curve
