"""Judging stored samples again by another policy, reward or grader, without drawing any: `verdicts/<name>.jsonl`."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import DataError, RewardError, RunError
from reasonrl.eval.answer_classes import answer_class
from reasonrl.eval.samples import (
    CURRENT,
    OWN,
    SETTINGS,
    Key,
    key_of,
    read_object,
    read_problems,
    read_samples,
    read_settings,
    verdicts_path,
)
from reasonrl.eval.scoring import UNSCORABLE, Answer, Judgement, build_scorer, plain_spec, reward_basis
from reasonrl.eval.verify_files import Settings, graded
from reasonrl.eval.verify_lines import Pair
from reasonrl.observe import write_atomically
from reasonrl.observe.records import RecordWriter, iter_records
from reasonrl.plugins import near
from reasonrl.rewards.policy import POLICIES

if TYPE_CHECKING:
    from reasonrl.rewards.pool import RewardPool

BLOCK = 64
"""So many samples are given to a reward at once."""
_class_of = lru_cache(maxsize=100_000)(answer_class)
"""Samples of one problem often give the same wrong answer."""
_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*")


@dataclass(frozen=True)
class Grading:
    """How samples are judged: by a policy of the math verifier, or by a reward.

    Attributes:
        policy: a name in the table of policies; not looked at where there is a reward.
        reward: a reward spec (a name, `file.py:function`, terms); None for the math verifier.
        workers: processes of the verifier; None takes one a processor, 0 grades in this process.
        time_limit: seconds the verifier may take for a sample.
        base_dir: what relative files in the reward spec are relative to.
    """

    policy: str = "default"
    reward: Any = None
    workers: int | None = None
    time_limit: float = 2.0
    base_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise RewardError(f"policy {self.policy!r} is unknown{near(self.policy, POLICIES)}")

    @property
    def name(self) -> str:
        """A name for the verdicts: that of the policy or of the reward."""
        spec = plain_spec(self.reward)
        if spec is None:
            return self.policy
        text = (
            spec
            if isinstance(spec, str)
            else str(spec.get("name", "reward"))
            if isinstance(spec, Mapping)
            else "reward"
        )
        return re.sub(r"[^\w.\-]+", "_", Path(text).name).strip("_.") or "reward"

    def identity(self) -> dict[str, Any]:
        """What verdicts depend on, for the settings beside them."""
        from reasonrl.rewards.math import GRADER_VERSION

        if self.reward is None:
            return {"policy": self.policy, "grader": int(GRADER_VERSION), "time_limit": self.time_limit}
        return {"reward": plain_spec(self.reward), "rules": {}, **reward_basis(self.reward, self.base_dir)}


def own_grading(directory: str | Path, grading: Grading) -> Grading:
    """The grading by the reward that a suite's samples were made with, as it is today; `grading` where that was `math`
    alone, or where none is known (imported samples).
    """
    reward = read_settings(directory).get("reward")
    return grading if reward in (None, "math") else replace(grading, reward=reward)


@dataclass(frozen=True)
class Regraded:
    """What a re-grade of one suite did.

    Attributes:
        path: the file of verdicts.
        total: samples of the suite.
        made: verdicts made now; the others were there already.
    """

    path: Path
    total: int
    made: int


def check_name(name: str) -> None:
    """Raises RunError if a re-grade cannot have this name."""
    if name in (CURRENT, OWN):
        raise RunError(f"--name {name}: verdicts of this name are the evaluation's own -> choose another name")
    if not _NAME.fullmatch(name):
        raise RunError(
            f"--name {name!r} is no name of a file -> use letters, digits, '-', '_' and '.', a letter or digit first"
        )


def regrade_suite(
    directory: str | Path,
    grading: Grading,
    name: str,
    *,
    restart: bool = False,
    pool: RewardPool | None = None,
    on_start: Callable[[int, int], None] = lambda total, done: None,
    on_verdict: Callable[[], None] = lambda: None,
) -> Regraded:
    """Judges every sample of a suite's folder that `verdicts/<name>.jsonl` lacks; the samples themselves stay.

    A line is written as its verdict is made, so that a killed re-grade goes on, and one of a suite that has grown
    judges what is new.

    Args:
        directory: the suite's folder.
        grading: how to judge.
        name: of the re-grade.
        restart: throw away what is there under this name.
        pool: the verifier's, for several suites; None makes one if it is needed.
        on_start: called with the number of samples in all and of those done before.
        on_verdict: called after each verdict.

    Raises:
        RunError: the verdicts that are there were made in another way, or another process makes them.
        DataError: no problem has an answer and the grading needs one.
        RewardError: the reward cannot be found, or cannot use a row.
    """
    check_name(name)
    directory = Path(directory)
    problems = read_problems(directory)
    rows = read_samples(directory, OWN, problems)
    if grading.reward is None and rows and all(problem.get("answer") is None for problem in problems.values()):
        raise DataError(f"{directory}: no problem has an answer to check against -> name a --reward that needs none")
    path = verdicts_path(directory, name)
    identity = grading.identity() | {"samples": _fingerprint(directory, problems)}
    if restart:
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
    _check_same(path, identity)
    writer = RecordWriter(path)
    try:
        write_atomically(
            path.with_suffix(".json"), (json.dumps(identity, indent=1, ensure_ascii=False) + "\n").encode()
        )
        there = {key_of(row) for row in iter_records(path)}
        todo = [row for row in rows if key_of(row) not in there]
        on_start(len(rows), len(rows) - len(todo))
        for row, judgement in _judged(todo, problems, grading, pool):
            writer.write(verdict_record(row, judgement, identity.get("grader")))
            on_verdict()
    finally:
        writer.close()
    return Regraded(path, len(rows), len(todo))


def verdict_record(row: Mapping[str, Any], judgement: Judgement, grader: Any) -> dict[str, Any]:
    """The line of a re-grade for a sample."""
    right = judgement.right
    return {
        "id": row["id"],
        "metric": row["metric"],
        "index": row["index"],
        "extracted": judgement.extracted,
        "class": _class_of(judgement.extracted, right),
        "verdict": judgement.verdict,
        "reason": judgement.reason,
        "right": right,
        "correct": None if right is None else right and row["finish_reason"] == "stop",
        "score": judgement.score,
        "grader": grader,
        **({} if judgement.items is None else {"items": judgement.items}),
    }


def require_current(directory: str | Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Refuses a re-grade of other samples, of other answers, or of fewer samples than there are now.

    Raises:
        RunError: it is one.
    """
    path = verdicts_path(directory, name)
    if name in (OWN, CURRENT) or not path.exists():
        return
    made_of = read_object(path.with_suffix(".json"), "make the re-grade anew with --restart").get("samples")
    if made_of not in (None, _fingerprint(Path(directory), read_problems(directory))):
        raise RunError(
            f"{directory}: the re-grade {name!r} was made of other problems or answers than there are now -> run"
            f" `reasonrl regrade` with --name {name} --restart"
        )
    if missing := missing_verdicts(directory, name, rows):
        raise RunError(
            f"{directory}: the re-grade {name!r} lacks {missing:,} of {len(rows):,} samples -> run `reasonrl"
            f" regrade` with --name {name} again, it judges what is new"
        )


def missing_verdicts(directory: str | Path, name: str, rows: Sequence[Mapping[str, Any]]) -> int:
    """How many of the samples a re-grade has no verdict on (the suite has grown since); 0 of the evaluation's own."""
    if name in (OWN, CURRENT):
        return 0
    there: set[Key] = {key_of(row) for row in iter_records(verdicts_path(directory, name))}
    return sum(key_of(row) not in there for row in rows)


def _judged(
    rows: Sequence[Mapping[str, Any]],
    problems: Mapping[str, Mapping[str, Any]],
    grading: Grading,
    pool: RewardPool | None,
) -> Iterator[tuple[Mapping[str, Any], Judgement]]:
    """Every sample with its judgement, in order."""
    if grading.reward is None:
        settings = Settings(grading.policy, grading.workers, grading.time_limit)
        for pair, verdict in graded(_pairs(rows, problems), settings, len(rows), pool):
            right = None if verdict.status in UNSCORABLE else verdict.correct
            score = None if right is None else float(right)
            yield rows[pair.line], Judgement(right, score, verdict.status, verdict.extracted, verdict.reason)
        return
    from reasonrl.rewards.pool import close_shared_pools

    asked = {key: reward_row(problem) for key, problem in problems.items()}
    score_all = build_scorer(grading.reward, grading.base_dir, list(asked.values()))
    try:
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            answers = [_answer(row, asked[row["id"]], problems[row["id"]]) for row in block]
            yield from zip(block, score_all(answers), strict=True)
    finally:
        close_shared_pools()


def _pairs(rows: Sequence[Mapping[str, Any]], problems: Mapping[str, Mapping[str, Any]]) -> Iterator[Pair]:
    for place, row in enumerate(rows):
        answer = problems[row["id"]].get("answer")
        fault = "" if answer is not None else "the problem has no answer to check against"
        yield Pair(place, None if answer is None else str(answer), row["text"], {}, fault)


def reward_row(problem: Mapping[str, Any]) -> dict[str, Any]:
    """A problem as a row of data, for rewards that read its columns."""
    own = {name: value for name, value in problem.items() if name not in ("columns", "prompt", "prompt_hash", "images")}
    return {"problem": problem.get("prompt"), **(problem.get("columns") or {}), **own}


def _answer(row: Mapping[str, Any], asked: Mapping[str, Any], problem: Mapping[str, Any]) -> Answer:
    messages = [{"role": "user", "content": str(problem.get("problem") or problem.get("prompt") or "")}]
    # Token ids are not stored; rewards for length read how many there are.
    return Answer(asked, messages, row["text"], (0,) * (row["length"] or 0), row["finish_reason"])


def _fingerprint(directory: Path, problems: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 of what samples are of one kind by, and of the answers."""
    settings = directory / SETTINGS
    digest = hashlib.sha256(settings.read_bytes() if settings.exists() else b"")
    digest.update(json.dumps([[key, problem.get("answer")] for key, problem in problems.items()]).encode())
    return digest.hexdigest()


def _check_same(path: Path, identity: Mapping[str, Any]) -> None:
    """Raises RunError unless the verdicts that are there were made in the same way of the same samples."""
    if not path.exists() or not path.stat().st_size:
        return
    try:
        before = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} holds verdicts, and {path.stem}.json does not say how they were made -> give another --name, or"
            " throw them away with --restart"
        ) from error
    now = json.loads(json.dumps(identity))
    changed = [
        f"{key}: {before.get(key)!r} -> {now.get(key)!r}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise RunError(
            f"{path} was made otherwise ({'; '.join(changed)}) -> give another --name, or throw it away with --restart"
        )
