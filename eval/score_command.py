"""`reasonrl score`: solution records in, step scores out, one line for each; ProcessBench as it is published."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonrl.data_tools.files import BadRow, read_paths
from reasonrl.errors import DataError, RunError
from reasonrl.eval.tables import markdown_table
from reasonrl.eval.verify_lines import whole_length
from reasonrl.fingerprint import model_fingerprint
from reasonrl.prm.aggregation import DEFAULT_AGGREGATION, aggregate, check_aggregation
from reasonrl.prm.processbench import best_threshold, first_below, score_first_errors, solution_of
from reasonrl.prm.segment import segment
from reasonrl.prm.step_metrics import always_right, flat_pairs, metrics_table, step_metrics
from reasonrl.prm.steps import spans_of

CHUNK = 256
"""Solutions that are scored before their lines are written; a kill costs at most these."""


@dataclass(frozen=True)
class ScoreSettings:
    """What makes scores: another one of these, and half-done output is refused.

    Attributes:
        model: folder of the process reward model.
        aggregation: what makes one score of a solution's step scores.
        max_length: tokens of prompt and solution that are read; None for all.
        split: cut solutions without steps by rules (`reasonrl.prm.segment`).
    """

    model: str
    aggregation: str = DEFAULT_AGGREGATION
    max_length: int | None = None
    split: bool = False

    def identity(self, source: Path) -> dict[str, Any]:
        """For the file beside the output."""
        content = hashlib.sha256()
        with source.open("rb") as file:
            while block := file.read(1 << 20):
                content.update(block)
        return {
            "input_sha256": content.hexdigest(),
            "model": self.model,
            "model_fingerprint": model_fingerprint(self.model),
            "aggregate": self.aggregation,
            "max_length": self.max_length,
            "split": self.split,
        }


def score_file(
    source: Path,
    out: Path,
    settings: ScoreSettings,
    *,
    tokens_per_microbatch: int = 16384,
    threshold: float = 0.5,
    restart: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Score the solution records of a file; the same call goes on where a killed one stopped.

    Line n of `out` is record n of `source` with `step_scores` (P(step is right), null beyond a cut), `score` and
    `aggregate`; of a record that cannot be scored, both are null and `error` says why. What made the scores stands in
    `<out>.settings.json`.

    Returns:
        Counts, and the figures of steps where records have labels.

    Raises:
        DataError: the input cannot be read. RunError: `out` was made by other settings.
    """
    check_aggregation(settings.aggregation)
    if not source.is_file():
        raise DataError(f"{source}: there is no such file -> give a file of solution records (JSON lines)")
    if source.resolve() == out.resolve():
        raise RunError(f"{out}: is the input too -> give another file to --out")
    done = _opened(out, settings.identity(source), restart)
    if done:
        say(f"{done} records are scored already")
    rows = itertools.islice(read_paths(source, None, None, None), done, None)
    counts = {"scored": 0, "failed": 0}
    began, scorer = time.perf_counter(), None
    while chunk := list(itertools.islice(rows, CHUNK)):
        if scorer is None:
            from reasonrl.prm.scoring import load_scorer

            scorer = load_scorer(
                settings.model, tokens_per_microbatch=tokens_per_microbatch, max_length=settings.max_length
            )
        lines = [_ready(row, place, settings) for place, row in chunk]
        _score(scorer, lines, settings)
        with out.open("ab") as file:
            file.write(b"".join(map(_encoded, lines)))
            file.flush()
            os.fsync(file.fileno())
        counts["failed"] += sum("error" in line for line in lines)
        counts["scored"] += sum("error" not in line for line in lines)
    cut = scorer.cut if scorer is not None else 0
    say(
        f"{counts['scored']} solutions scored in {time.perf_counter() - began:.1f} s, {cut} of them cut at max_length,"
        f" {counts['failed']} records not scored; score: {settings.aggregation} of the steps"
    )
    return {**counts, **_figures(out, threshold, say)}


def score_processbench(
    sources: Sequence[Path],
    settings: ScoreSettings,
    *,
    out: Path,
    threshold: float | None = None,
    tokens_per_microbatch: int = 16384,
    restart: bool = False,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """ProcessBench's figures of a process reward model, a file a subset; scores and `processbench.json` go to `out`.

    Args:
        sources: the subsets' files, named after their subsets.
        settings: of the scores.
        out: folder.
        threshold: a step that scores below it is wrong; None takes the one that is best on the subset gsm8k, which has
            to be among the files, and keeps it for all.
        tokens_per_microbatch, restart, say: as of `score_file`.

    Raises:
        DataError: a file is no subset of ProcessBench.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = [source.stem for source in sources]
    if len(set(names)) < len(names) or (threshold is None and "gsm8k" not in names):
        raise DataError(
            f"processbench: subsets {', '.join(names)} -> each once, and gsm8k among them to choose the threshold by,"
            " or --threshold 0.5"
        )
    found: dict[str, list[dict[str, Any]]] = {}
    for source, name in zip(sources, names, strict=True):
        prepared = out / f"{name}.solutions.jsonl"
        rows = [solution_of(_whole(row, place)) for place, row in read_paths(source, None, None, None)]
        prepared.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        scored = out / f"{name}.jsonl"
        say(f"{name}: {len(rows)} solutions")
        score_file(
            prepared, scored, settings, tokens_per_microbatch=tokens_per_microbatch, restart=restart, say=lambda _: None
        )
        found[name] = list(_lines(scored))
    if threshold is None:
        chosen = best_threshold([row["step_scores"] or [] for row in found["gsm8k"]], _labels(found["gsm8k"]))
    else:
        chosen = threshold
    table, subsets = [], {}
    for name, rows in found.items():
        predictions = [None if not row["step_scores"] else first_below(row["step_scores"], chosen) for row in rows]
        result = score_first_errors(predictions, _labels(rows))
        subsets[name] = result.as_dict() | {"unread": sum(one is None for one in predictions)}
        shares = (result.accuracy_erroneous, result.accuracy_correct, result.f1)
        table.append([name, str(result.erroneous), str(result.correct), *(f"{100 * x:.1f}" for x in shares)])
    mean = sum(subset["f1"] for subset in subsets.values()) / len(subsets)
    table.append(["mean", "", "", "", "", f"{100 * mean:.1f}"])
    say(markdown_table(["subset", "with error", "without", "acc. error", "acc. correct", "F1"], table))
    source_of = "chosen on gsm8k" if threshold is None else "given"
    say(f"a step is wrong below {chosen:.4g} ({source_of}); `always -1` has F1 0.0 on every subset")
    figures = {"threshold": chosen, "threshold_from": source_of, "subsets": subsets, "mean_f1": mean}
    (out / "processbench.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


def _opened(out: Path, identity: dict[str, Any], restart: bool) -> int:
    """Whole lines that are there already; half of one, left by a kill, is cut off."""
    about = out.with_name(out.name + ".settings.json")
    if restart or not (out.exists() and about.exists()):
        if out.exists() and not restart:
            raise RunError(f"{out}: is there already, and not by this command -> another --out, or --restart")
        out.parent.mkdir(parents=True, exist_ok=True)
        out.unlink(missing_ok=True)  # a kill from here on leaves nothing that would be taken for scores
        about.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
        out.write_bytes(b"")
        return 0
    before = json.loads(about.read_text(encoding="utf-8"))
    odd = [name for name in identity if before.get(name) != identity[name]]
    if odd:
        told = "; ".join(f"{name} was {before.get(name)!r}, is {identity[name]!r}" for name in odd)
        raise RunError(f"{out}: its scores were made otherwise ({told}) -> another --out, or --restart")
    with out.open("r+b") as file:
        file.truncate(whole_length(out))
    return sum(1 for _ in _lines(out))


def _ready(row: Mapping[str, Any] | BadRow, place: str, settings: ScoreSettings) -> dict[str, Any]:
    if isinstance(row, BadRow):
        return {"id": place, "error": row.reason}
    line = dict(row)
    if line.get("text") is None and isinstance(line.get("solution"), str):
        line["text"] = line["solution"]
    if line.get("steps") is None and settings.split and line.get("text"):
        line["steps"] = spans_of(segment(line["text"]))
    line.pop("error", None)
    return line


def _score(scorer: Any, lines: Sequence[dict[str, Any]], settings: ScoreSettings) -> None:
    """Put scores, or the reason why there are none, into the lines."""
    encoded = []
    for line in lines:
        line["step_scores"] = line["score"] = None
        line["aggregate"] = settings.aggregation
        if "error" in line:
            continue
        try:
            encoded.append((line, scorer.encoder(line)))
        except DataError as error:
            line["error"] = str(error)
    scorer.cut += sum(one.cut for _, one in encoded)
    scores = scorer.score_encoded([one for _, one in encoded])
    for (line, _), steps in zip(encoded, scores, strict=True):
        line["step_scores"] = steps
        line["score"] = aggregate(steps, settings.aggregation)


def _figures(out: Path, threshold: float, say: Callable[[str], None]) -> dict[str, Any]:
    rows = [row for row in _lines(out) if row["step_scores"] is not None and isinstance(row.get("labels"), list)]
    values, right = flat_pairs([row["step_scores"] for row in rows], [row["labels"] for row in rows])
    if not values:
        return {}
    found = {"model": step_metrics(values, right, threshold), "always right": always_right(right)}
    say(markdown_table(*metrics_table(found)))
    return {"threshold": threshold, **{name: one.as_dict() for name, one in found.items()}}


def _encoded(line: Mapping[str, Any]) -> bytes:
    try:
        return (json.dumps(line, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return (json.dumps(line) + "\n").encode()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for raw in file:
            yield json.loads(raw)


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    return [int(row["first_error"]) for row in rows]


def _whole(row: Mapping[str, Any] | BadRow, place: str) -> Mapping[str, Any]:
    if isinstance(row, BadRow):
        raise DataError(f"{place}: {row.reason}")
    return row
