"""The figures that a suite's `metrics` names, from its samples: one value a problem, or a group of problems."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, TypeAlias

from reasonrl.errors import DataError
from reasonrl.eval.compound import BY_ITEM, item_values, items_of_problem
from reasonrl.eval.estimates import (
    best_of_k,
    g_pass_at_k,
    maj_at_k,
    mean_g_pass_at_k,
    pass_at_k,
    pass_hat_k,
)
from reasonrl.recipe.metric_names import GROUPED, MetricName, parse_metric

Samples: TypeAlias = Sequence[Mapping[str, Any]]
"""Scored samples of one problem, as `samples.read_samples` gives them."""

Problems: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Problem records by id, as `samples.read_problems` gives them."""


def by_problem(rows: Samples, metric: str) -> dict[str, list[Mapping[str, Any]]]:
    """The scored samples of one metric (`sample` or `greedy`) by problem id, in order."""
    problems: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["metric"] == metric and row["correct"] is not None:
            problems.setdefault(row["id"], []).append(row)
    return problems


def metric_values(rows: Samples, metric: str | MetricName, problems: Problems | None = None) -> dict[str, float]:
    """Values in [0, 1] of a named figure by problem id, or by group for `worst_case`, `pairs` and We-Math's.

    Problems with fewer scored samples than the figure needs are left out, never filled up; a group counts only if each
    of its problems has a scored sample.

    Args:
        rows: samples of a suite.
        metric: as `parse_metric` reads it.
        problems: problem records by id; needed by figures of groups.

    Raises:
        ValueError: there is no such figure.
        DataError: a figure of groups without groups, or a score that is missing.
    """
    asked = parse_metric(metric) if isinstance(metric, str) else metric
    if asked.family in BY_ITEM:
        return item_values(rows, asked.family)
    found = by_problem(rows, "greedy" if asked.family == "greedy" else "sample")
    if asked.family in GROUPED:
        return _group_values(asked, found, problems or {})
    values = {}
    for key, samples in found.items():
        k = len(samples) if asked.k is None else asked.k
        if len(samples) >= max(k, 2 if asked.family == "mg_pass" else 1):
            try:
                values[key] = problem_value(asked, samples, k)
            except DataError:
                raise
            except ValueError as error:
                raise DataError(f"{asked.text}: problem {key!r}: {error}, or leave the metric out") from error
    return values


def problem_value(asked: MetricName, samples: Samples, k: int) -> float:
    """The figure of one problem; `k` is at most the number of samples."""
    n, right = len(samples), [bool(row["correct"]) for row in samples]
    match asked.family:
        case "accuracy" | "avg" | "greedy":
            return fmean(right)
        case "pass":
            return pass_at_k(n, sum(right), k)
        case "pass^":
            return pass_hat_k(n, sum(right), k)
        case "g_pass":
            return g_pass_at_k(n, sum(right), k, asked.share or 1.0)
        case "mg_pass":
            return mean_g_pass_at_k(n, sum(right), k)
        case "best":
            return best_of_k(_scores(asked, samples), right, k)
    answers = [row["class"] if "class" in row else row["extracted"] for row in samples]
    match asked.family:
        case "maj_first":
            return maj_at_k(answers, right, k, ties="first")
        case "weighted_maj":
            return maj_at_k(answers, right, k, weights=_scores(asked, samples))
        case "self_consistency":
            return maj_at_k(answers, right, k, draws=asked.draws)
    return maj_at_k(answers, right, k)


def _scores(asked: MetricName, samples: Samples) -> list[float]:
    for row in samples:
        if row.get(asked.column) is None:
            raise DataError(
                f"{asked.text}: sample {row['index']} of problem {row['id']!r} has no {asked.column!r} -> score every"
                " sample, or leave the metric out"
            )
    return [float(row[asked.column]) for row in samples]


def groups_of(problems: Problems) -> dict[str, str]:
    """Group by problem id; a problem without one is its own. Empty where no problem has one."""
    if not any(problem.get("group") is not None for problem in problems.values()):
        return {}
    groups = {
        key: f"alone:{key}" if problem.get("group") is None else str(problem["group"])
        for key, problem in problems.items()
    }
    # Problems of compound prompts belong to their block, as the prompts do.
    return {**_blocks_of_items(problems), **groups}


def _blocks_of_items(problems: Problems) -> dict[str, str]:
    return {
        item["id"]: str(problem["group"])
        for problem in problems.values()
        if problem.get("group") is not None
        for item in items_of_problem(problem)
        if item.get("scored", True)
    }


def _group_values(asked: MetricName, found: Mapping[str, Samples], problems: Problems) -> dict[str, float]:
    groups: dict[str, list[str]] = {}
    for key, problem in problems.items():
        if problem.get("group") is not None:
            groups.setdefault(str(problem["group"]), []).append(key)
    if not groups:
        raise DataError(f"{asked.text} is about groups of problems, and no problem has a group -> give the suite one")
    share = {key: fmean(bool(row["correct"]) for row in samples) for key, samples in found.items()}
    whole = {name: keys for name, keys in groups.items() if all(key in share for key in keys)}
    if asked.family in ("worst_case", "pairs"):
        # Samples of different variants are independent: the chance that all are right is the product.
        return {name: math.prod(share[key] for key in keys) for name, keys in whole.items()}
    values = {}
    for name, keys in whole.items():
        value = _we_math(asked.family, {key: share[key] for key in keys}, problems)
        if value is not None:
            values[name] = value
    if not values:
        raise DataError(
            f"{asked.text}: no group has a row whose column `key` ends with `_multi` beside rows of its steps"
            " -> keep the data set's column `key`"
        )
    return values


def _we_math(family: str, share: Mapping[str, float], problems: Problems) -> float | None:
    """Complete mastery counts 1, inadequate generalisation 1/2, rote memorisation and insufficient knowledge 0
    (arXiv 2407.01284, section 2.3); the expectation over one sample of each problem. None for a one-step problem.
    """
    roles = {key: str((problems[key].get("columns") or {}).get("key", "")) for key in share}
    composed = [key for key, role in roles.items() if role.endswith("_multi")]
    steps = [share[key] for key, role in roles.items() if not role.endswith("_multi")]
    if len(composed) != 1 or not steps:
        return None
    all_steps, some_step = math.prod(steps), 1 - math.prod(1 - step for step in steps)
    mastered = share[composed[0]] * (all_steps if family == "we_math_strict" else some_step)
    return mastered + 0.5 * (1 - share[composed[0]]) * all_steps
