"""From the columns of the wild to ours: `problem`, `answer`, `solution`, `prompt`.

Recognised without being told: question/answer rows (GSM8K, MATH and their kin), verl's parquet (`prompt` messages,
`reward_model.ground_truth`) and TRL's layouts (`prompt` as text or messages, `messages`, `completion`, `solution`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from reasonrl.data_tools.files import BadRow
from reasonrl.data_tools.gold import clean_answer, gold_in_solution

CANONICAL = ("problem", "answer", "solution", "prompt", "id", "reward", "images")
"""Our names: the keys that `columns` may map."""

_PROBLEM = ("problem", "question", "query", "instruction")
_ANSWER = ("answer", "expected_answer", "final_answer", "reference_answer", "ground_truth", "gold")
_SOLUTION = ("solution", "reference_solution")


def canonical_row(
    raw: Mapping[str, Any], columns: Mapping[str, str], require: Sequence[str]
) -> dict[str, Any] | BadRow:
    """One row in our columns, or why it cannot be used.

    Args:
        raw: the row as it was read.
        columns: our name -> theirs; `a.b` reaches into a nested column.
        require: which of our columns must be there and not empty; a `prompt` stands in for a `problem`.

    Returns:
        Our columns first (those there are), then the row's other columns. `id` is the row's own or missing.
    """
    row: dict[str, Any] = {}
    for ours, theirs in columns.items():
        value = _dig(raw, theirs)
        if value is _ABSENT:
            return BadRow(f"no column {theirs!r}")
        row[ours] = value
    problem = _fill_prompt(row, raw) or _fill_answer(row, raw)
    if problem is not None:
        return problem
    for name in ("id", "reward"):
        _take_first(row, raw, name, (name,))
    _take_first(row, raw, "images", ("images", "image"))
    _take_first(row, raw, "id", ("unique_id",))
    for name in require:
        if (reason := _missing(row, name)) is not None:
            return reason
    if "images" in row and not isinstance(row["images"], (list, tuple)):
        row["images"] = [row["images"]]
    taken = {*CANONICAL, "image", "messages", "completion"}
    return {
        **{key: row[key] for key in CANONICAL if row.get(key) is not None},
        **{key: value for key, value in raw.items() if key not in taken},
    }


_ABSENT = object()


def _dig(raw: Mapping[str, Any], path: str) -> Any:
    if path in raw:
        return raw[path]
    value: Any = raw
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return _ABSENT
        value = value[part]
    return value


def _take_first(row: dict[str, Any], raw: Mapping[str, Any], name: str, candidates: Sequence[str]) -> None:
    if name in row:
        return
    for candidate in candidates:
        value = _dig(raw, candidate)
        empty = value is _ABSENT or value is None or (isinstance(value, float) and value != value)  # NaN: no cell
        if not empty:
            row[name] = value
            return


def _fill_prompt(row: dict[str, Any], raw: Mapping[str, Any]) -> BadRow | None:
    """Sets `problem` (text) and `prompt` (messages), and `solution` where a conversation carries it."""
    given = row.pop("prompt", _ABSENT)
    if given is _ABSENT and "problem" not in row:
        given = raw.get("prompt", _ABSENT)
    if given is _ABSENT and "problem" not in row and isinstance(raw.get("messages"), list):
        messages = raw["messages"]
        last_is_answer = (
            bool(messages) and isinstance(messages[-1], Mapping) and messages[-1].get("role") == "assistant"
        )
        given = messages[:-1] if last_is_answer else messages
        if last_is_answer:
            row.setdefault("solution", messages[-1].get("content"))
    if isinstance(given, str):
        row.setdefault("problem", given)
    elif isinstance(given, list):
        if not given or not all(
            isinstance(turn, Mapping) and turn.get("role") and turn.get("content") for turn in given
        ):
            return BadRow("prompt is not a list of messages with role and content")
        row["prompt"] = [dict(turn) for turn in given]
        if isinstance(raw.get("problem"), str) and raw["problem"]:
            # A row that says both what was asked and how: the problem is not the last turn, which may say more.
            row.setdefault("problem", raw["problem"])
        asked = [turn["content"] for turn in given if turn["role"] == "user" and isinstance(turn["content"], str)]
        if asked:
            row.setdefault("problem", asked[-1])
    elif given is not _ABSENT and given is not None:
        return BadRow(f"prompt is neither text nor messages but a {type(given).__name__}")
    _take_first(row, raw, "problem", _PROBLEM)
    if "problem" in row and not isinstance(row["problem"], str):
        return BadRow(f"problem is not text but a {type(row['problem']).__name__}")
    return None


def _fill_answer(row: dict[str, Any], raw: Mapping[str, Any]) -> BadRow | None:
    """Sets `answer` (text, bare) and `solution` (text)."""
    completion = raw.get("completion")
    if isinstance(completion, list) and completion and isinstance(completion[-1], Mapping):
        completion = completion[-1].get("content")
    if isinstance(completion, str):
        row.setdefault("solution", completion)
    _take_first(row, raw, "solution", _SOLUTION)
    _take_first(row, raw, "answer", (*_ANSWER, "reward_model.ground_truth"))
    if "solution" in row and not isinstance(row["solution"], str):
        return BadRow(f"solution is not text but a {type(row['solution']).__name__}")
    if "answer" in row:
        answer, worked = clean_answer(row["answer"])
        if answer is None:
            return BadRow(f"answer is neither text nor a number but a {type(row['answer']).__name__}")
        row["answer"] = answer
        if worked is not None and not row.get("solution"):
            row["solution"] = worked
    elif row.get("solution"):
        found = gold_in_solution(row["solution"])
        if found is not None:
            row["answer"] = found
    return None


def _missing(row: Mapping[str, Any], name: str) -> BadRow | None:
    if name == "problem" and row.get("prompt"):
        return None
    value = row.get(name)
    if value is None:
        return BadRow(f"missing {name}")
    if isinstance(value, (str, list)) and not (value.strip() if isinstance(value, str) else value):
        return BadRow(f"empty {name}")
    return None


def in_one_kind(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with equal columns, each of one kind of value, as a table wants them: sources that are mixed may say `3` and
    `Level 3` under one name. What a row lacks is None; where kinds differ, all values become text.
    """
    kinds: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.items():
            kinds.setdefault(name, set())
            if value is not None:
                kinds[name].add(_kind(value))
    mixed = {name for name, found in kinds.items() if len(found) > 1}
    return [{name: _as_text(row.get(name)) if name in mixed else row.get(name) for name in kinds} for row in rows]


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "flag"
    for name, types in (("number", (int, float)), ("text", str), ("mapping", Mapping), ("list", (list, tuple))):
        if isinstance(value, types):
            return name
    return type(value).__name__


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
