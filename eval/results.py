"""From a suite's samples to its figures: accuracy, pass@k, maj@n, greedy, lengths, and what was cut or unscored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, TypeVar

from reasonrl.errors import RunError
from reasonrl.eval.metrics import Interval, mean_interval, proportion_interval, within_interval
from reasonrl.eval.named_metrics import Problems, Samples, by_problem, groups_of
from reasonrl.eval.named_metrics import metric_values as metric_values  # importable from here, too
from reasonrl.eval.samples import encode_object, read_object
from reasonrl.observe import write_atomically

RESULTS_FORMAT = 1
Row = TypeVar("Row", bound=Mapping[str, Any])


@dataclass(frozen=True)
class SuiteResult:
    """The figures of one suite.

    Attributes:
        name: the suite.
        accuracy: mean over problems of the share of right samples, its interval clustered by problem (by group, where
            problems are variants of one question); None if no sample could be scored.
        pass_at_k: unbiased pass@k by k, over problems with at least k scored samples.
        maj_at_n: majority vote over all n samples by answer classes, ties averaged; None where n is 1 or the reward
            tells no extracted answer.
        greedy: accuracy of the greedy sample; None if there is none.
        mean_score: mean reward, for rewards that are no verdict (truncated samples count with 0); None for `math`.
        mean_length: tokens a sample, stop token included; greedy samples not counted. None where an imported sample
            has no token count, like `tokens_per_answer` and `tokens_per_correct` then.
        truncated_fraction: samples that did not end with a stop token; they count as wrong.
        truncated_right_fraction: samples among all that hold a right answer but were cut.
        no_answer_fraction: samples from which no answer could be read.
        unscored: samples left out because the gold was bad or the grader failed (greedy ones included).
        n_problems, n_samples: problems, and samples without the greedy ones.
        verdicts: how often each verdict occurred.
        decoding: temperature, top_p, max_tokens, n.
        prompt_hash: SHA-256 over ids and prompt tokens in order.
        seed: the recipe's seed.
        within: the accuracy with its interval within problems: for these very problems, not for others like them.
        metrics_named: the figures that the suite's `metrics` names, but for those that no problem has samples enough
            for.
        counts: samples that are `truncated`, `empty` (no text), without an answer (`no_answer`), or whose grading ran
            into the `timeout`; one sample may be several of them.
        tokens_per_answer: tokens of all samples for each sample with an answer; None where none has one.
        tokens_per_correct: tokens of all samples for each right one: what a right answer costs; None likewise.
    """

    name: str
    accuracy: Interval | None
    pass_at_k: Mapping[int, Interval]
    maj_at_n: Interval | None
    greedy: Interval | None
    mean_score: Interval | None
    mean_length: float | None
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
    within: Interval | None = None
    metrics_named: Mapping[str, Interval] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    tokens_per_answer: float | None = None
    tokens_per_correct: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """As it stands in `results.json`."""

        def plain(interval: Interval | None) -> dict[str, Any] | None:
            return None if interval is None else interval.as_dict()

        return {
            "accuracy": plain(self.accuracy),
            "accuracy_within": plain(self.within),
            "pass@k": {str(k): interval.as_dict() for k, interval in self.pass_at_k.items()},
            "maj@n": plain(self.maj_at_n),
            "greedy": plain(self.greedy),
            "metrics": {name: interval.as_dict() for name, interval in self.metrics_named.items()},
            "mean_score": plain(self.mean_score),
            "mean_length": self.mean_length,
            "tokens_per_answer": self.tokens_per_answer,
            "tokens_per_correct": self.tokens_per_correct,
            "counts": dict(self.counts),
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
        named |= {f"pass@{k}": interval for k, interval in self.pass_at_k.items()} | dict(self.metrics_named)
        flat: dict[str, float] = {}
        for name, interval in named.items():
            if interval is not None:
                ends = {"": interval.value, "_low": interval.low, "_high": interval.high}
                flat |= {f"{self.name}/{name}{suffix}": value for suffix, value in ends.items() if value is not None}
        if self.within is not None and self.within.low is not None and self.within.high is not None:
            flat |= {
                f"{self.name}/accuracy_within_low": self.within.low,
                f"{self.name}/accuracy_within_high": self.within.high,
            }
        for name in ("truncated_fraction", "no_answer_fraction", "unscored", "n_problems", "n_samples"):
            flat[f"{self.name}/{name}"] = getattr(self, name)
        flat |= {f"{self.name}/{name}": count for name, count in self.counts.items()}
        for name in ("mean_length", "tokens_per_answer", "tokens_per_correct"):
            if getattr(self, name) is not None:
                flat[f"{self.name}/{name}"] = getattr(self, name)
        return flat


def accuracy_values(rows: Samples, metric: str = "sample") -> dict[str, float]:
    """Share of right samples (`sample` or `greedy` ones) by problem id."""
    return metric_values(rows, "accuracy" if metric == "sample" else metric)


def pass_at_k_values(rows: Samples, k: int) -> dict[str, float]:
    """Unbiased pass@k by problem id; problems with fewer than k scored samples are left out."""
    return metric_values(rows, f"pass@{k}")


def summarise(
    name: str,
    rows: Samples,
    *,
    k: Sequence[int],
    decoding: Mapping[str, Any],
    prompt_hash: str,
    seed: int,
    confidence: float = 0.95,
    metrics: Sequence[str] = (),
    problems: Problems | None = None,
) -> SuiteResult:
    """The figures of one suite from its sample rows (as `samples.read_samples` gives them).

    Args:
        name: the suite.
        rows: its samples, greedy ones too.
        k: which pass@k to tell.
        decoding: temperature, top_p, max_tokens, n.
        prompt_hash, seed: as in `SuiteResult`.
        confidence: of every interval.
        metrics: names of further figures (`reasonrl.recipe.metric_names`).
        problems: problem records by id; where they have groups, intervals are clustered by group.

    Raises:
        DataError: a figure in `metrics` needs groups or scores that are not there.
    """
    groups = groups_of(problems or {})

    def interval(values: Mapping[str, float]) -> Interval | None:
        if not values:
            return None
        return proportion_interval(list(values.values()), confidence, groups=[groups.get(key, key) for key in values])

    sampled = [row for row in rows if row["metric"] == "sample"]
    scored = by_problem(rows, "sample")
    pass_k = {size: interval(pass_at_k_values(rows, size)) for size in sorted(set(k))}
    named = {metric: interval(metric_values(rows, metric, problems)) for metric in metrics}
    votes = decoding["n"] > 1 and any(row["extracted"] is not None for row in sampled)
    mean_score = None
    if scored and any(row["verdict"] == "scored" for row in sampled):
        scores = [
            fmean(row["score"] if row["finish_reason"] == "stop" else 0.0 for row in group) for group in scored.values()
        ]
        mean_score = mean_interval(scores, confidence)
    return SuiteResult(
        name=name,
        accuracy=interval(accuracy_values(rows)),
        pass_at_k={size: found for size, found in pass_k.items() if found is not None},
        maj_at_n=interval(metric_values(rows, "maj@n")) if votes else None,
        greedy=interval(accuracy_values(rows, "greedy")),
        mean_score=mean_score,
        unscored=sum(row["correct"] is None for row in rows),
        n_problems=len({row["id"] for row in sampled}),
        verdicts=dict(sorted(Counter(row["verdict"] for row in sampled).items())),
        decoding=dict(decoding),
        prompt_hash=prompt_hash,
        seed=seed,
        within=_within(scored, confidence),
        metrics_named={metric: found for metric, found in named.items() if found is not None},
        **_lengths(sampled),
    )


def _within(scored: Mapping[str, Samples], confidence: float) -> Interval | None:
    if not scored:
        return None
    right = [sum(bool(row["correct"]) for row in samples) for samples in scored.values()]
    return within_interval(right, [len(samples) for samples in scored.values()], confidence)


def _lengths(sampled: Samples) -> dict[str, Any]:
    """What was cut, empty or without an answer, and what answers cost."""
    cut = [row for row in sampled if row["finish_reason"] != "stop"]
    empty = [not row.get("text", "").strip() for row in sampled]
    unanswered = [row["verdict"] == "no_answer" for row in sampled]
    answered = sum(not (nothing or none) for nothing, none in zip(empty, unanswered, strict=True))
    lengths, right = [row["length"] for row in sampled], sum(bool(row["correct"]) for row in sampled)
    tokens = None if None in lengths else sum(lengths)
    return {
        "n_samples": len(sampled),
        "mean_length": None if tokens is None else tokens / len(sampled),
        "truncated_fraction": len(cut) / len(sampled),
        "truncated_right_fraction": sum(bool(row["right"]) for row in cut) / len(sampled),
        "no_answer_fraction": sum(unanswered) / len(sampled),
        "counts": {
            "truncated": len(cut),
            "empty": sum(empty),
            "no_answer": sum(unanswered),
            "timeout": sum(row["verdict"] == "timeout" for row in sampled),
        },
        "tokens_per_answer": tokens / answered if answered and tokens is not None else None,
        "tokens_per_correct": tokens / right if right and tokens is not None else None,
    }


def of_first(rows: Sequence[Row], n: int | None) -> list[Row]:
    """The rows of the first n samples a problem, greedy ones too: those that results of that n are made of."""
    return [row for row in rows if n is None or row["metric"] != "sample" or row["index"] < n]


def read_results(directory: str | Path) -> dict[str, Any]:
    """The `results.json` of an evaluation directory; `{"format": 1, "suites": {}}` where there is none yet.

    Raises:
        RunError: it is damaged.
    """
    path = Path(directory) / "results.json"
    fix = "remove it and evaluate again, which draws no sample that is there"
    found = {"format": RESULTS_FORMAT, "suites": {}} | read_object(path, fix)
    if not isinstance(found["suites"], dict):
        raise RunError(f"{path} is damaged: its suites are no JSON object -> {fix}")
    return found


def write_result(directory: str | Path, result: SuiteResult, more: Mapping[str, Any] | None = None) -> None:
    """Puts one suite's figures, and what else is told of it, into `results.json` at once; the other suites' stay."""
    results = read_results(directory)
    results["suites"][result.name] = {**result.as_dict(), **(more or {})}
    write_atomically(Path(directory) / "results.json", encode_object(results))
