"""How long an answer will be, predicted from the run's own log.

A prompt seen before is predicted by an exponential moving average of its own lengths, any other by a small ranker on
its text (`length_ranker.py`). Both work on the log-length relative to the run's present level, so that a prompt last
seen when answers were half as long is not ranked as short. What was predicted is held against what came out at every
step: below a recall of 0.6 on the longest 20 % the predictor says that length-aware dispatch is to be left alone.

Idea: StreamRL (arXiv 2504.15930), whose ranker is a language model; here the log of the run takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reasonrl.rollout.length_ranker import LengthRanker, prompt_features
from reasonrl.rollout.ranking import RankingQuality, ranking_quality

_VERSION = 1


@dataclass(frozen=True)
class PromptKey:
    """A prompt as the predictor knows it: its id, its text (may be empty) and its size in tokens."""

    id: str
    text: str = ""
    tokens: int = 0


@dataclass(frozen=True)
class Outcome:
    """One finished sample: whose it was and how many tokens its response has (a cut one counts as it is)."""

    prompt: PromptKey
    length: int


@dataclass(frozen=True)
class PredictorSettings:
    """How the predictor learns and judges itself.

    Attributes:
        decay: what a new step leaves of a prompt's average, in [0, 1).
        level_decay: what a step leaves of the run's level, in [0, 1).
        long_fraction: the share of samples that counts as long.
        recall_needed: length-aware dispatch is off below this recall.
        recall_decay: what a step leaves of the averaged recall, in [0, 1).
    """

    decay: float = 0.5
    level_decay: float = 0.8
    long_fraction: float = 0.2
    recall_needed: float = 0.6
    recall_decay: float = 0.7

    def __post_init__(self) -> None:
        for name in ("decay", "level_decay", "recall_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}, allowed are values from 0 up to but without 1")
        if not 0 < self.long_fraction < 1:
            raise ValueError(f"long_fraction = {self.long_fraction}, allowed are values between 0 and 1")
        if not 0 <= self.recall_needed <= 1:
            raise ValueError(f"recall_needed = {self.recall_needed}, allowed are values from 0 to 1")


class LengthPredictor:
    """Predicts response lengths in tokens, learns from each step, and knows how good it is.

    Nothing in it depends on the order in which the samples of a step came in.
    """

    def __init__(self, settings: PredictorSettings | None = None) -> None:
        self.settings = settings or PredictorSettings()
        self._level: float | None = None
        self._of_prompt: dict[str, float] = {}
        self._ranker = LengthRanker()
        self._recall: float | None = None
        self._last: RankingQuality | None = None
        self._seen_share = 0.0

    def predict(self, prompts: Sequence[PromptKey]) -> list[float]:
        """Expected tokens of a response to each prompt (geometric mean); 1 for all before the first step."""
        if self._level is None:
            return [1.0] * len(prompts)
        known = [self._of_prompt.get(prompt.id) for prompt in prompts]
        unseen = [prompt for prompt, value in zip(prompts, known, strict=True) if value is None]
        ranked = iter(self._ranker.predict(_features(unseen)).tolist() if unseen else ())
        level = self._level
        return [math.exp(level + (next(ranked) if value is None else value)) for value in known]

    def observe(self, outcomes: Iterable[Outcome]) -> RankingQuality:
        """Take in all samples of one step: first they judge what would have been predicted, then they teach.

        Raises:
            ValueError: there are none, or a length is not positive.
        """
        lengths: dict[PromptKey, list[int]] = {}
        for outcome in outcomes:
            if outcome.length < 1:
                raise ValueError(f"prompt {outcome.prompt.id!r}: a response of {outcome.length} tokens; at least 1")
            lengths.setdefault(outcome.prompt, []).append(outcome.length)
        if not lengths:
            raise ValueError("a step without samples says nothing about lengths")
        # Sums of floats depend on their order, arrival does not count.
        step = {prompt: sorted(lengths[prompt]) for prompt in sorted(lengths, key=lambda p: (p.id, p.text, p.tokens))}
        quality = self._judge(step)
        self._learn(step)
        return quality

    @property
    def enabled(self) -> bool:
        """Whether the predictions rank well enough for length-aware dispatch; False before they could be judged."""
        return self._recall is not None and self._recall >= self.settings.recall_needed

    def metrics(self) -> dict[str, float]:
        """Scalars of the last step for the run's metrics: recall and Spearman of that step, the averaged recall that
        switches the policy, the share of samples whose prompt was seen before, and whether the policy is on (1) or off
        (0). Empty before the first step.
        """
        if self._last is None:
            return {}
        return {
            "lengths/recall": self._last.recall,
            "lengths/recall_average": self._last.recall if self._recall is None else self._recall,
            "lengths/spearman": self._last.spearman,
            "lengths/seen_fraction": self._seen_share,
            "lengths/dispatch_on": float(self.enabled),
        }

    def state(self) -> dict[str, Any]:
        """Everything learnt, as plain JSON values; `from_state` gives the same predictions to the last bit."""
        last = self._last
        return {
            "version": _VERSION,
            "level": self._level,
            "of_prompt": dict(self._of_prompt),
            "recall": self._recall,
            "seen_share": self._seen_share,
            "last": None if last is None else [last.recall, _as_json(last.spearman), last.samples],
            "ranker": self._ranker.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], settings: PredictorSettings | None = None) -> LengthPredictor:
        """The predictor that saved this state.

        Raises:
            ValueError: the state is of another version.
        """
        if state.get("version") != _VERSION:
            raise ValueError(f"the saved length predictor has version {state.get('version')!r}, known is {_VERSION}")
        predictor = cls(settings)
        predictor._level = state["level"]
        predictor._of_prompt = dict(state["of_prompt"])
        predictor._recall, predictor._seen_share = state["recall"], state["seen_share"]
        if state["last"] is not None:
            recall, correlation, samples = state["last"]
            predictor._last = RankingQuality(recall, math.nan if correlation is None else correlation, samples)
        predictor._ranker.restore(state["ranker"])
        return predictor

    def _judge(self, step: Mapping[PromptKey, list[int]]) -> RankingQuality:
        predicted: list[float] = []
        actual: list[int] = []
        seen = 0
        for (prompt, lengths), value in zip(step.items(), self.predict(list(step)), strict=True):
            predicted += [value] * len(lengths)
            actual += lengths
            seen += len(lengths) * (prompt.id in self._of_prompt)
        quality = ranking_quality(predicted, actual, self.settings.long_fraction)
        if self._level is not None:
            keep = 0.0 if self._recall is None else self.settings.recall_decay
            self._recall = keep * (self._recall or 0.0) + (1 - keep) * quality.recall
        self._last, self._seen_share = quality, seen / len(actual)
        return quality

    def _learn(self, step: Mapping[PromptKey, list[int]]) -> None:
        means = {
            prompt: math.fsum(math.log(length) for length in lengths) / len(lengths) for prompt, lengths in step.items()
        }
        mean = math.fsum(means.values()) / len(means)
        keep = 0.0 if self._level is None else self.settings.level_decay
        level = self._level = keep * (self._level or 0.0) + (1 - keep) * mean
        self._ranker.learn(_features(list(means)), [value - level for value in means.values()])
        for prompt, value in means.items():
            before = self._of_prompt.get(prompt.id)
            kept = 0.0 if before is None else self.settings.decay
            self._of_prompt[prompt.id] = kept * (before or 0.0) + (1 - kept) * (value - level)


def _features(prompts: Sequence[PromptKey]) -> NDArray[np.float64]:
    return np.stack([prompt_features(prompt.text, prompt.tokens) for prompt in prompts])


def _as_json(value: float) -> float | None:
    return None if math.isnan(value) else value
