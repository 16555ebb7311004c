"""Sample files of lm-eval and lighteval as an evaluation folder of our own: to be re-graded, compared, looked at."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonrl.errors import DataError, RunError
from reasonrl.eval.answer_classes import answer_class
from reasonrl.eval.import_formats import NO_METRIC, ImportedFile, ImportedProblem, read_sample_file
from reasonrl.eval.report_data import powers
from reasonrl.eval.results import read_results, summarise, write_result
from reasonrl.eval.samples import SampleStore, read_samples
from reasonrl.observe.metrics import format_number

_NAMED = ("level", "subject", "group")
_SAID = 5


def import_samples(
    paths: Sequence[Path],
    output: Path,
    *,
    suite: str | None = None,
    metric: str | None = None,
    filter_name: str | None = None,
    answer_column: str | None = None,
    model: str | None = None,
    max_tokens: int | None = None,
    say: Callable[[str], None],
) -> None:
    """Imports sample files, a suite each, with the verdicts that their tool gave.

    A score of 1 is right and less is wrong; a sample that the tool did not score by itself (it scored only the first
    of several, or all together) is `unscored`, and in no rate until it is judged again. Samples with as many tokens as
    were allowed are truncated; of files that tell no lengths, all are taken to have ended by themselves, and
    `settings.json` says so.

    Args:
        paths: the files.
        output: the evaluation's folder; none of the suites may be there.
        suite: name of the suite, for a single file; None takes the task's.
        metric: whose scores to take; None takes the file's first, `none` takes no scores.
        filter_name: whose lines to take, where lm-eval has written one a filter.
        answer_column: the question's column that holds the gold, in place of the tool's target.
        model: for the settings; None takes the folder's name.
        max_tokens: the limit that was set, where the file does not tell it.
        say: writes a line to the terminal.

    Raises:
        DataError: as `import_formats.read_sample_file`, or scores that lie outside 0 to 1.
        RunError: the suite is there already, or `suite` for several files.
    """
    if suite is not None and len(paths) > 1:
        raise RunError(f"--suite {suite} names one suite, and {len(paths)} files are given -> import them one by one")
    if suite is not None and not re.fullmatch(r"[A-Za-z0-9][\w.\-]*", suite):
        raise RunError(f"--suite {suite!r} is no name of a folder -> use letters, digits, '-', '_' and '.'")
    found = {}
    for path in paths:
        read = read_sample_file(path, metric=metric, filter_name=filter_name, answer_column=answer_column)
        name = suite or read.task
        if name in found or (output / name).exists():
            raise RunError(
                f"{path}: the suite {name!r} is there already, in {output} -> give another --suite or --output"
            )
        _check_scores(path, read)
        found[name] = (path, read)
    for name, (path, read) in found.items():
        say(_write(output, name, path, read, model or _model_of(path), max_tokens))


def _check_scores(path: Path, read: ImportedFile) -> None:
    """Refuses a metric such as BLEU or a loss, of which 1 and more does not mean right."""
    scores = (score for problem in read.problems for score in problem.scores if score is not None)
    outside = next((score for score in scores if not 0 <= score <= 1), None)
    if outside is not None:
        raise DataError(
            f"{path}: scores of {read.metric!r} lie outside 0 to 1, such as {outside:g}, and do not tell right from"
            f" wrong -> choose another with --metric; --metric {NO_METRIC} takes none, and `reasonrl regrade` judges"
        )


def _model_of(path: Path) -> str:
    """The model's folder: lm-eval writes into it, lighteval into a folder of the time in it."""
    folder = path.resolve().parent
    return folder.parent.name if re.match(r"\d{4}-\d{2}-\d{2}T", folder.name) else folder.name


def _write(output: Path, name: str, path: Path, read: ImportedFile, model: str, max_tokens: int | None) -> str:
    told = any(length is not None for problem in read.problems for length in problem.lengths)
    limits = {problem.limit for problem in read.problems}
    limit = max_tokens if max_tokens is not None else limits.pop() if len(limits) == 1 else None
    recorded = read.problems[0].settings
    settings = {
        "imported_from": read.tool,
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "task": read.task,
        "filter": read.filter,
        "metric": read.metric,
        "model": model,
        "temperature": recorded.get("temperature"),
        "top_p": recorded.get("top_p"),
        "max_tokens": limit,
        "finish_reason": "length where the limit was reached" if told and limit else "not in the file: taken for stop",
    }
    store = SampleStore(output / name, settings)
    store.write_problems([_problem(problem) for problem in read.problems])
    for problem in read.problems:
        for index in range(len(problem.texts)):
            store.append(_sample(problem, index, f"{read.tool} {read.metric or 'without scores'}", limit))
    store.finish()
    rows = read_samples(output / name)
    sizes = [len(problem.texts) for problem in read.problems]
    decoding = {"n": max(sizes), **{key: settings[key] for key in ("temperature", "top_p", "max_tokens")}}
    digest = hashlib.sha256("".join(row["prompt_hash"] for row in rows).encode()).hexdigest()
    result = summarise(name, rows, k=powers(min(sizes)), decoding=decoding, prompt_hash=digest, seed=0)
    write_result(output, result)
    return _said(output, name, read, rows, result.accuracy.value if result.accuracy else None)


def _problem(problem: ImportedProblem) -> dict[str, Any]:
    named = {key: problem.columns[key] for key in _NAMED if problem.columns.get(key) is not None}
    return {
        "id": problem.id,
        "prompt": problem.prompt,
        "prompt_hash": _hash(problem),
        "answer": problem.answer,
        "images": 0,
        **({} if problem.problem is None else {"problem": problem.problem}),
        **named,
        "columns": {key: value for key, value in problem.columns.items() if key not in named},
    }


def _sample(problem: ImportedProblem, index: int, grader: str, limit: int | None) -> dict[str, Any]:
    score, length, extracted = problem.scores[index], problem.lengths[index], problem.extracted[index]
    right = None if score is None else score >= 1.0
    ended = not (limit is not None and length is not None and length >= limit)
    return {
        "id": problem.id,
        "metric": "sample",
        "index": index,
        "prompt_hash": _hash(problem),
        "seed": "",
        "text": problem.texts[index],
        "finish_reason": "stop" if ended else "length",
        "length": length,
        "extracted": extracted,
        "class": answer_class(extracted, right),
        "verdict": {None: "unscored", True: "correct", False: "wrong"}[right],
        "reason": "not scored by itself" if score is None else f"score {format_number(score)}",
        "right": right,
        "correct": None if right is None else right and ended,
        "score": score,
        "grader": grader,
    }


def _hash(problem: ImportedProblem) -> str:
    return hashlib.sha256(problem.prompt.encode("utf-8", "surrogatepass")).hexdigest()


def _said(
    output: Path, name: str, read: ImportedFile, rows: Sequence[Mapping[str, Any]], accuracy: float | None
) -> str:
    scored = sum(row["correct"] is not None for row in rows)
    lines = [f"{name}: {len(rows):,} samples of {len(read.problems):,} problems from {read.tool}, in {output / name}"]
    if accuracy is not None:
        lines.append(f"  accuracy by {read.metric} {100 * accuracy:.2f} %")
    if scored < len(rows):
        lines.append(
            f"  {len(rows) - scored:,} samples have no score of their own -> reasonrl regrade {output} judges them"
        )
    if read.set_aside:
        lines.append(f"  {len(read.set_aside):,} lines set aside: {'; '.join(read.set_aside[:_SAID])}")
    if not read_results(output)["suites"][name].get("mean_length"):
        lines.append("  the file tells no token counts; truncated samples cannot be told apart")
    return "\n".join(lines)
