"""A judge that goes through a rubric: items with signed weights, verdicts full, partial or none."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reasonrl.errors import RewardError
from reasonrl.rewards.judges.asking import Answer, Question
from reasonrl.rewards.judges.base import Case, JudgeReward, enough, imitated
from reasonrl.rewards.judges.templates import JudgePrompt
from reasonrl.rewards.judges.texts import code_for
from reasonrl.rewards.judges.verdicts import Unreadable, read_object

if TYPE_CHECKING:
    from reasonrl.endpoints import EndpointConfig

LEVELS = ("full", "partial", "none")
_TEXT_KEYS = ("item", "criterion", "text")


@dataclass(frozen=True)
class Item:
    """One item of a rubric: what is wanted (weight above 0) or what is a fault (below 0)."""

    text: str
    weight: float


def checklist_score(items: Sequence[Item], levels: Sequence[str]) -> float:
    """R = clip(sum_j w_j b_j / sum_{w_j > 0} w_j, 0, 1).

    b_j is 1 for a wanted item whose level is `full`, and for a fault whose level is `partial` or `full`; else 0
    (Step-DeepResearch, arXiv:2512.20491, section 4.3: judges and people disagree most on "partial"; the normalisation
    is ours).
    """
    judged = list(zip(items, levels, strict=True))
    earned = sum(item.weight for item, level in judged if (level == "full" if item.weight > 0 else level != "none"))
    return min(max(earned / sum(item.weight for item in items if item.weight > 0), 0.0), 1.0)


class ChecklistReward(JudgeReward):
    """The weighted share of a rubric's items that a response meets, in [0, 1] (`checklist_score`).

    Args:
        rubric: column with the rubrics: a list of `{item: text, weight: number}`, or the same as JSON text (`criterion`
            or `text` for `item` too; further keys are passed over).
        per_item: one question an item, rather than one for all of them.
        prompt: file of a prompt of your own, with places for `problem`, `response` and `items` (their texts).
        votes: how often each question is asked; the scores are averaged.
        endpoint, temperature, max_tokens, seed, re_asks, keep_thinking, problem: see `JudgeReward`.
    """

    name = "checklist"
    verdict_pattern = r"verdicts[\"'\s]*:"

    def __init__(
        self,
        endpoint: EndpointConfig | Mapping[str, Any],
        rubric: str = "rubric",
        per_item: bool = False,
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
        self.rubric = rubric
        self.per_item = per_item
        self.prompt = JudgePrompt(prompt, "checklist.j2", ("problem", "response", "items"))

    def _standards(self, columns: Mapping[str, Any], count: int) -> list[list[Item] | None]:
        values = self._column(self.rubric, columns, count)
        return [read_rubric(one, f"{self.rubric} of completion {place}") or None for place, one in enumerate(values)]

    def _questions(self, case: Case) -> list[Question]:
        """For each vote one question, or one an item in the rubric's order."""
        found = []
        for vote in range(self.votes):
            for part in [[item] for item in case.standard] if self.per_item else [list(case.standard)]:
                wanted = [item.text for item in part]
                code = code_for(self.prompt.text, case.problem, case.text, *wanted)
                prompt = self.prompt.fill(code, {"problem": case.problem, "response": case.text, "items": wanted})
                read = functools.partial(_read, count=len(part), code=code, code_needed=case.code_needed)
                found.append(Question(case.place, prompt, read, vote))
        return found

    def _score(self, case: Case, answers: Sequence[Answer]) -> float | None:
        questions = len(answers) // self.votes
        votes = []
        for start in range(0, len(answers), questions):
            parts = answers[start : start + questions]
            failed = [answer for answer in parts if answer.failure]
            levels = [level for answer in parts for level in answer.verdict or ()]
            votes.append(failed[0] if failed else Answer(checklist_score(case.standard, levels)))
        scores = enough(votes)
        if scores is None:
            return 0.0 if imitated(votes, case.code_needed) else None
        return float(sum(scores) / len(scores))

    def _shares(self, answers: Sequence[Sequence[Answer]], count: int) -> dict[str, float]:
        levels = [level for of_case in answers for answer in of_case for level in answer.verdict or ()]
        return {level: levels.count(level) / max(len(levels), 1) for level in LEVELS}


def read_rubric(value: Any, where: str) -> list[Item]:
    """The items of a rubric; none for a row without one.

    Args:
        value: a list of mappings, or JSON text of one.
        where: what to call it in a message.

    Raises:
        RewardError: an item without text or with a weight that is no number or 0, or no item with a weight above 0.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as problem:
            raise RewardError(f"reward 'checklist': {where} is no JSON: {problem} -> {_FORM}") from None
    if value is None or isinstance(value, (str, Mapping)) or not isinstance(value, Sequence):
        if value is None or value == "":
            return []
        raise RewardError(f"reward 'checklist': {where} is a {type(value).__name__} -> {_FORM}")
    items = [_item(one, f"item {place} of {where}") for place, one in enumerate(value, start=1)]
    if items and not any(item.weight > 0 for item in items):
        raise RewardError(f"reward 'checklist': {where} has no item with a weight above 0, so nothing can be earned")
    return items


_FORM = "give a list of {item: text, weight: number}"


def _item(value: Any, where: str) -> Item:
    given = value if isinstance(value, Mapping) else {}
    text = next((given[key] for key in _TEXT_KEYS if given.get(key)), None)
    weight = given.get("weight")
    if not isinstance(text, str):
        raise RewardError(f"reward 'checklist': {where} has no text: {value!r:.100} -> {_FORM}")
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight) or weight == 0:
        raise RewardError(f"reward 'checklist': {where}: weight {weight!r} is no number other than 0 -> {_FORM}")
    return Item(text, float(weight))


def _read(reply: str, count: int, code: str, code_needed: bool) -> tuple[str, ...]:
    found = read_object(reply, ("verdicts",), code, code_needed)["verdicts"]
    if not isinstance(found, dict):
        raise Unreadable("verdicts is no object from item numbers to levels")
    wanted = [str(place) for place in range(1, count + 1)]
    missing, more = [key for key in wanted if key not in found], [key for key in found if key not in wanted]
    if missing or more:
        what = f"item {missing[0]} has no verdict" if missing else f"there is no item {more[0]}"
        raise Unreadable(f"{what}; give one for each of the {count} items")
    levels = []
    for key in wanted:
        level = found[key].strip().lower() if isinstance(found[key], str) else found[key]
        if level not in LEVELS:
            raise Unreadable(f"{level!r:.40} is no level; use {', '.join(LEVELS)}")
        levels.append(level)
    return tuple(levels)
