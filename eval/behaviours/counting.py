"""Counting behaviours over the responses of one suite: by patterns, and by a judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reasonrl.errors import StageFailed
from reasonrl.eval.behaviours.catalogue import Catalogue
from reasonrl.eval.behaviours.judge import BehaviourJudge, Task
from reasonrl.eval.behaviours.lexical import lexical_count
from reasonrl.eval.behaviours.responses import Key, Response
from reasonrl.eval.behaviours.store import FOLDER, CountStore
from reasonrl.observe.metrics import write_atomically
from reasonrl.observe.records import encode_record, iter_records

LEXICAL = "lexical"
"""The baseline's name as a coder."""

MOST_FAILURES = 20
"""When so many questions (or as many as are asked at once, if that is less) have failed and none has been answered, the
judge is not asked on."""


@dataclass
class Asked:
    """What came of asking a judge.

    Attributes:
        there: counts that were there before.
        counted: counts made now.
        empty: of these, counts of empty responses, which are 0 without asking.
        failed: questions without a count; they are asked again next time.
        re_asked: replies that had to be asked for again.
        first_failure: why the first of the failed did.
    """

    there: int = 0
    counted: int = 0
    empty: int = 0
    failed: int = 0
    re_asked: int = 0
    first_failure: str = ""


def count_lexically(
    folder: Path, responses: Sequence[Response], catalogue: Catalogue, tick: Callable[[], None] = lambda: None
) -> None:
    """Write the baseline's counts of a suite to `behaviours/lexical.jsonl`; counts by unchanged patterns are kept.

    Args:
        folder: of the suite.
        responses: of it.
        catalogue: behaviours without patterns are not counted.
        tick: called after each response.
    """
    path = folder / FOLDER / f"{LEXICAL}.jsonl"
    behaviours = [behaviour for behaviour in catalogue.behaviours() if behaviour.patterns]
    known = _known(path)
    lines = []
    for response in responses:
        row = {"id": response.id, "metric": response.metric, "index": response.index}
        for behaviour in behaviours:
            count = known.get((response.key, response.text_hash, behaviour.fingerprint))
            if count is None:
                count = lexical_count(behaviour, response.text)
            line = {**row, "behaviour": behaviour.name, "text_hash": response.text_hash, "count": count}
            lines.append(encode_record({**line, "patterns": behaviour.fingerprint}))
        tick()
    write_atomically(path, b"".join(lines))


def _known(path: Path) -> dict[tuple[Key, str, str], int]:
    return {
        ((row["id"], row["metric"], row["index"]), row["text_hash"], row["patterns"]): row["count"]
        for row in iter_records(path)
        if "patterns" in row
    }


def tasks_of(responses: Sequence[Response], catalogue: Catalogue, votes: int) -> list[Task]:
    """Every question about these responses, those about one response beside each other."""
    return [
        Task(response, behaviour, vote)
        for response in responses
        for vote in range(votes)
        for behaviour in catalogue.behaviours()
        if behaviour.definition
    ]


def count_by_judge(
    responses: Sequence[Response],
    catalogue: Catalogue,
    judge: BehaviourJudge,
    store: CountStore,
    tick: Callable[[], None] = lambda: None,
) -> Asked:
    """Ask what the store has no count of, and write each count as it comes.

    Args:
        responses: of the store's suite.
        catalogue: behaviours without a definition are not asked about.
        judge: whom to ask.
        store: open.
        tick: called after each question.

    Returns:
        What came of it. A question whose reply has no count, or that fails for a reason of the moment, is left out:
        the next call asks it again.

    Raises:
        RunError: the store's counts are about other responses.
        StageFailed: the first questions all failed, `MOST_FAILURES` or fewer.
        EndpointSettingsError, BudgetSpent, Rejected: nothing more can be asked; the counts so far are in the store.
    """
    store.check(responses)
    tasks = tasks_of(responses, catalogue, judge.votes)
    missing = [task for task in tasks if not store.has(task.response, task.behaviour.name, task.vote)]
    asked = Asked(there=len(tasks) - len(missing))
    for task in missing:
        if not task.response.text.strip():
            store.add(task.response, task.behaviour.name, task.vote, {"count": 0, "asked": 0})
            asked.counted += 1
            asked.empty += 1
            tick()
    questions = [task for task in missing if task.response.text.strip()]
    patience = min(MOST_FAILURES, max(4, judge.client.config.max_concurrency), len(questions))
    for task, answer in judge.count(questions):
        asked.re_asked += answer.asked - 1
        if answer.failure:
            asked.failed += 1
            asked.first_failure = asked.first_failure or answer.failure
            if asked.failed >= patience and asked.counted == asked.empty:
                raise StageFailed(
                    f"the judge gave no count in its first {asked.failed} answers; the first: {asked.first_failure} ->"
                    " check --endpoint and --model; a server that refuses `response_format` needs --reply text"
                )
        else:
            found = answer.verdict
            row = {"count": found.count, "quoted": found.quoted, "quotes": list(found.quotes), "asked": answer.asked}
            store.add(task.response, task.behaviour.name, task.vote, row)
            asked.counted += 1
        tick()
    return asked
