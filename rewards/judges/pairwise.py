"""A judge that compares a response with a fixed reference response; the reward is the chance of winning."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reasonrl.errors import RewardError
from reasonrl.rewards.judges.asking import Answer, Question
from reasonrl.rewards.judges.base import Case, JudgeReward, enough, imitated
from reasonrl.rewards.judges.templates import JudgePrompt
from reasonrl.rewards.judges.texts import code_for
from reasonrl.rewards.judges.verdicts import read_names, read_number, read_object

if TYPE_CHECKING:
    from reasonrl.endpoints import EndpointConfig

FLAGS: dict[str, str] = {
    "invented_citation": "names a source, quotation, statute, paper or link that does not exist or does not say so",
    "overconfident_claim": "states as certain what cannot be known or what it has not shown",
    "language_mixing": "changes language within the answer without being asked to",
}
"""Violations that cost the whole reward, and what the judge is told they are."""
_BEST = 10.0


@dataclass(frozen=True)
class Comparison:
    """One order's verdict: the scores of the response and of the reference, and the response's violations."""

    response: float
    reference: float
    flags: frozenset[str]


class PairwiseReward(JudgeReward):
    """The win rate of a response y against a reference y*, in [0, 1]:

        d = scale * (s_y - s_ref) - length_penalty * max(0, |y| / |y*| - 1 - length_tolerance)
        r = mean over both orders of sigmoid(d); 0 if the judge flags a violation of y in either order

    s are the judge's scores, 0 to 10; |.| counts characters of what is judged. The sigmoid of a difference of scores is
    the Bradley-Terry win rate; the length penalty lowers the confidence, and through it the win rate (Step 3.5 Flash,
    arXiv:2602.10604, section 5; the map from confidence to win rate is not published, this one is ours).

    Args:
        reference: column with the reference responses.
        scale: confidence a point of the judge's scores.
        length_penalty: confidence lost for each length of the reference beyond the tolerance; 0 is none.
        length_tolerance: how much longer than the reference costs nothing, as a share of it.
        flags: violation -> what it is; None for `FLAGS`, empty for none.
        prompt: file of a prompt of your own, with places for `problem`, `response_a` and `response_b`, and if you like
            `flags`.
        votes: how often each order is asked; sigmoids are averaged within an order first.
        endpoint, temperature, max_tokens, seed, re_asks, keep_thinking, problem: see `JudgeReward`.
    """

    name = "pairwise"
    verdict_pattern = r"(?:score|flags)_[ab]"

    def __init__(
        self,
        endpoint: EndpointConfig | Mapping[str, Any],
        reference: str = "reference",
        scale: float = 1.0,
        length_penalty: float = 0.0,
        length_tolerance: float = 0.0,
        flags: Mapping[str, str] | None = None,
        prompt: str | None = None,
        votes: int = 1,
        temperature: float | None = None,
        max_tokens: int = 2048,
        seed: int | None = 0,
        re_asks: int = 2,
        keep_thinking: bool = False,
        problem: str | None = None,
    ) -> None:
        super().__init__(endpoint, votes, temperature, max_tokens, seed, re_asks, keep_thinking, problem)
        settings = {"scale": scale, "length_penalty": length_penalty, "length_tolerance": length_tolerance}
        for setting, value in settings.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            if not number or value < 0 or (setting == "scale" and value == 0):
                raise RewardError(
                    f"reward 'pairwise': {setting}={value!r} -> give a number above 0; penalties may be 0"
                )
        self.reference = reference
        self.scale = float(scale)
        self.length_penalty = float(length_penalty)
        self.length_tolerance = float(length_tolerance)
        self.flags = dict(FLAGS if flags is None else flags)
        self.prompt = JudgePrompt(prompt, "pairwise.j2", ("problem", "response_a", "response_b"), ("flags",))

    def _standards(self, columns: Mapping[str, Any], count: int) -> list[str | None]:
        given = [one if isinstance(one, str) else "" for one in self._column(self.reference, columns, count)]
        return [text.strip() or None for text in self._texts(given)]

    def _untrusted(self, standard: str) -> tuple[str, ...]:
        return (standard,)

    def _questions(self, case: Case) -> list[Question]:
        """First the order (response, reference), then the other one, `votes` times each."""
        found = []
        for response_first in (True, False):
            first, second = (case.text, case.standard) if response_first else (case.standard, case.text)
            code = code_for(self.prompt.text, case.problem, first, second)
            values = {"problem": case.problem, "response_a": first, "response_b": second, "flags": self.flags}
            prompt = self.prompt.fill(code, values)
            read = functools.partial(
                _read, code=code, code_needed=case.code_needed, response_first=response_first, flags=tuple(self.flags)
            )
            found += [Question(case.place, prompt, read, vote) for vote in range(self.votes)]
        return found

    def _score(self, case: Case, answers: Sequence[Answer]) -> float | None:
        if any(one.flags for one in _verdicts(answers)):
            return 0.0
        excess = max(0.0, len(case.text) / len(case.standard) - 1 - self.length_tolerance)
        rates = []
        for order in (answers[: self.votes], answers[self.votes :]):
            comparisons = enough(order)
            if comparisons is None:
                return 0.0 if imitated(answers, case.code_needed) else None
            confidences = [
                self.scale * (one.response - one.reference) - self.length_penalty * excess for one in comparisons
            ]
            rates.append(sum(map(_sigmoid, confidences)) / len(confidences))
        return sum(rates) / 2

    def _shares(self, answers: Sequence[Sequence[Answer]], count: int) -> dict[str, float]:
        flagged = sum(any(one.flags for one in _verdicts(of_case)) for of_case in answers)
        disagreed = sum(_orders_disagree(of_case, self.votes) for of_case in answers)
        return {"flagged": flagged / max(count, 1), "order_matters": disagreed / max(len(answers), 1)}


def _read(reply: str, code: str, code_needed: bool, response_first: bool, flags: tuple[str, ...]) -> Comparison:
    keys = ["score_a", "score_b", *(("flags_a", "flags_b") if flags else ())]
    found = read_object(reply, keys, code, code_needed)
    scores = [read_number(found[key], 0.0, _BEST, key) for key in keys[:2]]
    violations = [read_names(found[key], flags, key) for key in keys[2:]] or [frozenset(), frozenset()]
    ours, theirs = (0, 1) if response_first else (1, 0)
    return Comparison(scores[ours], scores[theirs], violations[ours])


def _verdicts(answers: Sequence[Answer]) -> list[Comparison]:
    return [answer.verdict for answer in answers if not answer.failure]


def _orders_disagree(answers: Sequence[Answer], votes: int) -> bool:
    """True if the two orders' first votes disagree on the winner."""
    one, other = answers[0].verdict, answers[votes].verdict
    if one is None or other is None:
        return False
    return bool((one.response > one.reference) != (other.response > other.reference))


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
