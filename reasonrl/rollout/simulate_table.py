"""A fleet plan as text for the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reasonrl.observe import format_seconds
from reasonrl.observe.tables import table
from reasonrl.rollout.latency import LatencyCurve
from reasonrl.rollout.lengths import PredictorSettings
from reasonrl.rollout.simulate_log import read_rollout_log
from reasonrl.rollout.simulate_plan import FleetPlan, PlanSettings, PolicyResult, plan_fleet


def plan_report(path: str | Path, *, ptl: str | None = None, as_json: bool = False, **settings: Any) -> str:
    """Read a log, replay it, and say what came out.

    Args:
        path: see `read_rollout_log`.
        ptl: the latency curve as text (see `LatencyCurve.parse`); None: fitted to the log's stamps.
        as_json: one JSON object with every figure instead of tables.
        settings: the other fields of `PlanSettings`.

    Raises:
        DataError: the log cannot be read, a setting is out of range, or there is no latency curve.
    """
    chosen = PlanSettings(curve=None if ptl is None else LatencyCurve.parse(ptl), **settings)
    plan = plan_fleet(read_rollout_log(path), chosen)
    return json.dumps(plan.as_dict(), indent=2) if as_json else plan_text(plan)


def plan_text(plan: FleetPlan) -> str:
    """The tables of a plan with what one must know to read them."""
    rows = [_policy_row(row, best=row is plan.best) for row in plan.policies]
    confidence = f"{100 * plan.settings.confidence:g} %"
    parts = [
        _replayed(plan),
        table(["policy", "makespan", "gain", f"{confidence} interval", "idle", "idle by server", "prefix hits"], rows),
        f"gain: time under round robin / time under the policy ({plan.interval}); * the fastest that a run can follow",
        _predictions(plan),
        _error(plan),
    ]
    if plan.overlaps:
        body = [
            [
                row.policy,
                "streaming" if row.streaming else "batch, then score",
                str(row.max_staleness),
                _seconds(row.seconds),
                f"{row.gain:.3f}",
                f"{100 * row.generator_idle:.0f} %",
                f"{100 * row.trainer_idle:.0f} %",
            ]
            for row in plan.overlaps
        ]
        header = ["policy", "answers checked", "staleness", "step", "gain", "generator idle", "trainer idle"]
        parts += [
            "",
            table(header, body),
            "gain: over the first line; a step is generation, checking and training",
        ]
    return "\n".join(parts)


def _replayed(plan: FleetPlan) -> str:
    skipped = f"; {plan.skipped:,} rows without a length were left out" if plan.skipped else ""
    fitted = "fitted to the log" if plan.curve_fitted else "as given"
    largest = plan.curve.points[-1][0]
    if plan.curve_fitted and largest < plan.settings.max_batch:
        fitted += f" (it ran {largest} samples at most; larger batches are extrapolated)"
    servers = "1 server" if plan.settings.servers == 1 else f"{plan.settings.servers} servers"
    return (
        f"{plan.steps:,} steps, {plan.samples:,} samples, {plan.tokens:,} tokens on {servers} of at most"
        f" {plan.settings.max_batch} samples each{skipped}\n"
        f"seconds a decode step, {fitted}: {plan.curve}\n"
    )


def _policy_row(row: PolicyResult, best: bool) -> list[str]:
    shares = [f"{100 * share:.0f}" for share in row.idle_share]
    shown = shares if len(shares) <= 8 else [*shares[:3], "…", *shares[-3:]]
    return [
        row.policy + (" *" if best else ""),
        _seconds(row.makespan),
        f"{row.gain:.3f}",
        f"[{row.low:.3f}, {row.high:.3f}]",
        f"{100 * sum(row.idle_share) / len(row.idle_share):.0f} %",
        " ".join(shown),
        f"{100 * row.prefix_hit_rate:.0f} %",
    ]


def _seconds(seconds: float) -> str:
    """As elsewhere, but with three digits where there are few seconds: gains are small."""
    return f"{seconds:.3g} s" if seconds < 60 else format_seconds(seconds)


def _predictions(plan: FleetPlan) -> str:
    if plan.recall is None:
        return (
            "predicted lengths: none, the log has one step; only the lines with true lengths show what prediction can"
            " give"
        )
    needed = PredictorSettings().recall_needed
    correlation = "" if plan.spearman is None else f", Spearman {plan.spearman:.2f}"
    return (
        f"predicted lengths: recall of the longest 20 % {plan.recall:.2f}{correlation}; length-aware dispatch would"
        f" have been on in {100 * plan.dispatch_on:.0f} % of the steps (it needs {needed:g})"
    )


def _error(plan: FleetPlan) -> str:
    if plan.error is None:
        return "simulated against measured makespan: the log has no stamps (server, started, finished) to tell"
    held = "by curves from other steps" if plan.error.held_out else "by the same curve"
    return (
        f"simulated against measured makespan: off by {100 * plan.error.mean_absolute:.1f} % on average"
        f" ({100 * plan.error.mean:+.1f} % signed; {plan.error.steps} steps, {held})"
    )
