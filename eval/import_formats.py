"""Sample files of other evaluators, read into one shape: lm-evaluation-harness (JSONL) and lighteval (parquet).

The layouts are those that the tools write: `samples_<task>_<time>.jsonl` of `lm_eval --log_samples` (one line a
question and filter) and `details_<task>_<time>.parquet` of `lighteval --save-details` (columns `doc`, `model_response`,
`metric`, or `full_prompt`, `predictions`, `gold`, `metrics` in older versions).
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reasonrl.errors import DataError
from reasonrl.plugins import near

LM_EVAL, LIGHTEVAL = "lm-eval", "lighteval"
NO_METRIC = "none"
LONGEST_COLUMN = 200
_TIME = re.compile(r"_\d{4}-\d{2}-\d{2}T[\d\-.:+]+$")
_PROBLEM = ("problem", "question", "query", "Problem", "Question")
_SUBJECT = ("subject", "type", "category")


@dataclass(frozen=True)
class ImportedProblem:
    """One question with the responses to it.

    Attributes:
        id: the tool's number of it, as text.
        prompt: what the model was given, as text.
        problem: the question alone; None if the file does not tell.
        answer: the gold; None likewise.
        texts: the responses.
        scores: the tool's score of each; None where it has none (it scored only the first, or all together).
        extracted: what the tool compared; None likewise.
        lengths: tokens of each; None where not recorded.
        limit: most tokens allowed; None where not recorded.
        settings: temperature and the like, where recorded.
        columns: short scalar columns of the question.
    """

    id: str
    prompt: str
    problem: str | None
    answer: str | None
    texts: Sequence[str]
    scores: Sequence[float | None]
    extracted: Sequence[str | None]
    lengths: Sequence[int | None]
    limit: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class ImportedFile:
    """What a file holds.

    Attributes:
        tool: LM_EVAL or LIGHTEVAL.
        task: the task's name, from the file's.
        metric: whose scores were taken; None if there was none.
        filter: whose lines were taken (lm-eval); None if the file names none.
        problems: the questions, in order.
        set_aside: lines that could not be used, with why.
    """

    tool: str
    task: str
    metric: str | None
    filter: str | None
    problems: list[ImportedProblem]
    set_aside: list[str]


def read_sample_file(
    path: Path, *, metric: str | None = None, filter_name: str | None = None, answer_column: str | None = None
) -> ImportedFile:
    """Reads a sample file of lm-eval or lighteval; which one is seen from its layout.

    Args:
        path: the file.
        metric: whose scores to take; None takes the first that the file names.
        filter_name: whose lines to take, where lm-eval has written one a filter.
        answer_column: the question's column that holds the gold, in place of the tool's target.

    Raises:
        DataError: no such layout, no usable line, several filters and none named, an unknown metric or filter, a
            question twice.
    """
    if not path.is_file():
        raise DataError(
            f"{path} is no file -> name a sample file of lm-eval (samples_*.jsonl) or lighteval (details_*.parquet)"
        )
    if path.suffix == ".parquet":
        return _read_lighteval(path, metric, answer_column)
    return _read_lm_eval(path, metric, filter_name, answer_column)


# --- lm-evaluation-harness ---


def _read_lm_eval(path: Path, metric: str | None, filter_name: str | None, answer_column: str | None) -> ImportedFile:
    rows, set_aside = [], []
    for number, row in _json_lines(path):
        why = row if isinstance(row, str) else _unusable(row)
        if why:
            set_aside.append(f"line {number}: {why}")
        else:
            rows.append(row)
    if not rows:
        first = f"; {set_aside[0]}" if set_aside else ""
        raise DataError(
            f"{path} holds no sample of lm-eval{first} -> give the samples_*.jsonl of `lm_eval --log_samples` of a task"
            " that generates text"
        )
    filters = list(dict.fromkeys(str(row["filter"]) for row in rows if row.get("filter") is not None))
    if filter_name is None and len(filters) > 1:
        raise DataError(
            f"{path} holds the lines of {len(filters)} filters ({', '.join(filters)}) -> choose one with --filter"
        )
    if filter_name is not None and filter_name not in filters:
        raise DataError(f"{path} has no filter {filter_name!r}{near(filter_name, filters)}")
    chosen = filter_name or (filters[0] if filters else None)
    rows = [row for row in rows if chosen is None or str(row.get("filter")) == chosen]
    named = _metric(path, metric, list(dict.fromkeys(name for row in rows for name in _metrics(row))))
    problems = [_lm_eval_problem(row, named, answer_column) for row in rows]
    _check_once(path, problems)
    return ImportedFile(LM_EVAL, _task(path, "samples_"), named, chosen, problems, set_aside)


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                yield number, json.loads(raw)
            except (ValueError, RecursionError) as error:
                yield number, f"not JSON: {str(error)[:100]}"


def _unusable(row: Any) -> str:
    """Why a line is no sample with text; empty if it is one."""
    if not isinstance(row, dict):
        return f"a {type(row).__name__} where a JSON object was expected"
    missing = [name for name in ("doc_id", "resps") if name not in row]
    if missing:
        return f"no {' and no '.join(map(repr, missing))}"
    return "" if _responses(row["resps"]) else "its responses are no texts (log-likelihoods of choices?)"


def _responses(resps: Any) -> list[str]:
    """The repeats of the one request of a question; none where they are no texts."""
    if isinstance(resps, list) and len(resps) == 1 and isinstance(resps[0], list):
        resps = resps[0]
    return resps if isinstance(resps, list) and all(isinstance(text, str) for text in resps) else []


_OURS = frozenset(
    {
        "doc_id",
        "doc",
        "target",
        "arguments",
        "resps",
        "filtered_resps",
        "filter",
        "metrics",
        "doc_hash",
        "prompt_hash",
        "target_hash",
    }
)


def _metrics(row: Mapping[str, Any]) -> list[str]:
    """Names of the metrics of a line, the declared ones first."""
    declared = [str(name) for name in row.get("metrics") or [] if name in row]
    return declared or [name for name, value in row.items() if name not in _OURS and _score(value) is not None]


def _lm_eval_problem(row: Mapping[str, Any], metric: str | None, answer_column: str | None) -> ImportedProblem:
    doc = row["doc"] if isinstance(row.get("doc"), dict) else {}
    texts = _responses(row["resps"])
    prompt, generation = _arguments(row.get("arguments"))
    answer = doc.get(answer_column) if answer_column else row.get("target")
    filtered = row.get("filtered_resps")
    if isinstance(filtered, list) and len(filtered) == 1 and isinstance(filtered[0], list):
        filtered = filtered[0]
    limit = next(
        (generation[name] for name in ("max_gen_toks", "max_tokens", "max_new_tokens") if name in generation), None
    )
    return ImportedProblem(
        id=str(row["doc_id"]),
        prompt=prompt,
        problem=_first(doc, _PROBLEM),
        answer=None if answer is None else str(answer),
        texts=texts,
        scores=_spread(row.get(metric) if metric else None, len(texts)),
        extracted=[str(text) for text in filtered]
        if isinstance(filtered, list) and len(filtered) == len(texts)
        else [None] * len(texts),
        lengths=[None] * len(texts),
        limit=limit if isinstance(limit, int) else None,
        settings={name: generation[name] for name in ("temperature", "top_p", "do_sample") if name in generation},
        columns=_columns(doc, _first(doc, _PROBLEM)),
    )


def _arguments(arguments: Any) -> tuple[str, dict[str, Any]]:
    """The prompt and the generation arguments of the first request, in either of the two spellings."""
    if isinstance(arguments, dict):
        arguments = list(arguments.values())
    first = arguments[0] if isinstance(arguments, list) and arguments else []
    parts = list(first.values()) if isinstance(first, dict) else first if isinstance(first, list) else [first]
    prompt = parts[0] if parts else ""
    generation = next((part for part in parts[1:] if isinstance(part, dict)), {})
    return prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False), generation


# --- lighteval ---


def _read_lighteval(path: Path, metric: str | None, answer_column: str | None) -> ImportedFile:
    from reasonrl.observe import read_parquet

    try:
        rows = read_parquet(path)
    except Exception as error:  # pyarrow has no one error for a damaged file
        raise DataError(
            f"{path} is no parquet file: {str(error)[:200]} -> give the details_*.parquet of lighteval"
        ) from error
    problems, set_aside, names = (
        [],
        [],
        dict.fromkeys(str(name) for row in rows for name in _told(row, "metric", "metrics")),
    )
    named = _metric(path, metric, list(names)) if rows else None
    for number, row in enumerate(rows):
        found = _lighteval_problem(number, row, named, answer_column)
        if isinstance(found, str):
            set_aside.append(f"row {number}: {found}")
        else:
            problems.append(found)
    if not problems:
        first = f"; {set_aside[0]}" if set_aside else ""
        raise DataError(
            f"{path} holds no sample of lighteval{first} -> give the details_*.parquet of a task that generates text"
        )
    _check_once(path, problems)
    return ImportedFile(LIGHTEVAL, _task(path, "details_"), named, None, problems, set_aside)


def _told(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The mapping under one of these names, written plainly or between underscores."""
    for name in names:
        for spelt in (name, f"__{name}__"):
            value = _literal(row.get(spelt))
            if isinstance(value, dict):
                return value
    return {}


def _literal(value: Any) -> Any:
    """A list or mapping that an older version has written as Python text."""
    if isinstance(value, str) and value[:1] in "[{":
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return value
    return value


def _lighteval_problem(
    number: int, row: Mapping[str, Any], metric: str | None, answer_column: str | None
) -> ImportedProblem | str:
    doc, response = _told(row, "doc"), _told(row, "model_response")
    old = not doc
    texts = _literal(row.get("predictions")) if old else response.get("text")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        return "its responses are no texts (log-likelihoods of choices?)"
    golds = _literal(row.get("gold")) if old else _golds(doc)
    specific = doc.get("specific") or _told(row, "specifics")
    answer = (
        {**specific, **doc, **row}.get(answer_column)
        if answer_column
        else (golds[0] if isinstance(golds, list) and golds else golds)
    )
    tokens = _literal(row.get("cont_tokens")) if old else response.get("output_tokens")
    counted = (
        [len(part) if isinstance(part, list) else None for part in tokens or []] if isinstance(tokens, list) else []
    )
    prompt = row.get("full_prompt") if old else response.get("input") or doc.get("full_prompt") or doc.get("query")
    limit = doc.get("generation_size")
    return ImportedProblem(
        id=str(doc.get("id") or number),
        prompt=prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False, default=str),
        problem=str(doc["query"]) if doc.get("query") else _first(row, ("example",)),
        answer=None if answer is None or isinstance(answer, list | dict) else str(answer),
        texts=texts,
        scores=_spread(_told(row, "metric", "metrics").get(metric) if metric else None, len(texts)),
        extracted=_extracted(specific, len(texts)),
        lengths=counted if len(counted) == len(texts) else [None] * len(texts),
        limit=limit if isinstance(limit, int) else None,
        columns=_columns(specific),
    )


def _extracted(specific: Mapping[str, Any], count: int) -> list[str | None]:
    """What the tool read from each response, where its metric keeps it."""
    found = _literal(specific.get("extracted_predictions"))
    if not isinstance(found, list) or len(found) != count:
        return [None] * count
    firsts = [one[0] if isinstance(one, list) and one else one for one in found]
    return [str(one) if isinstance(one, str | int | float) else None for one in firsts]


def _golds(doc: Mapping[str, Any]) -> list[Any]:
    places = doc.get("gold_index")
    places = places if isinstance(places, list) else [places]
    choices = doc.get("choices") or []
    return [choices[place] for place in places if isinstance(place, int) and 0 <= place < len(choices)]


# --- both ---


def _metric(path: Path, wanted: str | None, names: Sequence[str]) -> str | None:
    if wanted == NO_METRIC:
        return None
    if wanted is not None and wanted not in names:
        raise DataError(f"{path} has no metric {wanted!r}{near(wanted, names)}")
    return wanted or (names[0] if names else None)


def _check_once(path: Path, problems: Sequence[ImportedProblem]) -> None:
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise DataError(f"{path}: the question {problem.id!r} stands in it twice -> give the file of one run")
        seen.add(problem.id)


def _score(value: Any) -> float | None:
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    return None


def _spread(value: Any, count: int) -> list[float | None]:
    """A question's score over its samples: one each if the file tells, of a single sample its own; else unknown."""
    if isinstance(value, list) and len(value) == count:
        return [_score(part) for part in value]
    return [_score(value)] if count == 1 else [None] * count


def _first(row: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((str(row[name]) for name in names if isinstance(row.get(name), str)), None)


def _columns(doc: Mapping[str, Any], problem: str | None = None) -> dict[str, Any]:
    """The short scalar columns but the problem itself; `type` or `category` under the name `subject`."""
    kept = {
        str(name): value
        for name, value in doc.items()
        if value != problem and (_score(value) is not None or (isinstance(value, str) and len(value) <= LONGEST_COLUMN))
    }
    subject = next((kept.pop(name) for name in _SUBJECT if name in kept), None)
    return kept if subject is None else {"subject": subject, **kept}


def _task(path: Path, prefix: str) -> str:
    """The task from a file's name: `samples_aime24_2025-01-01T00-00-00.0.jsonl` gives `aime24`."""
    name = _TIME.sub("", path.name.removesuffix(path.suffix)).removeprefix(prefix)
    if "|" in name:
        name = max(
            name.split("|"),
            key=lambda part: (
                not part.isdigit() and part not in ("lighteval", "community", "extended", "custom"),
                len(part),
            ),
        )
    return re.sub(r"[^\w.\-]+", "_", name).strip("_.") or "imported"
