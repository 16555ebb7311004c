"""Names of an evaluation's figures, such as `maj@16` or `g_pass@16:0.5`, and what they need."""

from __future__ import annotations

import re
from dataclasses import dataclass

FAMILIES = {
    "avg": "mean share of right samples",
    "pass": "at least one of k samples is right, unbiased",
    "maj": "majority vote of k samples, ties averaged",
    "maj_first": "majority vote of k samples, the first of tied answers",
    "weighted_maj": "vote of k samples weighted by their score",
    "best": "the best scored of k samples",
    "g_pass": "at least that share of k samples is right",
    "mg_pass": "twice the mean of g_pass over shares from 1/2 to 1",
    "self_consistency": "majority vote of k samples, resampled from a pool of n",
}
"""What is written before @k."""

WHOLE = {
    "accuracy": "mean share of right samples",
    "greedy": "accuracy of the greedy sample",
    "acc_item": "share of right problems, of prompts that ask several",
    "answered": "share of answered problems, of prompts that ask several",
    "worst_case": "a group of variants is right if all are",
    "pairs": "a group of questions is right if all are",
    "we_math_strict": "We-Math's score; a composed problem is mastered if all its steps are right, too",
    "we_math_loose": "We-Math's score; a composed problem is mastered if one of its steps is right, too",
}
"""Figures without k."""

GROUPED = ("worst_case", "pairs", "we_math_strict", "we_math_loose")
RESAMPLINGS = 64
_FORM = re.compile(r"(?P<family>[a-z_]+?)(?P<sign>[@^])(?P<k>n|[1-9]\d*)(?::(?P<option>.+))?")


@dataclass(frozen=True)
class MetricName:
    """A parsed name.

    Attributes:
        text: as written.
        family: of `FAMILIES` (`pass^` for pass^k) or of `WHOLE`.
        k: samples it is about; None for all n, and without k.
        share: of right samples, of `g_pass`.
        column: the samples' field with the score, of `best` and `weighted_maj`.
        draws: resamplings, of `self_consistency`.
    """

    text: str
    family: str
    k: int | None = None
    share: float | None = None
    column: str = "score"
    draws: int = RESAMPLINGS

    @property
    def by_score(self) -> bool:
        """Whether it needs a score besides the verdict."""
        return self.family in ("best", "weighted_maj")


def parse_metric(text: str) -> MetricName:
    """The figure of this name.

    `accuracy`, `avg@8`, `pass@8`, `pass^8`, `maj@n`, `maj_first@8`, `weighted_maj@8`, `best@8`, `g_pass@16:0.5`,
    `mg_pass@16`, `self_consistency@16` (`:64` resamplings), `greedy`, `worst_case`, `pairs`, `we_math_strict`,
    `we_math_loose`.

    Raises:
        ValueError: there is no such figure, or its k or option does not fit it.
    """
    if text in WHOLE:
        return MetricName(text, text)
    found = _FORM.fullmatch(text)
    family = found["family"] if found else ""
    if not found or family not in FAMILIES or (found["sign"] == "^" and family != "pass"):
        raise ValueError(
            f"there is no metric {text!r}; there are {', '.join(WHOLE)}, pass^k and"
            f" {', '.join(f'{name}@k' for name in FAMILIES)}, k being a number or n"
        )
    k, option = None if found["k"] == "n" else int(found["k"]), found["option"]
    if family == "g_pass":
        return MetricName(text, family, k, share=_share(text, option))
    if family == "mg_pass" and k == 1:
        raise ValueError(f"{text!r}: k must be at least 2")
    if family in ("best", "weighted_maj"):
        return MetricName(text, family, k, column=option or "score")
    if family == "self_consistency":
        if option is not None and not (option.isdigit() and int(option) > 0):
            raise ValueError(f"{text!r}: behind the colon stands the number of resamplings, as in {family}@{k}:64")
        return MetricName(text, family, k, draws=int(option or RESAMPLINGS))
    if option is not None:
        raise ValueError(f"{text!r}: {family}@k takes nothing behind a colon -> write {text.partition(':')[0]}")
    return MetricName(text, "pass^" if found["sign"] == "^" else family, k)


def _share(text: str, option: str | None) -> float:
    try:
        share = float(option or "")
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ValueError(f"{text!r}: behind the colon stands a share in (0, 1], as in g_pass@16:0.5")
    return share


def metric_faults(names: tuple[str, ...], n: int | None, reward: object, greedy: bool | None) -> list[tuple[str, str]]:
    """What is wrong with a suite's `metrics`, with the fix; nothing if they can all be told from its samples.

    Args:
        names: the metrics.
        n: samples a problem; None if that is wrong itself.
        reward: the suite's; None likewise.
        greedy: whether a greedy sample is drawn; None likewise.
    """
    faults = []
    for name in names:
        try:
            metric = parse_metric(name)
        except ValueError as error:
            faults.append((str(error), "name one of them"))
            continue
        if metric.k is not None and n is not None and metric.k > n:
            faults.append((f"{name} needs {metric.k} samples a problem, and n = {n}", f"raise n to {metric.k}"))
        if metric.by_score and metric.column == "score" and reward == "math":
            faults.append(
                (f"{name} chooses by the score, and that of reward math is the verdict", "set another reward")
            )
        if metric.family == "greedy" and greedy is False:
            faults.append((f"{name} needs a greedy sample", "set greedy: true"))
    return faults
