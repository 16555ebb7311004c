"""Pictures of a run, one function each: from metrics lines to a PNG, or to nothing when the metric is not there.

Every function takes the records of `read_metrics` and the path to write, and returns the path, or None if no record has
what the picture shows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from reasonrl.observe.style import COLOURS, MUTED, dot_with_bar, new_figure, save_figure, styled

Records: TypeAlias = Sequence[Mapping[str, Any]]
Plot: TypeAlias = Callable[[Records, Path], Path | None]

SMOOTH_FROM = 40
"""From this many points on, single steps fade and a running mean is drawn over them."""


def series(records: Records, name: str) -> tuple[list[float], list[float]]:
    """Steps and finite values of one metric, in order."""
    steps, values = [], []
    for record in records:
        value = record.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            steps.append(float(record["step"]))
            values.append(float(value))
    return steps, values


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean over a centred window that shrinks at both ends; length as given."""
    half = window // 2
    result = []
    for position in range(len(values)):
        reach = min(half, position, len(values) - 1 - position)
        part = values[position - reach : position + reach + 1]
        result.append(sum(part) / len(part))
    return result


def _line(axis: Any, records: Records, name: str, label: str, colour: str, scale: float = 1.0) -> bool:
    steps, values = series(records, name)
    if not values:
        return False
    scaled = [scale * value for value in values]
    if len(scaled) >= SMOOTH_FROM:
        axis.plot(steps, scaled, color=colour, alpha=0.25, linewidth=1)
        axis.plot(steps, running_mean(scaled, max(5, len(scaled) // 15)), color=colour, label=label)
    else:
        axis.plot(steps, scaled, color=colour, label=label, marker="o", markersize=3 if len(scaled) > 1 else 6)
    return True


def _finish(figure: Any, axis: Any, path: Path, title: str, unit: str) -> Path:
    axis.set_title(title)
    axis.set_xlabel("step")
    axis.set_ylabel(unit)
    axis.xaxis.get_major_locator().set_params(integer=True)
    if len(axis.get_legend_handles_labels()[1]) > 1:
        axis.legend()
    return save_figure(figure, path)


def _lines(
    records: Records,
    path: Path,
    title: str,
    unit: str,
    lines: Sequence[tuple[str, str]],
    *,
    scale: float = 1.0,
    bottom: float | None = None,
    log: bool = False,
) -> Path | None:
    """A picture of plain lines: (metric, label) pairs; absent metrics are left out."""
    if not any(series(records, name)[1] for name, _ in lines):
        return None
    figure, axis = new_figure()
    drawn = 0
    for name, label in lines:
        drawn += _line(axis, records, name, label, COLOURS[drawn % len(COLOURS)], scale)
    if log and all(value > 0 for name, _ in lines for value in series(records, name)[1]):
        axis.set_yscale("log")
    else:
        axis.ticklabel_format(axis="y", style="sci", scilimits=(-3, 5))
    if bottom is not None and not log:
        # A constant curve at the bottom must not sit on the frame.
        axis.set_ylim(bottom=bottom - 0.02 * (axis.get_ylim()[1] - bottom), top=None)
    return _finish(figure, axis, path, title, unit)


@styled
def plot_reward(records: Records, path: Path) -> Path | None:
    """Mean reward a step, with the 95 % interval of that mean (needs `reward_std` and `samples`)."""
    steps, means = series(records, "reward")
    if not means:
        return None
    figure, axis = new_figure()
    spread_steps, spreads = series(records, "reward_std")
    count_steps, counts = series(records, "samples")
    if spread_steps == steps == count_steps:
        errors = [1.96 * spread / math.sqrt(max(count, 1.0)) for spread, count in zip(spreads, counts, strict=True)]
        low = [mean - error for mean, error in zip(means, errors, strict=True)]
        high = [mean + error for mean, error in zip(means, errors, strict=True)]
        axis.fill_between(steps, low, high, color=COLOURS[0], alpha=0.15, linewidth=0, label="95 % interval")
    _line(axis, records, "reward", "mean reward", COLOURS[0])
    return _finish(figure, axis, path, "Reward", "reward")


@styled
def plot_accuracy(records: Records, path: Path) -> Path | None:
    """Accuracy of the rollouts, and of validation with its interval."""
    steps, values = series(records, "eval/accuracy")
    if not values and not series(records, "accuracy")[1]:
        return None
    figure, axis = new_figure()
    _line(axis, records, "accuracy", "rollouts", COLOURS[0], scale=100)
    if values:
        points = [100 * value for value in values]
        low_steps, lows = series(records, "eval/accuracy_low")
        high_steps, highs = series(records, "eval/accuracy_high")
        errors = None
        if low_steps == steps == high_steps:
            below = [point - 100 * low for point, low in zip(points, lows, strict=True)]
            above = [100 * high - point for point, high in zip(points, highs, strict=True)]
            errors = [below, above]
        label = "validation, 95 % interval" if errors else "validation"
        axis.errorbar(steps, points, yerr=errors, color=COLOURS[1], marker="o", markersize=4, capsize=3, label=label)
    return _finish(figure, axis, path, "Accuracy", "percent right")


@styled
def plot_length(records: Records, path: Path) -> Path | None:
    """Tokens a completion: mean, and the range from shortest to longest."""
    steps, means = series(records, "completions/mean_length")
    if not means:
        return None
    figure, axis = new_figure()
    low_steps, lows = series(records, "completions/min_length")
    high_steps, highs = series(records, "completions/max_length")
    if low_steps == steps == high_steps:
        axis.fill_between(steps, lows, highs, color=COLOURS[0], alpha=0.12, linewidth=0, label="shortest to longest")
    _line(axis, records, "completions/mean_length", "mean", COLOURS[0])
    axis.set_ylim(bottom=0)
    return _finish(figure, axis, path, "Completion length", "tokens")


@styled
def plot_truncation(records: Records, path: Path) -> Path | None:
    """Share of completions cut off at the length limit."""
    lines = [("completions/truncated_fraction", "cut off")]
    return _lines(records, path, "Truncated completions", "percent of completions", lines, scale=100, bottom=0)


@styled
def plot_entropy(records: Records, path: Path) -> Path | None:
    """Mean entropy of the policy's next-token distribution."""
    return _lines(records, path, "Entropy", "nats a token", [("entropy", "policy")], bottom=0)


@styled
def plot_clip_fraction(records: Records, path: Path) -> Path | None:
    """Share of tokens whose ratio (policy) or value (critic) was clipped."""
    lines = [("clip_fraction", "policy ratio"), ("value_clip_fraction", "value")]
    return _lines(records, path, "Clipped tokens", "percent of tokens", lines, scale=100, bottom=0)


@styled
def plot_kl(records: Records, path: Path) -> Path | None:
    """KL divergence: of each update, and from the reference model where there is one."""
    lines = [("approx_kl", "old to new policy"), ("kl", "from the reference")]
    return _lines(records, path, "KL divergence", "nats a token", lines)


@styled
def plot_explained_variance(records: Records, path: Path) -> Path | None:
    """Share of the returns' variance that the critic explains: 1 is perfect, 0 as good as a constant."""
    _steps, values = series(records, "explained_variance")
    if not values:
        return None
    figure, axis = new_figure()
    axis.axhline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    _line(axis, records, "explained_variance", "critic", COLOURS[0])
    # The untrained critic's first values may be far below -1 and would flatten all that follows.
    axis.set_ylim(max(min(values) - 0.05, -1.5), 1.02)
    return _finish(figure, axis, path, "Explained variance of the critic", "share of variance")


@styled
def plot_losses(records: Records, path: Path) -> Path | None:
    """Losses: policy and value of PPO, or the cross-entropy of SFT."""
    if series(records, "loss")[1]:
        return _lines(records, path, "Loss", "nats a token", [("loss", "training"), ("eval_loss", "validation")])
    return _lines(records, path, "Losses", "loss", [("policy_loss", "policy"), ("value_loss", "value")])


@styled
def plot_gradients(records: Records, path: Path) -> Path | None:
    """Gradient norms before clipping."""
    lines = [("grad_norm", "policy"), ("critic_grad_norm", "critic")]
    return _lines(records, path, "Gradient norm", "norm before clipping", lines, log=True)


@styled
def plot_learning_rate(records: Records, path: Path) -> Path | None:
    """Learning rates."""
    lines = [("learning_rate", "policy"), ("critic_learning_rate", "critic")]
    return _lines(records, path, "Learning rate", "learning rate", lines, bottom=0)


@styled
def plot_token_accuracy(records: Records, path: Path) -> Path | None:
    """Share of training tokens that the model ranks first (SFT)."""
    lines = [("mean_token_accuracy", "training"), ("eval_mean_token_accuracy", "validation")]
    return _lines(records, path, "Token accuracy", "percent of tokens", lines, scale=100)


@styled
def plot_step_time(records: Records, path: Path) -> Path | None:
    """Seconds a step, stacked by what they were spent on; the rest of `time/step` as `other`."""
    names = list(dict.fromkeys(name for record in records for name in record if name.startswith("time/")))
    parts = [name for name in names if name != "time/step" and any(series(records, name)[1])]
    total_steps, totals = series(records, "time/step")
    if not parts and not totals:
        return None
    steps = sorted({float(record["step"]) for record in records if any(name in record for name in names)})
    heights = {name: dict(zip(*series(records, name), strict=True)) for name in parts}
    whole = dict(zip(total_steps, totals, strict=True))
    rest = {step: max(0.0, whole[step] - sum(part.get(step, 0.0) for part in heights.values())) for step in whole}
    figure, axis = new_figure()
    below = [0.0] * len(steps)
    width = min((b - a for a, b in itertools.pairwise(steps)), default=1.0) * (0.92 if len(steps) < 60 else 1.0)
    stack = [(name.removeprefix("time/"), heights[name]) for name in parts] + (
        [("other" if parts else "step", rest)] if whole else []
    )
    for position, (label, part) in enumerate(stack):
        values = [part.get(step, 0.0) for step in steps]
        colour = COLOURS[-1] if label == "other" else COLOURS[position % (len(COLOURS) - 1)]
        axis.bar(steps, values, width=width, bottom=below, color=colour, label=label, linewidth=0)
        below = [base + value for base, value in zip(below, values, strict=True)]
    axis.grid(axis="x", visible=False)
    # Above the bars, so that it hides none.
    axis.margins(y=0.22)
    if len(stack) > 1:
        axis.legend(ncols=min(4, len(stack)), loc="upper right")
    axis.set_title("Time a step")
    axis.set_xlabel("step")
    axis.set_ylabel("seconds")
    axis.xaxis.get_major_locator().set_params(integer=True)
    return save_figure(figure, path)


@styled
def plot_throughput(records: Records, path: Path) -> Path | None:
    """Tokens a second over the whole step."""
    lines = [("rate/tokens_per_second", "tokens a second")]
    return _lines(records, path, "Throughput", "tokens a second", lines, bottom=0)


TRAINING_PLOTS: dict[str, Plot] = {
    "reward": plot_reward,
    "accuracy": plot_accuracy,
    "losses": plot_losses,
    "token_accuracy": plot_token_accuracy,
    "length": plot_length,
    "truncation": plot_truncation,
    "entropy": plot_entropy,
    "clip_fraction": plot_clip_fraction,
    "kl": plot_kl,
    "explained_variance": plot_explained_variance,
    "gradients": plot_gradients,
    "learning_rate": plot_learning_rate,
    "step_time": plot_step_time,
    "throughput": plot_throughput,
}
"""Every picture of a training stage by file name, in the report's order."""


@styled
def plot_eval_accuracy(results: Mapping[str, Any], path: Path) -> Path | None:
    """Accuracy and greedy accuracy of each suite with their intervals.

    Args:
        results: the content of an evaluation's `results.json`.
        path: the PNG.
    """
    names = ("accuracy", "greedy")
    found = [
        (suite, name, entry[name]) for suite, entry in results["suites"].items() for name in names if entry.get(name)
    ]
    if not found:
        return None
    figure, axis = new_figure(height=max(1.9, 1.1 + 0.42 * len(found)))
    for position, (_, name, interval) in enumerate(found):
        colour = COLOURS[names.index(name)]
        value, low, high = (100 * interval[end] for end in ("value", "low", "high"))
        dot_with_bar(axis, position, value, low, high, colour)
    axis.set_yticks(range(len(found)), [f"{suite}\n{name}" for suite, name, _ in found])
    axis.set_ylim(len(found) - 0.5, -0.6)
    axis.grid(axis="y", visible=False)
    axis.margins(x=0.12)
    axis.set_title("Accuracy by suite")
    axis.set_xlabel("percent right, 95 % interval over problems")
    return save_figure(figure, path)


@styled
def plot_pass_at_k(results: Mapping[str, Any], path: Path) -> Path | None:
    """pass@k against k, a curve a suite with its interval; None unless a suite has at least two k."""
    curves = {suite: entry["pass@k"] for suite, entry in results["suites"].items() if len(entry["pass@k"]) > 1}
    if not curves:
        return None
    figure, axis = new_figure()
    for position, (suite, by_k) in enumerate(curves.items()):
        colour = COLOURS[position % len(COLOURS)]
        sizes = sorted(map(int, by_k))
        values, lows, highs = ([100 * by_k[str(k)][end] for k in sizes] for end in ("value", "low", "high"))
        axis.fill_between(sizes, lows, highs, color=colour, alpha=0.15, linewidth=0)
        axis.plot(sizes, values, color=colour, marker="o", markersize=4, label=suite)
    every = sorted({int(k) for by_k in curves.values() for k in by_k})
    axis.set_xscale("log", base=2)
    axis.set_xticks(every, [str(k) for k in every])
    axis.minorticks_off()
    axis.set_title("pass@k")
    axis.set_xlabel("k samples")
    axis.set_ylabel("percent, 95 % interval")
    if len(curves) > 1:
        axis.legend()
    return save_figure(figure, path)
