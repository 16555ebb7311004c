"""Samples that were drawn elsewhere, as rows of any layout, read into ours; what cannot be used is named with the
reason.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reasonrl.data_tools.files import BadRow, PlacedRow
from reasonrl.data_tools.layout import CANONICAL, canonical_row

_CANDIDATES: dict[str, tuple[str, ...]] = {
    "text": ("text", "response", "completion", "generation", "generations", "responses", "output", "outputs"),
    "problem_id": ("problem_id", "question_id", "prompt_id"),
    "correct": ("correct", "is_correct", "correctness", "verified"),
    "reward": ("reward", "score"),
    "finish_reason": ("finish_reason", "finish_reasons", "stop_reason"),
    "length": ("length", "num_tokens", "completion_tokens"),
    "prompt_ids": ("prompt_ids", "prompt_token_ids"),
    "completion_ids": ("completion_ids", "response_ids", "output_ids", "token_ids"),
    "logprobs_sampled": ("logprobs_sampled", "logprobs", "token_logprobs"),
    "seed": ("seed",),
    "index": ("index", "sample_index"),
}
"""Names under which a column is looked for, where the recipe does not name it."""

_STOP = frozenset({"stop", "eos", "end_turn", "stop_sequence", "eos_token", "finished", "completed"})
_LENGTH = frozenset({"length", "max_tokens", "max_length", "truncated", "model_length"})
_SHARED = ("problem_id", "prompt_ids")
"""Columns of a problem, not of a sample."""


@dataclass(frozen=True)
class Damaged:
    """A sample that cannot be used: where it stands, its id if it has one, and why."""

    place: str
    id: str | None
    reason: str

    @property
    def kind(self) -> str:
        """What the reason is about, to be counted by."""
        return self.reason.partition(":")[0]


@dataclass(frozen=True)
class Logged:
    """One sample of a log.

    Attributes:
        place: `file:line`, with the number of the sample where a row holds several.
        row: the problem: `problem`, `prompt`, `answer`, `id` where the log has them.
        problem_id: as the log has it; None if it has none.
        text: the response.
        values: what the log says of the sample, checked: `correct`, `reward`, `finish_reason`, `length`, `prompt_ids`,
            `completion_ids`, `logprobs_sampled`, `seed`, `index`; only what is there.
        columns: the row's other scalars.
    """

    place: str
    row: Mapping[str, Any]
    problem_id: str | None
    text: str
    values: Mapping[str, Any]
    columns: Mapping[str, Any] = field(default_factory=dict)


def read_logs(rows: Iterable[PlacedRow], columns: Mapping[str, str]) -> Iterator[Logged | Damaged]:
    """The samples of these rows, in order. A row whose text is a list holds several; its other columns that are lists
    of equal length are theirs.

    Args:
        rows: as `data_tools.files.read_paths` gives them.
        columns: our name -> theirs; `a.b` reaches into nested columns.
    """
    for place, raw in rows:
        if isinstance(raw, BadRow):
            yield Damaged(place, None, raw.reason)
            continue
        found = {name: value for name in _CANDIDATES if (value := _taken(raw, name, columns)) is not None}
        named = str(raw[columns.get("id", "id")]) if raw.get(columns.get("id", "id")) is not None else None
        mapped = {ours: theirs for ours, theirs in columns.items() if ours in CANONICAL and ours != "reward"}
        row = canonical_row({**raw}, mapped, ("problem",))
        if isinstance(row, BadRow):
            yield Damaged(place, named, row.reason)
            continue
        used = {columns.get(name, other) for name, names in _CANDIDATES.items() for other in names}
        asked, others = _parted(row, used | set(columns.values()))
        texts = _texts(found.pop("text", None))
        if texts is None:
            yield Damaged(place, named, "text: there is no response")
        elif isinstance(texts, str):
            yield _logged(place, named, asked, texts, found, others)
        else:
            for number, text in enumerate(texts):
                own = {
                    name: value if name in _SHARED else _of_sample(value, number, len(texts))
                    for name, value in found.items()
                }
                yield _logged(f"{place}, sample {number}", named, asked, text, own, others)


def _taken(raw: Mapping[str, Any], name: str, columns: Mapping[str, str]) -> Any:
    if name in columns:
        value: Any = raw
        for part in [columns[name]] if columns[name] in raw else columns[name].split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value
    return next((raw[other] for other in _CANDIDATES[name] if raw.get(other) is not None), None)


def _parted(row: Mapping[str, Any], used: set[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The problem, and the other scalars."""
    asked = {name: row[name] for name in ("problem", "prompt", "answer", "id") if row.get(name) is not None}
    left_out = {*CANONICAL, *used}
    others = {
        name: value for name, value in row.items() if name not in left_out and isinstance(value, (str, int, float))
    }
    return asked, others


def _texts(value: Any) -> str | list[Any] | None:
    """A response, or several; the last message of a conversation is its response."""
    if isinstance(value, str):
        return value
    if not isinstance(value, Sequence) or not value:
        return None
    if all(isinstance(one, Mapping) and "content" in one for one in value):
        return value[-1]["content"] if isinstance(value[-1]["content"], str) else None
    return list(value)


def _of_sample(value: Any, number: int, count: int) -> Any:
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return value[number] if listed and len(value) == count else value


def _logged(
    place: str, named: str | None, asked: Mapping[str, Any], text: Any, found: Mapping[str, Any], others: Any
) -> Logged | Damaged:
    if not isinstance(text, str) or not text:
        return Damaged(place, named, "text: is empty" if text == "" else f"text: is a {type(text).__name__}")
    values: dict[str, Any] = {}
    for name, value in found.items():
        if value is None or name == "problem_id":
            continue
        checked, fault = _CHECKS[name](value)
        if fault:
            return Damaged(place, named, f"{name}: {fault}")
        values[name] = checked
    if fault := _together(values):
        return Damaged(place, named, fault)
    problem_id = found.get("problem_id")
    return Logged(place, asked, None if problem_id is None else str(problem_id), text, values, dict(others))


def _together(values: dict[str, Any]) -> str:
    """What does not go together."""
    ids, logprobs, length = (values.get(name) for name in ("completion_ids", "logprobs_sampled", "length"))
    if ids is not None and logprobs is not None and len(ids) != len(logprobs):
        return f"logprobs_sampled: {len(logprobs)} numbers for {len(ids)} token ids"
    if ids is not None and length is not None and length != len(ids):
        return f"length: is {length}, and there are {len(ids)} token ids"
    return ""


def _verdict(value: Any) -> tuple[bool | None, str]:
    if isinstance(value, str):
        value = {"true": True, "correct": True, "false": False, "wrong": False, "incorrect": False}.get(
            value.strip().lower(), value
        )
    if value in (0, 1):
        return bool(value), ""
    return None, f"is {str(value)[:40]!r}, no verdict"


def _number(value: Any) -> tuple[float | None, str]:
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value), ""
    return None, f"is {str(value)[:40]!r}, no finite number"


def _end(value: Any) -> tuple[str | None, str]:
    if not isinstance(value, str):
        return None, f"is {str(value)[:40]!r}, no text"
    word = value.strip().lower()
    return "stop" if word in _STOP else "length" if word in _LENGTH else value, ""


def _whole(value: Any) -> tuple[int | None, str]:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value) or value < 0:
        return None, f"is {str(value)[:40]!r}, no count"
    return int(value), ""


def _tokens(value: Any) -> tuple[list[int] | None, str]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return None, f"is {str(value)[:40]!r}, no list of token ids"
    for place, one in enumerate(value):
        if isinstance(one, bool) or not isinstance(one, int) or not 0 <= one < 2**31:
            return None, f"token {place} is {str(one)[:40]!r}"
    return list(value), ""


def _logprobs(value: Any) -> tuple[list[float] | None, str]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return None, f"is {str(value)[:40]!r}, no list of numbers"
    for place, one in enumerate(value):
        # Rounding may leave a certain token a hair above 0.
        if isinstance(one, bool) or not isinstance(one, (int, float)) or not math.isfinite(one) or one > 1e-3:
            return None, f"token {place} has {str(one)[:40]!r}"
    return [min(float(one), 0.0) for one in value], ""


def _any(value: Any) -> tuple[str, str]:
    return str(value), ""


_CHECKS: dict[str, Any] = {
    "correct": _verdict,
    "reward": _number,
    "finish_reason": _end,
    "length": _whole,
    "prompt_ids": _tokens,
    "completion_ids": _tokens,
    "logprobs_sampled": _logprobs,
    "seed": _any,
    "index": _whole,
}
