"""Samples kept for training, as a report shows them: `statistics.json` of a `rollout` stage as tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasonrl.observe.style import COLOURS, new_figure, save_figure, styled

_KINDS = {"right": COLOURS[2], "wrong": COLOURS[1], "unscored": COLOURS[-1]}


def rollout_headlines(statistics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The few figures that say how a collection went."""
    before = statistics.get("before_keep") or statistics
    found = [("samples", f"{statistics['samples']:,}"), ("pass rate", _percent(before["pass_rate"]["mean"]))]
    if before is not statistics:
        found.insert(1, ("kept", _share(statistics["problems"], before["problems"])))
    return [(name, text) for name, text in found if text]


def rollout_tables(statistics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Counts before and after `keep`, lengths, and what drawing took: title, header, body."""
    before = statistics.get("before_keep")
    sides = [("kept", statistics), ("drawn", before)] if before else [("samples", statistics)]
    lines: list[tuple[str, list[str]]] = [
        ("problems", [f"{side['problems']:,}" for _, side in sides]),
        ("samples", [f"{side['samples']:,}" for _, side in sides]),
        ("mean pass rate", [_percent(side["pass_rate"]["mean"]) for _, side in sides]),
    ]
    for name, words in (("all_right", "all right"), ("mixed", "some right"), ("all_wrong", "none right")):
        lines.append((f"problems, {words}", [_share(side["pass_rate"][name], side["problems"]) for _, side in sides]))
    for name in ("truncated", "unscored"):
        lines.append((name, [_share(side[name], side["samples"]) for _, side in sides]))
    for name, words in (("ids", "token ids"), ("logprobs", "log-probabilities"), ("length", "a length")):
        if any(side["without"][name] for _, side in sides):
            lines.append((f"without {words}", [_share(side["without"][name], side["samples"]) for _, side in sides]))
    lines += [
        ("response tokens", [f"{side['response_tokens']:,}" for _, side in sides]),
        ("prompt tokens", [f"{side['prompt_tokens']:,}" for _, side in sides]),
    ]
    keep = statistics.get("keep")
    counts = {
        "title": "Samples" + (f"; kept are problems with {keep}" if keep else ""),
        "header": ["", *(name for name, _ in sides)],
        "body": [[name, *cells] for name, cells in lines],
    }
    tables = [counts, _lengths(statistics["lengths"])]
    speed = statistics.get("speed")
    return [*tables, _speed(speed)] if speed and speed["samples"] else tables


def rollout_pictures(statistics: Mapping[str, Any], plots: Path, name: str) -> list[tuple[str, Path | None]]:
    """Problems by pass rate and samples by length."""
    return [
        ("pass rates", plot_pass_rates(statistics, plots / f"{name}_pass_rates.png")),
        ("lengths", plot_sample_lengths(statistics, plots / f"{name}_lengths.png")),
    ]


def _lengths(lengths: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    header = ["samples", "mean", "min", "p5", "median", "p95", "max"]
    body = [
        [kind, *("" if found[name] is None else f"{found[name]:,.{int(name == 'mean')}f}" for name in header)]
        for kind, found in lengths.items()
    ]
    return {"title": "Tokens of the kept samples", "header": ["", *header], "body": body}


def _speed(speed: Mapping[str, Any]) -> dict[str, Any]:
    cells = {
        "attempts": f"{speed['attempts']:,}",
        "samples drawn": f"{speed['samples']:,}",
        "seconds": f"{speed['seconds']:,.1f}",
        "samples a second": f"{speed['samples_per_second']:,.2f}" if speed["samples_per_second"] else "",
        "tokens a second": f"{speed['tokens_per_second']:,.0f}" if speed["tokens_per_second"] else "",
        "requests": f"{speed['requests']:,}" if speed["requests"] else "",
        "cost": f"{speed['cost']:,.4g}" if speed["cost"] else "",
    }
    shown = {name: text for name, text in cells.items() if text}
    return {"title": "Drawing, over all attempts", "header": list(shown), "body": [list(shown.values())]}


@styled
def plot_pass_rates(statistics: Mapping[str, Any], path: Path) -> Path | None:
    """Problems by the share of right samples: those drawn, and among them those kept; None without a verdict."""
    drawn = (statistics.get("before_keep") or statistics)["pass_rate"]["histogram"]
    kept = statistics["pass_rate"]["histogram"]
    if not any(entry["problems"] for entry in drawn):
        return None
    figure, axis = new_figure()
    exact = all(entry["low"] == entry["high"] for entry in drawn)
    width = 1 / max(1, len(drawn) - 1) if exact else 1 / len(drawn)
    places = [100 * (entry["low"] if exact else (entry["low"] + entry["high"]) / 2) for entry in drawn]
    axis.bar(places, [entry["problems"] for entry in drawn], 92 * width, color=COLOURS[-1], alpha=0.5, label="drawn")
    if statistics.get("before_keep"):
        inside = {entry["low"]: entry["problems"] for entry in kept}
        heights = [inside.get(entry["low"], 0) for entry in drawn]
        axis.bar(places, heights, 92 * width, color=COLOURS[0], label="kept")
        axis.legend()
    axis.grid(axis="x", visible=False)
    axis.set_title("Problems by pass rate")
    axis.set_xlabel("percent of a problem's samples that are right")
    axis.set_ylabel("problems")
    return save_figure(figure, path)


@styled
def plot_sample_lengths(statistics: Mapping[str, Any], path: Path) -> Path | None:
    """Kept samples by their tokens, right and wrong ones stacked; None where no length is known."""
    histogram = statistics["length_histogram"]
    edges = histogram["edges"]
    kinds = [kind for kind in _KINDS if any(histogram.get(kind, ()))]
    if not kinds:
        return None
    figure, axis = new_figure()
    below = [0.0] * (len(edges) - 1)
    width = edges[1] - edges[0]
    for kind in kinds:
        axis.bar(
            edges[:-1],
            histogram[kind],
            0.92 * width,
            below,
            align="edge",
            color=_KINDS[kind],
            label=kind,
        )
        below = [base + count for base, count in zip(below, histogram[kind], strict=True)]
    axis.grid(axis="x", visible=False)
    axis.legend()
    axis.set_title("Samples by length")
    axis.set_xlabel("tokens of the response")
    axis.set_ylabel("samples")
    return save_figure(figure, path)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _share(count: int, of: int) -> str:
    return f"{count:,} ({100 * count / of:.1f} %)" if of else f"{count:,}"
