"""From problems to rollouts: samples drawn into a record, and the record turned into one file, problem by problem."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reasonrl.errors import DataError, RunError
from reasonrl.eval.drawing import OnProgress
from reasonrl.eval.recording import SampleOrder, record_samples
from reasonrl.eval.rollouts.figures import Figures, group_figures
from reasonrl.eval.rollouts.metering import Metered
from reasonrl.eval.rollouts.rows import ROLLOUTS, ColumnTypes, RolloutFile, own_columns, sample_row
from reasonrl.eval.rollouts.tokens import IDS, LOGPROBS, ids_of, logprobs_of
from reasonrl.eval.samples import CURRENT, SAMPLES, key_of, verdicts_path
from reasonrl.expressions import Expression, ExpressionError
from reasonrl.observe import write_atomically
from reasonrl.observe.records import encode_record, iter_records

if TYPE_CHECKING:
    from reasonrl.eval.questions import Question
    from reasonrl.rollout.engine import RolloutEngine

SAMPLES_FOLDER = "samples"
"""The record, `eval.samples`, in the stage's folder."""

STATISTICS, EXAMPLES = "statistics.json", "examples.jsonl"
_EXAMPLES_A_KIND = 2


@dataclass(frozen=True)
class Collected:
    """The product and what is told of it.

    Attributes:
        path: the parquet file.
        statistics: as in `statistics.json`.
    """

    path: Path
    statistics: dict[str, Any]


def collect(
    engine: RolloutEngine,
    tokenizer: Any,
    rows: Sequence[Mapping[str, Any]],
    order: SampleOrder,
    *,
    keep: str | None = None,
    texts: Any = None,
    about: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
    at_safe_point: Callable[[], None] | None = None,
) -> Collected:
    """Draws n samples a problem, verifies them, and writes `rollouts.parquet` and `statistics.json`.

    Every sample is in `<directory>/samples/` as soon as it is there: a killed collection goes on from it to the same
    file, and a larger n keeps what there is. Samples of more than two numbers a token are not held in memory.

    Args:
        order: what to draw and how to verify it; its name must be `samples`.
        keep: a condition over a problem's samples (`figures.group_figures`); the others' samples stay in the record.
        texts: tokenizer that gives ids to samples of which the engine gives text alone; None leaves them without.

    The others are those of `eval.run.run_suite`.

    Raises:
        DataError: `keep` leaves no problem.
        RunError: the folder holds samples made with other settings or for other prompts.
    """
    from reasonrl.data_tools import prompt_ids

    folder = Path(order.directory)
    metered = Metered(engine, folder / "attempts.jsonl")
    try:
        recorded = record_samples(
            metered,
            tokenizer,
            rows,
            order,
            extra={IDS: ids_of, LOGPROBS: logprobs_of},
            on_progress=on_progress,
            at_safe_point=at_safe_point,
        )
    finally:
        metered.save()
    problems = {key: _problem(asked) for key, asked in recorded.questions.items()}
    if texts is not None:
        for key, asked in recorded.questions.items():
            if problems[key]["prompt_ids"] is None and not asked.images:
                problems[key]["prompt_ids"] = ids_array(prompt_ids(texts, asked.messages))
    told = {**(about or {}), "decoding": order.decoding(), "grader": recorded.grader, "speed": metered.summary()}
    return finish(folder, problems, keep=keep, at_most=order.n, texts=texts, about=told)


def finish(
    folder: Path,
    problems: Mapping[str, Mapping[str, Any]],
    *,
    keep: str | None = None,
    at_most: int | None = None,
    texts: Any = None,
    about: Mapping[str, Any] | None = None,
) -> Collected:
    """Writes the product of a record in one pass: `rollouts.parquet`, `statistics.json`, and a few `examples.jsonl`.

    Args:
        folder: the stage's folder, with `samples/`.
        problems: by id and in order, what `rows.sample_row` needs of each.
        keep: as `collect`.
        at_most: samples a problem; None takes all.
        texts: as `collect`.
        about: more for `statistics.json`.

    Raises:
        DataError: `keep` leaves no problem.
        ExpressionError: `keep` asks for what is not known.
    """
    condition = None if keep is None else Expression(keep)
    everything, kept = Figures(), Figures()
    examples: dict[str, list[dict[str, Any]]] = {}
    types = ColumnTypes()
    for problem in problems.values():
        types.add(problem)
    places = _places(folder / SAMPLES_FOLDER / SAMPLES, types)
    with RolloutFile(folder / ROLLOUTS, types.found()) as file:
        for rows in _groups(folder / SAMPLES_FOLDER, problems, places, at_most, texts):
            everything.add(rows)
            figures = group_figures(rows)
            if condition is not None and not _holds(condition, figures):
                continue
            for row in rows:
                row["pass_rate"] = figures.get("pass_rate")
            kept.add(rows)
            _remember(examples, rows)
            file.write(rows)
        if not file.rows:
            raise DataError(
                f"keep: {keep!r} leaves none of the {everything.problems} problems"
                f" (mean pass rate {everything.summary()['pass_rate']['mean']}) -> loosen it, or change n or the model"
            )
    statistics = {**kept.summary(), "keep": keep, **(about or {})}
    if condition is not None:
        statistics["before_keep"] = everything.summary()
    write_atomically(folder / STATISTICS, json.dumps(statistics, indent=2, allow_nan=False).encode())
    lines = [row for some in examples.values() for row in some]
    write_atomically(folder / EXAMPLES, b"".join(map(encode_record, lines)))
    return Collected(folder / ROLLOUTS, statistics)


def _problem(asked: Question) -> dict[str, Any]:
    record = asked.record()
    return {
        "problem_id": record["id"],
        "problem": asked.row.get("problem") or record["prompt"],
        "answer": record["answer"],
        "prompt": conversation(asked.row, asked.messages),
        "prompt_ids": ids_array(asked.ids) if asked.ids else None,
        **own_columns(asked.row),
    }


def conversation(row: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]] | None:
    """How a problem was asked, where that is more than the problem itself; None for one with pictures."""
    plain = [{"role": "user", "content": row.get("problem")}]
    if [dict(message) for message in messages] == plain:
        return None
    if any(not isinstance(message["content"], str) for message in messages):
        return None
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def ids_array(ids: Sequence[int]) -> np.ndarray[Any, Any]:
    """Token ids as they stand in rows."""
    return np.asarray(ids, dtype=np.int32)


def complete_tokens(row: dict[str, Any], tokenizer: Any) -> None:
    """Gives ids to a response that came as text, with the end token where it ended by itself; its length is theirs
    then. Log-probabilities that do not fit the ids there are go away.
    """
    if row[IDS] is None and tokenizer is not None:
        ids = list(tokenizer(row["text"], add_special_tokens=False)["input_ids"])
        end = getattr(tokenizer, "eos_token_id", None)
        row[IDS] = ids_array([*ids, end] if row["finish_reason"] == "stop" and end is not None else ids)
        row["length"] = len(row[IDS])
    if row[LOGPROBS] is not None and (row[IDS] is None or len(row[IDS]) != len(row[LOGPROBS])):
        row[LOGPROBS] = None


def _groups(
    folder: Path,
    problems: Mapping[str, Mapping[str, Any]],
    places: Mapping[str, Mapping[int, int]],
    at_most: int | None,
    texts: Any,
) -> Iterator[list[dict[str, Any]]]:
    """The rows of each problem that has samples; one problem's are in memory at a time."""
    judged = {key_of(row): row for row in iter_records(verdicts_path(folder, CURRENT))}
    with (folder / SAMPLES).open("rb") as file:
        for name, problem in problems.items():
            rows = []
            for index, place in sorted(places.get(name, {}).items()):
                if at_most is not None and index >= at_most:
                    continue
                file.seek(place)
                stored = json.loads(file.readline())
                stored |= judged.get(key_of(stored), {})
                row = sample_row(problem, stored)
                complete_tokens(row, texts)
                rows.append(row)
            if rows:
                yield rows


def _places(path: Path, types: ColumnTypes) -> dict[str, dict[int, int]]:
    """Where the line of each sample begins: problem id -> index -> byte; `types` sees the samples' own columns."""
    found: dict[str, dict[int, int]] = {}
    place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                stored = json.loads(line)
                name, metric, index = key_of(stored)
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(f"{path}, line {number}: it is damaged ({error}) -> remove the line") from error
            types.add(stored.get("columns", {}))
            if metric == "sample":
                found.setdefault(name, {})[index] = place
            place += len(line)
    return found


def _holds(condition: Expression, figures: Mapping[str, float]) -> bool:
    """Whether a problem is kept; one whose samples lack a figure that is asked for is not."""
    if condition.variables <= figures.keys():
        return condition.evaluate(figures)
    from reasonrl.recipe.rollout_stage import GROUP_FIGURES

    if unknown := sorted(condition.variables - set(GROUP_FIGURES)):
        raise ExpressionError(f"keep: {condition.text!r} asks for {unknown[0]!r}; known: {', '.join(GROUP_FIGURES)}")
    return False


def _remember(examples: dict[str, list[dict[str, Any]]], rows: Sequence[Mapping[str, Any]]) -> None:
    """The first few samples of each verdict, for the report."""
    for row in rows:
        some = examples.setdefault(str(row["verdict"]), [])
        if len(some) < _EXAMPLES_A_KIND:
            some.append({name: value for name, value in row.items() if not isinstance(value, np.ndarray)})
