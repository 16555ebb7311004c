"""Message pools: cached answers to problems, the filter by their accuracy, and the paper's record format.

A pool problem has a conversation, responses and a gold, as in the released PaCoRe-Train-8k (`conversation`,
`responses`, `ground_truth`; arXiv 2601.05593, section 3.1 and appendix C). Responses may be whole trajectories: they
are compacted when they are read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from reasonrl.expressions import Expression, ExpressionError
from reasonrl.pacore.compaction import Compaction, after_think
from reasonrl.pacore.errors import PacoreError
from reasonrl.pacore.store import prompt_hash

Grade: TypeAlias = Callable[[Sequence[tuple[str, str]]], "Sequence[float | None]"]
"""From (gold, response) pairs to scores in [0, 1]; None where a response cannot be scored."""

FIGURES = ("acc", "n", "n_right", "n_unscored")
"""What a filter may name: mean score of the scored messages, messages, those with score 1, those without a score."""

MATH, CODE = "0 < acc < 9/24", "0 < acc < 15/24"
"""The first stage's filters (section 3.1); code's lower bound is ours."""

SAMPLE_COLUMNS = frozenset(
    {
        "id",
        "problem_id",
        "problem",
        "answer",
        "text",
        "correct",
        "verdict",
        "reward",
        "finish_reason",
        "length",
        "prompt_ids",
        "completion_ids",
        "logprobs_sampled",
        "seed",
        "index",
        "extracted",
        "pass_rate",
        "prompt",
    }
)
"""Columns of a rollout stage's rows that are a sample's, not its problem's own; a contract test holds them to it."""

_FIELDS = ("conversation", "responses", "ground_truth", "id", "scores")


@dataclass(frozen=True)
class PoolProblem:
    """One problem and its messages.

    Attributes:
        id: the row's own, or a hash of the conversation.
        conversation: messages of the API.
        messages: compacted, none of them empty.
        gold: the right answer.
        scores: one a message, where they have been graded.
        columns: the row's other columns.
        dropped: responses without a message.
    """

    id: str
    conversation: tuple[Mapping[str, Any], ...] = field(hash=False)
    messages: tuple[str, ...]
    gold: str
    scores: tuple[float | None, ...] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)
    dropped: int = 0

    def figures(self) -> dict[str, float]:
        """The figures that a filter may name.

        Raises:
            PacoreError: the messages have not been graded.
        """
        if self.scores is None:
            raise PacoreError(f"problem {self.id!r}: its messages have no scores -> grade the pool first")
        told = [score for score in self.scores if score is not None]
        return {
            "acc": sum(told) / len(told) if told else float("nan"),
            "n": len(self.messages),
            "n_right": sum(score == 1 for score in told),
            "n_unscored": len(self.scores) - len(told),
        }


@dataclass
class PoolReport:
    """What became of a pool's problems; every count is of problems, but for `responses_dropped`.

    Attributes:
        read: rows.
        bad: reason -> rows that are no problem of a pool.
        kept: left at the end.
        none_right, all_right: filtered ones whose messages all score 0, or all 1.
        filtered: other ones that the filter does not want.
        unscored: whose messages could not be scored.
        too_few: with fewer messages than were asked for.
        responses_dropped: that held no message.
    """

    read: int = 0
    bad: dict[str, int] = field(default_factory=dict)
    kept: int = 0
    none_right: int = 0
    all_right: int = 0
    filtered: int = 0
    unscored: int = 0
    too_few: int = 0
    responses_dropped: int = 0


def read_pool(path: str | Path, report: PoolReport, compaction: Compaction = after_think) -> Iterable[PoolProblem]:
    """The problems of a file in the record format: JSON lines, a JSON list, or parquet.

    Rows that are none are counted in `report`, not raised.

    Raises:
        DataError: the file cannot be read.
    """
    from reasonrl.data_tools.files import BadRow, read_paths

    seen: dict[str, int] = {}
    for _, row in read_paths(path, None, None, None):
        report.read += 1
        found = row.reason if isinstance(row, BadRow) else _problem(row, compaction)
        if isinstance(found, str):
            report.bad[found] = report.bad.get(found, 0) + 1
            continue
        report.responses_dropped += found.dropped
        seen[found.id] = seen.get(found.id, 0) + 1
        yield found if seen[found.id] == 1 else replace(found, id=f"{found.id}-{seen[found.id]}")


def _problem(row: Mapping[str, Any], compaction: Compaction) -> PoolProblem | str:
    """A problem, or why it is none."""
    conversation, responses, gold = row.get("conversation"), row.get("responses"), row.get("ground_truth")
    if not isinstance(conversation, Sequence) or not all(isinstance(turn, Mapping) for turn in conversation):
        return "no conversation"
    if not any(turn.get("role") == "user" for turn in conversation):
        return "no message of the user"
    if not isinstance(responses, Sequence) or isinstance(responses, str) or not all(map(_is_text, responses)):
        return "responses is no list of texts"
    if gold is None or gold == "":
        return "no ground_truth"
    scores = row.get("scores")
    if scores is not None and len(scores) != len(responses):
        return "scores and responses differ in number"
    made = [compaction(text, None).text for text in responses]
    kept = [place for place, text in enumerate(made) if text]
    return PoolProblem(
        id=str(row["id"]) if row.get("id") is not None else prompt_hash(list(conversation)),
        conversation=tuple(conversation),
        messages=tuple(made[place] for place in kept),
        gold=str(gold),
        scores=None if scores is None else tuple(scores[place] for place in kept),
        columns={name: value for name, value in row.items() if name not in _FIELDS},
        dropped=len(made) - len(kept),
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def write_pool(path: str | Path, problems: Iterable[PoolProblem]) -> int:
    """Writes problems in the record format, JSON lines (a JSON list for a name that ends in .json), at once.

    Returns:
        How many.
    """
    from reasonrl.observe.metrics import write_atomically
    from reasonrl.observe.records import encode_record

    rows = [
        {
            "id": one.id,
            "conversation": [dict(turn) for turn in one.conversation],
            "responses": list(one.messages),
            "ground_truth": one.gold,
            **({} if one.scores is None else {"scores": list(one.scores)}),
            **one.columns,
        }
        for one in problems
    ]
    whole = Path(path).suffix == ".json"
    content = json.dumps(rows, ensure_ascii=False).encode() if whole else b"".join(map(encode_record, rows))
    write_atomically(Path(path), content)
    return len(rows)


def pool_of_samples(rows: Iterable[Mapping[str, Any]], compaction: Compaction = after_think) -> list[PoolProblem]:
    """A pool of sample rows as the stage kind `rollout` makes them: `problem_id`, `problem`, `answer`, `text`,
    `correct`; `prompt`, where it is there, is the conversation.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(str(row["problem_id"]), []).append(row)
    found = []
    for name, group in groups.items():
        first = group[0]
        made = [(compaction(row["text"], None).text, row.get("correct")) for row in group]
        kept = [(text, None if right is None else float(right)) for text, right in made if text]
        columns = {key: value for key, value in first.items() if key not in SAMPLE_COLUMNS and value is not None}
        found.append(
            PoolProblem(
                name,
                tuple(first.get("prompt") or ({"role": "user", "content": first["problem"]},)),
                tuple(text for text, _ in kept),
                str(first["answer"]),
                tuple(score for _, score in kept),
                columns,
                len(made) - len(kept),
            )
        )
    return found


def graded(problems: Iterable[PoolProblem], grade: Grade) -> Iterable[PoolProblem]:
    """The problems with scores of all messages; those that have some are kept as they are."""
    for one in problems:
        if one.scores is None:
            scores = tuple(grade([(one.gold, text) for text in one.messages]))
            one = replace(one, scores=scores)
        yield one


def by_verifier(policy: str = "default", workers: int | None = None) -> Grade:
    """Grades answers by the verifier: 1 right, 0 wrong, None where the gold cannot be compared with."""
    from reasonrl.rewards.grading import grade

    return lambda pairs: [verdict.score for verdict in grade(list(pairs), policy, workers).verdicts]


class PoolFilter:
    """Keeps problems whose messages' accuracy meets a condition, such as `0 < acc < 9/24`.

    Args:
        condition: over `FIGURES`; or one by the value of a column, as `{"math": …, "code": …}`.
        column: that column.
        least: messages that a problem must have.

    Raises:
        PacoreError: no condition.
    """

    def __init__(self, condition: str | Mapping[str, str] = MATH, column: str = "category", least: int = 1) -> None:
        given = {"": condition} if isinstance(condition, str) else dict(condition)
        try:
            self.conditions = {name: Expression(text, frozenset(FIGURES)) for name, text in given.items()}
        except ExpressionError as problem:
            raise PacoreError(f"filter: {problem}") from None
        self.column, self.least = column, least

    def wants(self, problem: PoolProblem, report: PoolReport) -> bool:
        """Whether to keep a problem; counted.

        Raises:
            PacoreError: no condition for the problem's kind.
        """
        kind = "" if "" in self.conditions else problem.columns.get(self.column)
        if kind not in self.conditions:
            raise PacoreError(
                f"problem {problem.id!r}: {self.column} is {kind!r}, and there are filters for"
                f" {', '.join(self.conditions)} -> add one"
            )
        figures = problem.figures()
        if figures["n"] < self.least:
            report.too_few += 1
        elif figures["n_unscored"] == figures["n"]:
            report.unscored += 1
        elif self.conditions[kind].evaluate(figures):
            report.kept += 1
            return True
        elif figures["acc"] == 0:
            report.none_right += 1
        elif figures["acc"] == 1:
            report.all_right += 1
        else:
            report.filtered += 1
        return False
