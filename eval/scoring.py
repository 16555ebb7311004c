"""Judging samples: the math verdict per sample, or any reward function called the way TRL calls it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from reasonrl.errors import DataError, RewardError

if TYPE_CHECKING:
    from reasonrl.rewards.verdict import Verdict

UNSCORABLE = frozenset({"bad_gold", "fault"})
"""Verdicts that are the grader's or the data's failure, not the sample's: left out of every rate, and counted."""


@dataclass(frozen=True)
class Answer:
    """One sample to judge: its row, the conversation it answers, its text, its tokens, and how it ended (`stop` or
    `length`).
    """

    row: Mapping[str, Any]
    messages: Sequence[Mapping[str, Any]]
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str = "stop"


@dataclass(frozen=True)
class Judgement:
    """What a grader says of one sample.

    Attributes:
        right: whether the answer is right, however the sample ended; None if it could not be scored.
        score: the reward function's number, or 1 and 0; None likewise.
        verdict: `correct`, `wrong`, `no_answer`, `timeout`, `crash`, `bad_gold`, `fault`; for other rewards `scored` or
            `unscored`.
        extracted: the answer read from the text, if the grader tells.
        reason: why, in a few words, if the grader tells.
        items: a verdict for each of the problems that the sample answers, where its prompt asks several
            (`rewards.compound`); None elsewhere.
    """

    right: bool | None
    score: float | None
    verdict: str
    extracted: str | None
    reason: str | None = None
    items: list[dict[str, Any]] | None = None


Scorer: TypeAlias = Callable[[Sequence[Answer]], list[Judgement]]
Beginner: TypeAlias = Callable[[Answer], None]


def build_judging(
    reward: Any, base_dir: str | Path | None = None, rows: Sequence[Mapping[str, Any]] = ()
) -> tuple[Scorer, Beginner]:
    """`build_scorer`, and what begins the work on one answer before the scorer is asked (`rewards.early`)."""
    from reasonrl.rewards.early import begin, can_begin

    scorer = build_scorer(reward, base_dir, rows)
    if plain_spec(reward) == "math":
        return scorer, _begin_math
    function = getattr(scorer, "function", None)

    def begin_with(answer: Answer) -> None:
        prompt, completion = _asked(answer)
        row = {name: value for name, value in answer.row.items() if name != "prompt"}
        row |= {"finish_reason": answer.finish_reason, "completion_ids": list(answer.token_ids)}
        begin(function, prompt, completion, row)

    return scorer, begin_with if can_begin(function) else lambda answer: None


@dataclass(frozen=True)
class _FunctionScorer:
    function: Callable[..., Any]

    def __call__(self, answers: Sequence[Answer]) -> list[Judgement]:
        return _score_with(self.function, answers)


def build_scorer(reward: Any, base_dir: str | Path | None = None, rows: Sequence[Mapping[str, Any]] = ()) -> Scorer:
    """The scorer of a reward: `math` (alone, weight 1, no arguments) gives verdicts; every other spec is called as a
    reward function.

    Args:
        reward: a reward spec of the recipe (a name, `file.py:function`, terms) or a callable reward function.
        base_dir: what relative files in the spec are relative to.
        rows: what will be judged: a reward that cannot use a row says so now.

    Raises:
        RewardError: the reward cannot be found or built, or cannot use a row.
    """
    spec = plain_spec(reward)
    if spec == "math":
        return _score_math
    from reasonrl.rewards import check_rows, get_reward

    function = get_reward(spec, base_dir)
    if function.token_level:
        raise RewardError(
            f"reward {function.__name__!r} rewards tokens, and an evaluation judges whole responses"
            " -> name a reward without token_level"
        )
    check_rows(function, rows)
    return _FunctionScorer(function)


def grader_version(reward: Any) -> int | None:
    """The version of the rules by which `math` alone judges: stored samples of another version are judged again; None
    for other rewards, which may read more than what is stored.
    """
    from reasonrl.rewards.versions import rule_versions

    return rule_versions("math")["math"] if plain_spec(reward) == "math" else None


def reward_basis(reward: Any, base_dir: str | Path | None = None) -> dict[str, Any]:
    """What a reward's verdicts depend on beside its spec: `rules` (versions) and `reward_files` (SHA-256 by file name);
    only what there is. Verdicts of another basis must not be mixed.
    """
    from reasonrl.rewards.versions import rule_versions

    spec = plain_spec(reward)
    files = {}
    for text in _texts(spec):
        name, colon, _ = text.rpartition(":")
        path = Path(base_dir or ".") / Path(name).expanduser()
        if colon and name.endswith(".py") and path.is_file():
            files[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    found = {"rules": rule_versions(spec), "reward_files": files}
    return {key: value for key, value in found.items() if value}


def _texts(spec: Any) -> Iterator[str]:
    if isinstance(spec, str):
        yield spec
    elif isinstance(spec, Mapping):
        for part in spec.values():
            yield from _texts(part)
    elif isinstance(spec, Sequence):
        for part in spec:
            yield from _texts(part)


def plain_spec(reward: Any) -> Any:
    """A reward spec with the recipe's models turned into plain mappings; names and functions stay as they are."""
    if hasattr(reward, "model_dump"):
        return reward.model_dump(mode="json")
    if isinstance(reward, Sequence) and not isinstance(reward, str):
        return [plain_spec(term) for term in reward]
    return reward


def _score_math(answers: Sequence[Answer]) -> list[Judgement]:
    from reasonrl.rewards.grading import grade

    for answer in answers:
        if answer.row.get("answer") is None:
            raise DataError(
                f"row {answer.row.get('id')!r} has no 'answer' to check against"
                " -> map the column with `columns: {answer: ...}`"
            )
    graded = grade([(str(answer.row["answer"]), answer.text) for answer in answers])
    return [_judgement(verdict) for verdict in graded.verdicts]


def _begin_math(answer: Answer) -> None:
    from reasonrl.rewards.grading import begin_grading

    if answer.row.get("answer") is not None:  # the scorer says what is missing
        begin_grading(str(answer.row["answer"]), answer.text)


def _asked(answer: Answer) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Prompt and completion as reward functions are given them."""
    return [dict(message) for message in answer.messages], [{"role": "assistant", "content": answer.text}]


def _judgement(verdict: Verdict) -> Judgement:
    right = None if verdict.status in UNSCORABLE else verdict.status == "correct"
    return Judgement(right, None if right is None else float(right), verdict.status, verdict.extracted, verdict.reason)


def _score_with(function: Callable[..., Any], answers: Sequence[Answer]) -> list[Judgement]:
    """Calls a reward function on a batch; right means a score of at least 1.

    A function that fills the `log_extra` columns `verdict`, `extracted` and `item_verdicts` is taken at its word for
    them.
    """
    extra: dict[str, list[Any]] = {}
    names = dict.fromkeys(name for answer in answers for name in answer.row if name not in ("prompt", "finish_reason"))
    prompts, completions = zip(*map(_asked, answers), strict=True)
    scores = function(
        prompts=list(prompts),
        completions=list(completions),
        completion_ids=[list(answer.token_ids) for answer in answers],
        finish_reason=[answer.finish_reason for answer in answers],
        log_extra=lambda column, values: extra.setdefault(column, []).extend(values),
        log_metric=lambda name, value: None,
        **{name: [answer.row.get(name) for answer in answers] for name in names},
    )
    if len(scores) != len(answers):
        raise RewardError(
            f"the reward function returned {len(scores)} scores for {len(answers)} completions"
            " -> return one a completion"
        )
    verdicts = _column(extra, "verdict", len(answers))
    extracted = _column(extra, "extracted", len(answers))
    items = _column(extra, "item_verdicts", len(answers))
    return [
        Judgement(
            right=None if score is None else float(score) >= 1.0,
            score=None if score is None else float(score),
            verdict=str(verdict) if verdict is not None else ("unscored" if score is None else "scored"),
            extracted=None if text is None else str(text),
            items=None if of_each is None else json.loads(of_each),
        )
        for score, verdict, text, of_each in zip(scores, verdicts, extracted, items, strict=True)
    ]


def _column(extra: Mapping[str, list[Any]], name: str, size: int) -> list[Any]:
    values = extra.get(name)
    return values if values is not None and len(values) == size else [None] * size
