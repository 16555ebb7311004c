"""The work of `reasonrl pacore table`: coordinated rounds against plain sampling at equal tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasonrl.errors import RunError
from reasonrl.eval.answer_classes import answer_class
from reasonrl.eval.metrics import paired_difference, proportion_interval
from reasonrl.observe.metrics import write_atomically
from reasonrl.observe.records import iter_records
from reasonrl.pacore.baselines import Baseline, Solo, any_right, at_count, at_tokens, majority
from reasonrl.pacore.compaction import get_compaction
from reasonrl.pacore.store import CALLS, RESULTS, SETTINGS
from reasonrl.rewards.grading import grade


@dataclass(frozen=True)
class Arm:
    """One way of answering, by problem.

    Attributes:
        name: in the table.
        values: chance of being right.
        tokens: generated.
        prompt_tokens: read; None where it is not known.
        exhausted: problems whose pool was too small for their budget.
    """

    name: str
    values: Mapping[str, float]
    tokens: Mapping[str, float]
    prompt_tokens: Mapping[str, float] | None = None
    exhausted: int = 0


def pacore_table(
    directory: Path,
    *,
    policy: str = "default",
    workers: int | None = None,
    draws: int = 64,
    answer_column: str = "answer",
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Grades a run's answers and says the table: one plain answer, votes, any of them, and the rounds; writes
    `table.json`.

    Votes at equal tokens take as many plain answers of a problem as its rounds have generated tokens, from the pool of
    the first round's answers and those of `--solo`.

    Args:
        directory: a folder of `reasonrl pacore run`.
        policy, workers: of the verifier.
        draws: orders of each pool that are averaged.
        answer_column: column of the golds.
        say: takes lines for the user.

    Raises:
        RunError: no such run, or no problem with a gold.
    """
    settings, results = _results(directory, answer_column)
    golds = {name: str(row["columns"][answer_column]) for name, row in results.items()}
    pools = _pools(directory, settings, golds, policy, workers)
    arms = _arms(results, golds, pools, policy, workers, draws)
    rows = [_row(arm, arms[-1]) for arm in arms]
    figures = {"problems": len(golds), "rounds": settings["rounds"], "arms": rows}
    write_atomically(directory / "table.json", json.dumps(figures, indent=2).encode())
    say(_as_text(figures))
    return figures


def _results(directory: Path, column: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    path = directory / SETTINGS
    if not path.exists() or not (directory / RESULTS).exists():
        raise RunError(f"{directory} holds no run -> name the folder given to `reasonrl pacore run --out`")
    found = {row["id"]: row for row in iter_records(directory / RESULTS) if row["columns"].get(column) is not None}
    if not found:
        raise RunError(
            f"{directory}: no finished problem has a column {column!r} with a gold -> name it by --answer-column"
        )
    return json.loads(path.read_text(encoding="utf-8")), found


def _pools(
    directory: Path, settings: Mapping[str, Any], golds: Mapping[str, str], policy: str, workers: int | None
) -> dict[str, list[Solo]]:
    """Plain answers by problem, judged; failed calls are none."""
    compaction = get_compaction(settings["compaction"])
    names: list[str] = []
    texts: list[str] = []
    tokens: list[int] = []
    for row in iter_records(directory / CALLS):
        if row["round"] == 0 and row["id"] in golds and "error" not in row:
            names.append(row["id"])
            texts.append(compaction(row["text"], row["reasoning"]).text)
            tokens.append(row["completion_tokens"] or 0)
    verdicts = grade([(golds[name], text) for name, text in zip(names, texts, strict=True)], policy, workers).verdicts
    pools: dict[str, list[Solo]] = {}
    for name, count, verdict in zip(names, tokens, verdicts, strict=True):
        pools.setdefault(name, []).append(
            Solo(answer_class(verdict.extracted, verdict.correct), verdict.correct, count)
        )
    return pools


def _arms(
    results: Mapping[str, Mapping[str, Any]],
    golds: Mapping[str, str],
    pools: Mapping[str, list[Solo]],
    policy: str,
    workers: int | None,
    draws: int,
) -> list[Arm]:
    names = [name for name in golds if name in pools]
    some = {name: pools[name] for name in names}
    verdicts = grade([(golds[name], results[name]["content"]) for name in names], policy, workers).verdicts
    spent = {name: float(results[name]["completion_tokens"]) for name in names}
    read = {name: float(results[name]["prompt_tokens"]) for name in names}
    right = {name: float(verdict.correct) for name, verdict in zip(names, verdicts, strict=True)}
    fewest = min(map(len, some.values()))
    first = {name: results[name]["rounds"][0]["calls"] for name in names}
    count = min(fewest, *first.values())
    arms = [_arm("one answer", at_count(some, 1, majority, draws=draws))]
    if count > 1:
        arms.append(_arm(f"majority of {count}", at_count(some, count, majority, draws=draws)))
    arms += [
        _arm("majority, equal tokens", at_tokens(some, spent, majority, draws=draws)),
        _arm("any right, equal tokens", at_tokens(some, spent, any_right, draws=draws)),
    ]
    return [*arms, Arm("rounds", right, spent, read)]


def _arm(name: str, baseline: Baseline) -> Arm:
    return Arm(name, baseline.values, baseline.tokens, None, baseline.exhausted)


def _row(arm: Arm, rounds: Arm) -> dict[str, Any]:
    def mean(values: Mapping[str, float]) -> float:
        return sum(values.values()) / len(values)

    accuracy = proportion_interval(list(arm.values.values()))
    against = None if arm is rounds else paired_difference(rounds.values, arm.values).as_dict()
    return {
        "arm": arm.name,
        "accuracy": accuracy.as_dict(),
        "tokens": mean(arm.tokens),
        "prompt_tokens": None if arm.prompt_tokens is None else mean(arm.prompt_tokens),
        "exhausted": arm.exhausted,
        "rounds_minus_this": against,
    }


def _as_text(figures: Mapping[str, Any]) -> str:
    header = ("", "accuracy, %", "tokens", "prompt tokens", "rounds minus this", "pools too small")
    rows: list[Sequence[str]] = [header]
    for row in figures["arms"]:
        rows.append(
            (
                row["arm"],
                _points(row["accuracy"]),
                f"{row['tokens']:,.0f}",
                "" if row["prompt_tokens"] is None else f"{row['prompt_tokens']:,.0f}",
                "" if row["rounds_minus_this"] is None else _points(row["rounds_minus_this"], sign="+"),
                str(row["exhausted"] or ""),
            )
        )
    wide = [max(len(row[place]) for row in rows) for place in range(len(header))]
    lines = ["  ".join(cell.ljust(size) for cell, size in zip(row, wide, strict=True)).rstrip() for row in rows]
    head = f"{figures['problems']} problems, rounds {[*figures['rounds'], 1]}; intervals of 95 %, by problem"
    return "\n".join([head, "", *lines])


def _points(interval: Mapping[str, Any], sign: str = "") -> str:
    value = f"{100 * interval['value']:{sign}.1f}"
    if interval["low"] is None:
        return value
    return f"{value} [{100 * interval['low']:{sign}.1f}, {100 * interval['high']:{sign}.1f}]"
