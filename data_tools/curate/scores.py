"""Steps that need figures from elsewhere: the loss of a light model, a judge's votes, the pass rate of samples."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from reasonrl.data_tools.curate.rules import Step
from reasonrl.data_tools.curate.spool import RowFile
from reasonrl.data_tools.curate.tally import Tally
from reasonrl.expressions import Expression, ExpressionError

Scored = Iterator[tuple[dict[str, Any], float | None]]


def drop_by_loss(score: Callable[[RowFile], Scored], *, top: float | None = None, over: float | None = None) -> Step:
    """A step that gives rows `loss` and drops those with a high one (OVR, arXiv 2507.05255, 3.3: abnormal samples).

    Args:
        score: rows in their order with their loss (nats a token of the solution); None where there is none. It is
            asked twice, and should remember.
        top: this share of the rows with the highest losses goes.
        over: rows with a higher loss go.
    """

    def step(rows: RowFile, tally: Tally) -> Iterator[dict[str, Any]]:
        limit = math.inf if over is None else over
        if top is not None:
            losses = array("d", (loss for _, loss in score(rows) if loss is not None and math.isfinite(loss)))
            if losses:
                limit = min(limit, sorted(losses)[max(0, len(losses) - 1 - math.floor(top * len(losses)))])
        total = count = 0.0
        for row, loss in score(rows):
            tally.read += 1
            if loss is None or not math.isfinite(loss):
                tally.drop("no loss (no solution)", row)
                continue
            total, count = total + loss, count + 1
            if loss > limit:
                tally.drop("high loss", row, loss=round(loss, 4))
            else:
                yield {**row, "loss": round(loss, 6)}
        tally.figures = {
            "limit": limit if math.isfinite(limit) else None,
            "mean_loss": total / count if count else None,
        }

    return step


def drop_by_votes(name: str, votes: Callable[[RowFile], Iterator[tuple[dict[str, Any], list[bool] | str | None]]],
                  agree: float = 1.0) -> Step:  # fmt: skip
    """A step that gives rows the share of a judge's votes for them, and drops those with too few.

    Args:
        name: of what is asked, and of the column.
        votes: rows in their order with the judge's votes; a text is why there are none, None that none are needed.
        agree: least share of votes for a row; 1: all.
    """

    def step(rows: RowFile, tally: Tally) -> Iterator[dict[str, Any]]:
        cast = 0
        for row, given in votes(rows):
            tally.read += 1
            if given is None:
                yield row
            elif isinstance(given, str):
                tally.drop(f"{name}: the judge gave no verdict", row, why=given)
            else:
                cast += len(given)
                share = sum(given) / len(given)
                if share < agree:
                    tally.drop(f"not {name} ({sum(given)} of {len(given)} votes)", row)
                else:
                    yield {**row, name: round(share, 4)}
        tally.figures = {"votes": cast}

    return step


def join_samples(samples: Callable[[], Iterable[Mapping[str, Any]]], when: str) -> Step:
    """A step that gives rows the figures of answers sampled to them, and keeps those for which a condition holds.

    Args:
        samples: sample rows (`problem_id`, `correct`, `length`) of a stage of kind `rollout`, one a sample.
        when: over `pass_rate` (of the samples that could be scored), `n`, `n_correct`, `n_truncated`, `mean_tokens`.

    Raises:
        ExpressionError: the condition cannot be read, or names something else.
    """
    names = frozenset({"pass_rate", "n", "n_correct", "n_truncated", "mean_tokens"})
    condition = Expression(when, names)

    def step(rows: RowFile, tally: Tally) -> Iterator[dict[str, Any]]:
        found: dict[str, list[float]] = {}
        for sample in samples():
            counts = found.setdefault(str(sample["problem_id"]), [0, 0, 0, 0, 0.0])
            scored = sample.get("correct") is not None
            counts[0] += 1
            counts[1] += scored
            counts[2] += bool(sample.get("correct"))
            counts[3] += sample.get("finish_reason") == "length"
            counts[4] += float(sample.get("length") or 0)
        for row in rows:
            tally.read += 1
            counts = found.get(str(row["id"]), [])
            if not counts or not counts[1]:
                tally.drop("no scored samples", row)
                continue
            n, scored_count, right, cut, tokens = counts
            figures = {
                "pass_rate": right / scored_count,
                "n": int(n),
                "n_correct": int(right),
                "n_truncated": int(cut),
                "mean_tokens": tokens / n,
            }
            try:
                keep = condition.evaluate(figures)
            except ExpressionError:
                keep = False
            if keep:
                yield {**row, "pass_rate": round(figures["pass_rate"], 6)}
            else:
                reason = {0.0: "never right", 1.0: "always right"}.get(figures["pass_rate"], "other")
                tally.drop(f"not {when} ({reason})", row, pass_rate=round(figures["pass_rate"], 4))

    return step


def with_columns(make: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Step:
    """A step that gives rows further columns and drops none."""

    def step(rows: RowFile, tally: Tally) -> Iterator[dict[str, Any]]:
        totals: dict[str, float] = {}
        for row in rows:
            tally.read += 1
            made = dict(make(row))
            for column, value in made.items():
                if isinstance(value, (int, float)):
                    totals[column] = totals.get(column, 0) + (value > 0)
            yield {**row, **made}
        tally.figures = {f"rows_with_{name}": int(count) for name, count in totals.items()}

    return step
