"""A rollout log as the simulator reads it: the completions of a run, or any parquet or JSONL file with their columns.

Columns: `length` (tokens of the response; the only one needed), `step`, `id` (of the prompt), `prompt` (text),
`prompt_tokens`, and stamps, all seconds: `server`, `started` (first token), `finished` (one clock a server),
`verify_seconds` (time of checking the answer).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonrl.errors import DataError
from reasonrl.observe import completion_files, read_metrics, read_parquet
from reasonrl.rollout.latency import Span
from reasonrl.rollout.lengths import PromptKey

COLUMNS = ("step", "id", "prompt", "prompt_tokens", "length", "server", "started", "finished", "verify_seconds")
CHARACTERS_A_TOKEN = 4
"""By which a prompt's tokens are estimated where the log does not count them."""


@dataclass(frozen=True)
class LoggedSample:
    """One sample of a log; `span` where it has stamps, `verify_seconds` where its check was timed."""

    step: int
    prompt: PromptKey
    length: int
    span: Span | None = None
    verify_seconds: float | None = None


@dataclass(frozen=True)
class RolloutLog:
    """What was read.

    Attributes:
        steps: samples by step, in ascending order of steps.
        skipped: rows without a usable length.
        train_seconds: mean seconds of a step that were neither generation nor reward, from the metrics beside the
            completions; None where there are none.
        reward_seconds: mean seconds of scoring a step, likewise.
    """

    steps: Mapping[int, tuple[LoggedSample, ...]]
    skipped: int = 0
    train_seconds: float | None = None
    reward_seconds: float | None = None

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return sum(len(samples) for samples in self.steps.values())

    @property
    def stamped(self) -> dict[int, tuple[LoggedSample, ...]]:
        """The steps whose every sample says when and where it ran."""
        return {step: samples for step, samples in self.steps.items() if all(one.span for one in samples)}


def read_rollout_log(path: str | Path) -> RolloutLog:
    """Read a log.

    Args:
        path: a run directory with one stage that has completions, a stage directory, a folder of `step_*.parquet`, one
            parquet file, or a JSONL file.

    Raises:
        DataError: there is no such log, several stages have one, or no row has a usable length.
    """
    place = Path(path)
    if place.is_dir():
        folder = _completions_folder(place)
        rows = (row for file in completion_files(folder).values() for row in _parquet_rows(file))
        train, reward = _step_seconds(folder.parent / "metrics.jsonl")
        return log_from_rows(rows, origin=str(path), train_seconds=train, reward_seconds=reward)
    if not place.is_file():
        raise DataError(f"rollout log {path}: no such file or directory")
    return log_from_rows(_parquet_rows(place) if place.suffix == ".parquet" else _jsonl_rows(place), origin=str(path))


def log_from_rows(
    rows: Iterable[Mapping[str, Any]],
    origin: str = "rows",
    train_seconds: float | None = None,
    reward_seconds: float | None = None,
) -> RolloutLog:
    """A log from plain rows with the columns above; a row without `id` is a prompt of its own.

    Raises:
        DataError: no row has a usable length.
    """
    steps: dict[int, list[LoggedSample]] = {}
    skipped = seen = 0
    for number, row in enumerate(rows):
        seen += 1
        length = row.get("length")
        if not isinstance(length, (int, float)) or isinstance(length, bool) or not 1 <= length < math.inf:
            skipped += 1
            continue
        step = row.get("step")
        sample = _sample(row, int(length), number, 0 if step is None else int(step))
        steps.setdefault(sample.step, []).append(sample)
    if not steps:
        raise DataError(
            f"rollout log {origin}: none of {seen} rows has a `length` of at least 1 token -> the log needs that column"
        )
    ordered = {step: tuple(steps[step]) for step in sorted(steps)}
    return RolloutLog(ordered, skipped, train_seconds, reward_seconds)


def _sample(row: Mapping[str, Any], length: int, number: int, step: int) -> LoggedSample:
    text = row.get("prompt")
    text = text if isinstance(text, str) else ""
    tokens = row.get("prompt_tokens")
    prompt = PromptKey(
        id=str(row["id"]) if row.get("id") is not None else f"row {number}",
        text=text,
        tokens=int(tokens) if tokens is not None else len(text) // CHARACTERS_A_TOKEN,
    )
    started, finished, verified = row.get("started"), row.get("finished"), row.get("verify_seconds")
    span = None
    if started is not None and finished is not None and finished > started:
        span = Span(str(row.get("server") or "0"), float(started), float(finished), length)
    return LoggedSample(step, prompt, length, span, None if verified is None else float(verified))


def _completions_folder(place: Path) -> Path:
    if completion_files(place):
        return place
    if completion_files(place / "completions"):
        return place / "completions"
    found = [folder for folder in sorted(place.glob("stages/*/completions")) if completion_files(folder)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise DataError(
            f"rollout log {place}: no step_*.parquet here, in completions/ or in stages/*/completions/ -> name a run"
            " whose stage wrote completions, or a parquet or JSONL file"
        )
    names = ", ".join(folder.parent.name for folder in found)
    raise DataError(f"rollout log {place}: several stages have completions ({names}) -> name one stage's directory")


def _parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        present = pyarrow.parquet.read_schema(file).names
        rows = read_parquet(file, [name for name in COLUMNS if name in present])
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"rollout log {file} cannot be read as parquet: {error}") from error
    yield from rows


def _jsonl_rows(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"rollout log {file}:{number}: not a line of JSON: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"rollout log {file}:{number}: a JSON object a line is needed")
            yield row


def _step_seconds(file: Path) -> tuple[float | None, float | None]:
    """Mean seconds a step of training (what is neither generation nor reward) and of rewards."""
    if not file.exists():
        return None, None
    names = ("time/step", "time/generate", "time/reward")
    lines = [[line[name] for name in names] for line in read_metrics(file) if all(name in line for name in names)]
    if not lines:
        return None, None
    train = [max(0.0, step - generate - reward) for step, generate, reward in lines]
    return sum(train) / len(train), sum(reward for _, _, reward in lines) / len(lines)
