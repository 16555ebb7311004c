r"""Answers to several problems that one prompt asks: one verdict a problem, and their mean or their product.

A row of a compound prompt has a column `items`: a list of problems (or its JSON text), each with `id`, `answer` and
what its reward reads; `reasonrl.data_tools.compound` writes it. A row without it is one problem with its own `answer`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.plugins import near
from reasonrl.rewards.answer_lines import answer_region, find_answers
from reasonrl.rewards.choice_options import options_in, options_of
from reasonrl.rewards.columns import GOLD_COLUMNS, column_named
from reasonrl.rewards.combining import row_name
from reasonrl.rewards.completions import text_of
from reasonrl.rewards.grading import check_pool_arguments, grade
from reasonrl.rewards.policy import POLICIES
from reasonrl.rewards.pool import TIME_LIMIT
from reasonrl.rewards.verdict import Status, Verdict

KINDS = ("math", "choice", "exact")
SCORES = ("mean", "all")
ITEMS = "item_verdicts"
"""The column that the reward logs for a sample's problems."""
_UNSCORED = ("bad_gold", "fault")
Log = Callable[..., None]


@dataclass(frozen=True)
class Item:
    """One problem of a compound prompt.

    Attributes:
        id: of the problem, not of the prompt.
        answer: its gold.
        options: of a question with options.
        scored: whether it counts; copies that only fill a block do not.
        problem: its text, in which options are looked for where `options` holds none.
    """

    id: str
    answer: Any
    options: Any = None
    scored: bool = True
    problem: Any = None


class CompoundReward:
    r"""The mean over a prompt's problems of 1 for a right answer and 0 for another or none; or 1 if all are right.

    Args:
        score: `mean` or `all`.
        kind: how an answer is compared: `math` and `choice` as these rewards do (options that no item has are read from
            its problem), `exact` as text.
        line: a line's form with groups `number` and `answer`, for answers that stand in no box.
        tag: of the block that holds the answers; they are looked for behind the think block without it.
        framed: false for one problem that is asked without the frame: its answer is looked for in the whole response.
        policy: what counts as the same answer; a name in `compare.POLICIES`.
        workers, time_limit: as `math` has them.

    Problems whose gold cannot be compared are left out, as are copies that only fill a block (`scored: false`); where
    none is left there is no reward.
    """

    token_level = False

    def __init__(
        self,
        score: str = "mean",
        kind: str = "math",
        line: str | None = None,
        tag: str = "answer",
        framed: bool = True,
        policy: str = "default",
        workers: int | None = None,
        time_limit: float = TIME_LIMIT,
    ) -> None:
        for name, value, allowed in (("score", score, SCORES), ("kind", kind, KINDS), ("policy", policy, POLICIES)):
            if value not in allowed:
                raise RewardError(f"reward 'compound': {name} {value!r} is unknown{near(str(value), allowed)}")
        if kind != "exact":
            check_pool_arguments(workers, time_limit, "reward 'compound'")
        self.__name__ = "compound"
        self.score, self.kind, self.tag, self.framed, self.policy = score, kind, tag, framed, policy
        self.workers, self.time_limit = workers, time_limit
        self.line = line_form(line, "compound")

    def __call__(
        self,
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] = (),
        completion_ids: Sequence[Any] | None = None,
        *,
        log_extra: Log | None = None,
        log_metric: Log | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """Scores; the columns `verdict`, `extracted` and `item_verdicts` (JSON) go to `log_extra`, the
        shares of right and of answered problems to `log_metric`.
        """
        asked = [items_of(columns, place, len(completions)) for place in range(len(completions))]
        if self.kind == "choice" and prompts is not None:
            asked = [_with_problem(items, prompt) for items, prompt in zip(asked, prompts, strict=True)]
        found = self.verdicts([text_of(said) for said in completions], asked)
        counted = [
            [verdict for item, verdict in zip(items, verdicts, strict=True) if item.scored]
            for items, verdicts in zip(asked, found, strict=True)
        ]
        if log_extra is not None:
            log_extra("verdict", [verdict_of(items, verdicts) for items, verdicts in zip(asked, found, strict=True)])
            log_extra("extracted", [json.dumps([v.extracted for v in verdicts]) for verdicts in found])
            log_extra(ITEMS, [items_record(items, verdicts) for items, verdicts in zip(asked, found, strict=True)])
        if log_metric is not None:
            for name, value in _metrics(counted).items():
                log_metric(name, value)
        return [self._score(verdicts) for verdicts in counted]

    def verdicts(self, texts: Sequence[str], asked: Sequence[Sequence[Item]]) -> list[list[Verdict]]:
        """One verdict a problem of each text."""
        answers = [self._answers(text, len(items)) for text, items in zip(texts, asked, strict=True)]
        flat = [
            (item, answer)
            for items, said in zip(asked, answers, strict=True)
            for item, answer in zip(items, said, strict=True)
        ]
        made = iter(self._compared(flat))
        return [[next(made) for _ in items] for items in asked]

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Refuse rows whose problems cannot be read."""
        for place, row in enumerate(rows):
            for item in items_of({name: [value] for name, value in row.items()}, 0, 1):
                if not isinstance(item.answer, (str, int)) or isinstance(item.answer, bool):
                    raise RewardError(
                        f"reward 'compound': {row_name(row, place)}: problem {item.id!r} has the answer"
                        f" {item.answer!r}, where text was expected -> give every problem its answer"
                    )

    def _answers(self, text: str, k: int) -> list[str | None]:
        """What stands for each problem, as a response of its own."""
        if not self.framed and k == 1:
            return [text]
        said = find_answers(answer_region(text, self.tag), self.line).by_number(k)
        return [None if answer in (None, "") else answer if self.kind == "exact" else _boxed(answer) for answer in said]

    def _compared(self, flat: Sequence[tuple[Item, str | None]]) -> list[Verdict]:
        made: dict[int, Verdict] = {}
        todo: list[int] = []
        for place, (item, answer) in enumerate(flat):
            gold = item.answer
            if not isinstance(gold, (str, int)) or isinstance(gold, bool) or not str(gold).strip():
                why = f"the gold is a {type(gold).__name__}, not text"
                made[place] = Verdict("bad_gold", None, None, repr(gold)[:200], why)
            elif answer is None:
                made[place] = Verdict("no_answer", 0.0, None, str(gold), "no line gives this problem's answer")
            elif self.kind == "exact":
                right = answer.strip() == str(gold).strip()
                status: Status = "correct" if right else "wrong"
                made[place] = Verdict(status, float(right), answer.strip(), str(gold), "compared as text")
            else:
                todo.append(place)
        pairs = [(str(flat[place][0].answer), str(flat[place][1])) for place in todo]
        if self.kind == "choice":
            from reasonrl.rewards.choice import verify_choice

            graded = [
                verify_choice(gold, said, _options(flat[place][0]), self.policy)
                for place, (gold, said) in zip(todo, pairs, strict=True)
            ]
        else:
            graded = grade(pairs, self.policy, self.workers, self.time_limit).verdicts if pairs else []
        made |= dict(zip(todo, graded, strict=True))
        return [made[place] for place in range(len(flat))]

    def _score(self, verdicts: Sequence[Verdict]) -> float | None:
        scores = [verdict.score for verdict in verdicts if verdict.score is not None]
        if not scores:
            return None
        return float(min(scores)) if self.score == "all" else sum(scores) / len(scores)


def items_of(columns: Mapping[str, Sequence[Any]], place: int, count: int) -> list[Item]:
    """The problems of the row at a place, from its column `items`, or from its own answer.

    Raises:
        RewardError: they cannot be read, or there is no answer.
    """
    cell = columns["items"][place] if columns.get("items") is not None else None
    if cell is None:
        gold = columns[column_named("compound", None, GOLD_COLUMNS, columns)][place]
        options = columns["options"][place] if columns.get("options") is not None else None
        name = columns["id"][place] if columns.get("id") is not None and len(columns["id"]) == count else place
        text = columns["problem"][place] if columns.get("problem") is not None else None
        return [Item(str(name), gold, options, problem=text)]
    try:
        listed = json.loads(cell) if isinstance(cell, str) else cell
        return [
            Item(str(one["id"]), one["answer"], one.get("options"), bool(one.get("scored", True)), one.get("problem"))
            for one in listed
        ]
    except (ValueError, TypeError, KeyError) as problem:
        raise RewardError(
            f"reward 'compound': sample {place}: its column `items` is {str(cell)[:120]!r}, no list of problems with"
            " `id` and `answer` -> make compound rows with reasonrl.data_tools.compound"
        ) from problem


def items_record(items: Sequence[Item], verdicts: Sequence[Verdict]) -> str:
    """What is kept of a sample's problems: JSON, in order of position."""
    return json.dumps(
        [
            {"id": item.id, "verdict": verdict.status, "extracted": verdict.extracted, "scored": item.scored}
            for item, verdict in zip(items, verdicts, strict=True)
        ],
        ensure_ascii=False,
    )


def verdict_of(items: Sequence[Item], verdicts: Sequence[Verdict]) -> str:
    """One verdict of a sample, over the problems that count: `correct` if all are, `no_answer` if none has one."""
    counts: Counter[str] = Counter(verdict.status for item, verdict in zip(items, verdicts, strict=True) if item.scored)
    for status in _UNSCORED:
        if counts[status]:
            return status
    if len(counts) == 1:
        return next(iter(counts))
    return "wrong"


def _with_problem(items: list[Item], prompt: Any) -> list[Item]:
    """A prompt's only problem, without a text of its own, is what the prompt asks."""
    from reasonrl.rewards.choice import question_of

    if len(items) != 1 or items[0].problem is not None:
        return items
    return [replace(items[0], problem=question_of(prompt))]


def _options(item: Item) -> dict[str, str] | None:
    """A problem's options, from where the reward `choice` takes them."""
    found = options_of(item.options)
    return found if found is not None or not isinstance(item.problem, str) else options_in(item.problem)


def _boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def _metrics(found: Sequence[Sequence[Verdict]]) -> dict[str, float]:
    flat = [verdict for verdicts in found for verdict in verdicts if verdict.score is not None]
    whole = [verdicts for verdicts in found if verdicts and all(v.score is not None for v in verdicts)]
    metrics = {}
    if flat:
        metrics["compound/acc_item"] = sum(verdict.correct for verdict in flat) / len(flat)
        metrics["compound/answered"] = sum(verdict.status != "no_answer" for verdict in flat) / len(flat)
    if whole:
        metrics["compound/acc_all"] = sum(all(v.correct for v in verdicts) for verdicts in whole) / len(whole)
    return metrics


def line_form(line: str | None, owner: str) -> re.Pattern[str] | None:
    """A line's form, compiled; raises RewardError, naming the reward that owns it, if it has not both groups."""
    if line is None:
        return None
    try:
        form = re.compile(line, re.MULTILINE)
    except (re.error, TypeError) as problem:
        raise RewardError(f"reward {owner!r}: line {line!r} is no regular expression: {problem}") from problem
    missing = {"number", "answer"} - set(form.groupindex)
    if missing:
        raise RewardError(
            f"reward {owner!r}: line {line!r} has no group {min(missing)!r} -> such as"
            r" '^(?P<number>\d)=(?P<answer>\d)$'"
        )
    return form
