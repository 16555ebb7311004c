"""From a suite's samples to its figures: accuracy, pass@k, maj@n, greedy, lengths, and what was cut or unscored."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from reasonrl.eval.metrics import Interval, maj_at_k, mean_interval, pass_at_k, proportion_interval
from reasonrl.observe import write_atomically

RESULTS_FORMAT = 1


@dataclass(frozen=True)
class SuiteResult:
    """The figures of one suite.

    Attributes:
        name: the suite.
        accuracy: mean over problems of the share of right samples; None if no sample could be scored.
        pass_at_k: unbiased pass@k by k, over problems with at least k scored samples.
        maj_at_n: majority vote over all n samples; None where n is 1 or the reward tells no extracted answer.
        greedy: accuracy of the greedy sample; None if there is none.
        mean_score: mean reward, for rewards that are no verdict (truncated samples count with 0); None for `math`.
        mean_length: tokens a sample, stop token included; greedy samples not counted.
        truncated_fraction: samples that did not end with a stop token; they count as wrong.
        truncated_right_fraction: samples among all that hold a right answer but were cut.
        no_answer_fraction: samples from which no answer could be read.
        unscored: samples left out because the gold was bad or the grader failed (greedy ones included).
        n_problems, n_samples: problems, and samples without the greedy ones.
        verdicts: how often each verdict occurred.
        decoding: temperature, top_p, max_tokens, n.
        prompt_hash: SHA-256 over ids and prompt tokens in order.
        seed: the recipe's seed.
    """

    name: str
    accuracy: Interval | None
    pass_at_k: Mapping[int, Interval]
    maj_at_n: Interval | None
    greedy: Interval | None
    mean_score: Interval | None
    mean_length: float
    truncated_fraction: float
    truncated_right_fraction: float
    no_answer_fraction: float
    unscored: int
    n_problems: int
    n_samples: int
    verdicts: Mapping[str, int]
    decoding: Mapping[str, Any]
    prompt_hash: str
    seed: int

    def as_dict(self) -> dict[str, Any]:
        """As it stands in `results.json`."""

        def plain(interval: Interval | None) -> dict[str, Any] | None:
            return None if interval is None else interval.as_dict()

        return {
            "accuracy": plain(self.accuracy),
            "pass@k": {str(k): interval.as_dict() for k, interval in self.pass_at_k.items()},
            "maj@n": plain(self.maj_at_n),
            "greedy": plain(self.greedy),
            "mean_score": plain(self.mean_score),
            "mean_length": self.mean_length,
            "truncated_fraction": self.truncated_fraction,
            "truncated_right_fraction": self.truncated_right_fraction,
            "no_answer_fraction": self.no_answer_fraction,
            "unscored": self.unscored,
            "n_problems": self.n_problems,
            "n_samples": self.n_samples,
            "verdicts": dict(self.verdicts),
            "decoding": dict(self.decoding),
            "prompt_hash": self.prompt_hash,
            "seed": self.seed,
        }

    def metrics(self) -> dict[str, float]:
        """Flat figures for `done.json`: `<suite>/accuracy`, `<suite>/accuracy_low`, `<suite>/pass@16`, ..."""
        named = {
            "accuracy": self.accuracy,
            "greedy": self.greedy,
            "maj@n": self.maj_at_n,
            "mean_score": self.mean_score,
        }
        named |= {f"pass@{k}": interval for k, interval in self.pass_at_k.items()}
        flat: dict[str, float] = {}
        for name, interval in named.items():
            if interval is not None:
                ends = {"": interval.value, "_low": interval.low, "_high": interval.high}
                flat |= {f"{self.name}/{name}{suffix}": value for suffix, value in ends.items() if value is not None}
        for name in ("mean_length", "truncated_fraction", "no_answer_fraction", "unscored", "n_problems", "n_samples"):
            flat[f"{self.name}/{name}"] = getattr(self, name)
        return flat


def by_problem(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, list[Mapping[str, Any]]]:
    """The scored samples of one metric (`sample` or `greedy`) by problem id, in order."""
    problems: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["metric"] == metric and row["correct"] is not None:
            problems.setdefault(row["id"], []).append(row)
    return problems


def accuracy_values(rows: Sequence[Mapping[str, Any]], metric: str = "sample") -> dict[str, float]:
    """Share of right samples by problem id."""
    return {key: fmean(row["correct"] for row in samples) for key, samples in by_problem(rows, metric).items()}


def pass_at_k_values(rows: Sequence[Mapping[str, Any]], k: int) -> dict[str, float]:
    """Unbiased pass@k by problem id; problems with fewer than k scored samples are left out."""
    return {
        key: pass_at_k(len(samples), sum(row["correct"] for row in samples), k)
        for key, samples in by_problem(rows, "sample").items()
        if len(samples) >= k
    }


def metric_values(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, float]:
    """Per-problem values of `accuracy`, `greedy` or `pass@<k>` from sample rows; problems without scored samples are
    left out.

    Raises:
        ValueError: another metric.
    """
    if metric == "accuracy":
        return accuracy_values(rows)
    if metric == "greedy":
        return accuracy_values(rows, "greedy")
    if metric.startswith("pass@") and metric.removeprefix("pass@").isdigit():
        return pass_at_k_values(rows, int(metric.removeprefix("pass@")))
    raise ValueError(f"no per-problem values of {metric!r}; there are accuracy, greedy and pass@<k>")


def summarise(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    k: Sequence[int],
    decoding: Mapping[str, Any],
    prompt_hash: str,
    seed: int,
    confidence: float = 0.95,
) -> SuiteResult:
    """The figures of one suite from its sample rows (as in `samples.parquet`)."""

    def interval(values: Mapping[str, float]) -> Interval | None:
        return proportion_interval(list(values.values()), confidence) if values else None

    sampled = [row for row in rows if row["metric"] == "sample"]
    cut = [row for row in sampled if row["finish_reason"] != "stop"]
    problems = by_problem(rows, "sample")
    pass_k = {size: interval(pass_at_k_values(rows, size)) for size in sorted(set(k))}
    majority = None
    if decoding["n"] > 1 and any(row["extracted"] is not None for row in sampled):
        majority = interval(
            {
                key: maj_at_k([row["extracted"] for row in group], [row["correct"] for row in group])
                for key, group in problems.items()
            }
        )
    plain_scores = any(row["verdict"] == "scored" for row in sampled)
    mean_score = None
    if plain_scores and problems:
        scores = [
            fmean(row["score"] if row["finish_reason"] == "stop" else 0.0 for row in group)
            for group in problems.values()
        ]
        mean_score = mean_interval(scores, confidence)
    return SuiteResult(
        name=name,
        accuracy=interval(accuracy_values(rows)),
        pass_at_k={size: found for size, found in pass_k.items() if found is not None},
        maj_at_n=majority,
        greedy=interval(accuracy_values(rows, "greedy")),
        mean_score=mean_score,
        mean_length=fmean(row["length"] for row in sampled),
        truncated_fraction=len(cut) / len(sampled),
        truncated_right_fraction=sum(bool(row["right"]) for row in cut) / len(sampled),
        no_answer_fraction=sum(row["verdict"] == "no_answer" for row in sampled) / len(sampled),
        unscored=sum(row["correct"] is None for row in rows),
        n_problems=len({row["id"] for row in sampled}),
        n_samples=len(sampled),
        verdicts=dict(sorted(Counter(row["verdict"] for row in sampled).items())),
        decoding=dict(decoding),
        prompt_hash=prompt_hash,
        seed=seed,
    )


def read_results(directory: str | Path) -> dict[str, Any]:
    """The `results.json` of an evaluation directory; `{"format": 1, "suites": {}}` where there is none yet."""
    path = Path(directory) / "results.json"
    if not path.exists():
        return {"format": RESULTS_FORMAT, "suites": {}}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write_result(directory: str | Path, result: SuiteResult) -> None:
    """Puts one suite's figures into `results.json`, atomically; the other suites' stay."""
    results = read_results(directory)
    results["suites"][result.name] = result.as_dict()
    write_atomically(Path(directory) / "results.json", json.dumps(results, indent=2, ensure_ascii=False).encode())
