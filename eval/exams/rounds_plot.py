"""The picture of an examination of rounds: percent right against generated tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasonrl.eval.metrics import Interval
from reasonrl.observe.style import COLOURS, MUTED, new_figure, save_figure, styled


def _ends(share: Interval) -> tuple[float, float]:
    return (share.value if share.low is None else share.low, share.value if share.high is None else share.high)


def plot_rounds(entry: Mapping[str, Any], path: Path) -> Path:
    """Percent right against generated tokens: votes and pass@k as lines, runs as points, all with their intervals.

    Points of equal tokens stand beside each other, a little to the right of their place.
    """

    @styled
    def draw() -> Path:
        figure, axis = new_figure(7.2, 4.2)
        shares = {name: Interval(**found) for name, found in entry["metrics"].items()}
        found = {point["figure"]: (point["tokens"], shares[point["figure"]]) for point in entry["points"]}
        for prefix, style in (("maj@", "-"), ("pass@", (0, (4, 3)))):
            names = ["solo", *(name for name in found if name.startswith(prefix))]
            names.sort(key=lambda name: found[name][0])
            if len(names) > 1:
                tokens_of, ends = [found[name][0] for name in names], [_ends(found[name][1]) for name in names]
                look: Any = {"color": MUTED, "linestyle": style, "marker": "o", "markersize": 3, "label": f"{prefix}k"}
                axis.plot(tokens_of, [100 * found[name][1].value for name in names], **look)
                lows, highs = ([100 * end[side] for end in ends] for side in (0, 1))
                axis.fill_between(tokens_of, lows, highs, color=MUTED, alpha=0.15, linewidth=0)
        widest = max(point[0] for point in found.values())
        taken: list[float] = []
        runs = [name for name in entry["runs"] if name in found]
        for number, name in enumerate(runs):
            tokens, share = found[name]
            low, high = _ends(share)
            beside = sum(abs(tokens - other) < 0.01 * widest for other in taken)
            taken.append(tokens)
            spread = [[100 * (share.value - low)], [100 * (high - share.value)]]
            colour = COLOURS[number % len(COLOURS)]
            marker = "osD^v<>P"[number // len(COLOURS) % 8]
            place = tokens + 0.012 * widest * beside
            axis.errorbar([place], [100 * share.value], yerr=spread, color=colour, fmt=marker, capsize=3, label=name)
        axis.set_title(f"{entry['n_problems']:,} problems, intervals over them")
        axis.set_xlabel("generated tokens a problem, mean")
        axis.set_ylabel("percent right")
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return save_figure(figure, path)

    return draw()
