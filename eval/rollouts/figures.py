"""Figures of samples: of one problem's, for `keep`; and of all, for `statistics.json`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reasonrl.eval.rollouts.tokens import LOGPROBS

_HISTOGRAM = 20
_QUANTILES = {"p5": 0.05, "median": 0.5, "p95": 0.95}


def group_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What `keep` may ask about one problem's samples. A figure that these samples do not have is not there: a share of
    right ones where none could be scored, tokens where their number is not known.
    """
    scored = [row["correct"] for row in rows if row["correct"] is not None]
    rewards = [row["reward"] for row in rows if row["reward"] is not None]
    lengths = [row["length"] for row in rows if row["length"] is not None]
    found: dict[str, float] = {
        "n": len(rows),
        "n_correct": sum(scored),
        "n_wrong": len(scored) - sum(scored),
        "n_unscored": len(rows) - len(scored),
        "n_truncated": sum(row["finish_reason"] == "length" for row in rows),
    }
    if scored:
        found["pass_rate"] = sum(scored) / len(scored)
    for name, values in (("reward", rewards), ("tokens", lengths)):
        if values:
            found |= {f"mean_{name}": sum(values) / len(values), f"min_{name}": min(values), f"max_{name}": max(values)}
    if rows and rows[0].get("prompt_ids") is not None:
        found["prompt_tokens"] = len(rows[0]["prompt_ids"])
    return found


@dataclass
class Figures:
    """Sums over problems and their samples, one problem at a time.

    Attributes:
        pass_counts: problems by (right samples, scored samples).
        lengths: tokens of the samples by what they are: `right`, `wrong`, `unscored`.
        counts: of samples and of what they lack; verdicts as `verdict/wrong`, ends as `finish/length`.
    """

    problems: int = 0
    samples: int = 0
    prompt_tokens: int = 0
    logprob_sum: float = 0.0
    logprob_tokens: int = 0
    pass_counts: Counter[tuple[int, int]] = field(default_factory=Counter)
    lengths: dict[str, list[int]] = field(default_factory=lambda: {"right": [], "wrong": [], "unscored": []})
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Count one problem's samples."""
        self.problems += 1
        self.samples += len(rows)
        scored = [row["correct"] for row in rows if row["correct"] is not None]
        self.pass_counts[sum(scored), len(scored)] += 1
        for row in rows:
            kind = "unscored" if row["correct"] is None else "right" if row["correct"] else "wrong"
            self.counts[f"verdict/{row['verdict']}"] += 1
            self.counts[f"finish/{row['finish_reason']}"] += 1
            self.counts["without_ids"] += row["completion_ids"] is None
            self.counts["without_logprobs"] += row[LOGPROBS] is None
            self.counts["without_length"] += row["length"] is None
            if row["length"] is not None:
                self.lengths[kind].append(row["length"])
            if row["prompt_ids"] is not None:
                self.prompt_tokens += len(row["prompt_ids"])
            if row[LOGPROBS] is not None:
                self.logprob_sum += float(np.sum(row[LOGPROBS], dtype=np.float64))
                self.logprob_tokens += len(row[LOGPROBS])

    def summary(self) -> dict[str, Any]:
        """As plain JSON: see `docs/rollouts.md`."""
        right = sum(correct * count for (correct, _), count in self.pass_counts.items())
        scored = sum(size * count for (_, size), count in self.pass_counts.items())
        rates = [(correct / size, count) for (correct, size), count in self.pass_counts.items() if size]
        problems = sum(count for _, count in rates)
        lengths = [length for part in self.lengths.values() for length in part]
        truncated = self.counts["finish/length"]
        return {
            "problems": self.problems,
            "samples": self.samples,
            "accuracy": right / scored if scored else None,
            "pass_rate": {
                "mean": sum(rate * count for rate, count in rates) / problems if problems else None,
                "all_right": sum(count for rate, count in rates if rate == 1),
                "all_wrong": sum(count for rate, count in rates if rate == 0),
                "mixed": sum(count for rate, count in rates if 0 < rate < 1),
                "unscored": self.problems - problems,
                "histogram": pass_rate_histogram(self.pass_counts),
            },
            "right": right,
            "wrong": scored - right,
            "unscored": self.samples - scored,
            "truncated": truncated,
            "truncated_fraction": truncated / self.samples if self.samples else None,
            "verdicts": self._named("verdict/"),
            "finish_reasons": self._named("finish/"),
            "lengths": {
                name: length_figures(values)
                for name, values in {"all": lengths, **self.lengths}.items()
                if values or name == "all"
            },
            "length_histogram": length_histogram(self.lengths),
            "response_tokens": sum(lengths),
            "prompt_tokens": self.prompt_tokens,
            "mean_logprob_sampled": self._mean_logprob(),
            "without": {name: self.counts[f"without_{name}"] for name in ("ids", "logprobs", "length")},
        }

    def _mean_logprob(self) -> float | None:
        mean = self.logprob_sum / self.logprob_tokens if self.logprob_tokens else math.nan
        return mean if math.isfinite(mean) else None

    def _named(self, prefix: str) -> dict[str, int]:
        return {name.removeprefix(prefix): count for name, count in sorted(self.counts.items()) if prefix in name}


def pass_rate_histogram(counts: Mapping[tuple[int, int], int]) -> list[dict[str, Any]]:
    """Problems by share of right samples: one entry a possible share where all problems have the same few samples, else
    20 equal bins, whose last holds 1. Entries have `low`, `high` and `problems`.
    """
    sizes = {size for _, size in counts if size}
    if len(sizes) == 1 and (size := next(iter(sizes))) <= 32:
        return [
            {"low": right / size, "high": right / size, "problems": counts.get((right, size), 0)}
            for right in range(size + 1)
        ]
    bins = [0] * _HISTOGRAM
    for (right, size), count in counts.items():
        if size:
            bins[min(_HISTOGRAM * right // size, _HISTOGRAM - 1)] += count
    if not sizes:
        return []
    return [
        {"low": place / _HISTOGRAM, "high": (place + 1) / _HISTOGRAM, "problems": count}
        for place, count in enumerate(bins)
    ]


def length_figures(values: Sequence[int]) -> dict[str, float | int | None]:
    """Number, mean, quantiles, smallest and largest of lengths in tokens."""
    if not values:
        return {"samples": 0, "mean": None, "min": None, "max": None, **dict.fromkeys(_QUANTILES)}
    array = np.asarray(values)
    quantiles = np.quantile(array, list(_QUANTILES.values()))
    return {
        "samples": len(array),
        "mean": float(array.mean()),
        "min": int(array.min()),
        **{name: float(value) for name, value in zip(_QUANTILES, quantiles, strict=True)},
        "max": int(array.max()),
    }


def length_histogram(lengths: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Samples by tokens in at most 20 equal bins: `edges`, and counts for each kind of sample."""
    largest = max((max(values) for values in lengths.values() if values), default=0)
    edges = np.linspace(0, largest + 1, min(_HISTOGRAM, largest + 1) + 1)
    return {
        "edges": [float(edge) for edge in edges],
        **{name: np.histogram(values, edges)[0].tolist() for name, values in lengths.items() if values},
    }
