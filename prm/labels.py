"""Labels of steps: right (1), wrong (0) or unlabelled (None), by several rules, and how far two sets of them agree.

The rule that everything else is measured against is arXiv:2505.14391, Section 4.2: an error is *propagated* by steps
that build on it, until a step *ceases* it by repairing it or by a new route. The paper is silent on several errors at
once; here the open ones are a set, and a step is right only if it leaves none of them open.

    events = [Event(), Event(own_error=True), Event(), Event(repairs=frozenset({1})), Event()]
    propagate(events)               # [1, 0, 0, 1, 1]
    first_error_labels([1, 0, 0, 1, 1])  # [1, 0, None, None, None]
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reasonrl.errors import DataError
from reasonrl.prm.label_agreement import Agreement, agreement, agreement_by_position
from reasonrl.prm.label_checks import KINDS, validate

__all__ = [
    "KINDS",
    "RULES",
    "Agreement",
    "Event",
    "Label",
    "Labels",
    "agreement",
    "agreement_by_position",
    "consensus",
    "events_from",
    "first_error",
    "first_error_labels",
    "first_error_zero",
    "kinds_of",
    "last_only",
    "mc_labels",
    "open_errors",
    "propagate",
    "validate",
]

Label = int | None
Labels = Sequence[Label]


@dataclass(frozen=True)
class Event:
    """What one step does to the errors of the steps before it.

    Attributes:
        own_error: it makes an error of its own (calculation, derivation, logic, a form that cannot be read).
        repairs: indices of earlier steps whose errors it ends.
        new_route: it needs nothing that went before, which ends every open error.
    """

    own_error: bool = False
    repairs: frozenset[int] = frozenset()
    new_route: bool = False


def events_from(own_error: Sequence[bool], repairs: Sequence[bool | Iterable[int] | None]) -> list[Event]:
    """Events from two lists of equal length.

    Args:
        own_error: [K] whether the step makes an error of its own.
        repairs: [K] the earlier steps whose errors it ends; True for all of them, False or None for none.

    Raises:
        DataError: the lists differ in length, or a step is said to repair itself or a later one.
    """
    if len(own_error) != len(repairs):
        raise DataError(f"labels: own_error has {len(own_error)} steps and repairs {len(repairs)} -> equal lengths")
    events: list[Event] = []
    for k, (wrong, repaired) in enumerate(zip(own_error, repairs, strict=True)):
        if repaired is None or isinstance(repaired, bool):
            events.append(Event(bool(wrong), new_route=bool(repaired)))
        else:
            events.append(Event(bool(wrong), frozenset(repaired)))
            if any(not 0 <= index < k for index in events[-1].repairs):
                raise DataError(f"labels: step {k} repairs {sorted(events[-1].repairs)}, allowed are steps before it")
    return events


def open_errors(events: Iterable[Event]) -> list[frozenset[int]]:
    """[K] the steps whose errors stand open after each step."""
    standing: frozenset[int] = frozenset()
    history: list[frozenset[int]] = []
    for k, event in enumerate(events):
        standing = frozenset() if event.new_route else standing - event.repairs
        if event.own_error:
            standing |= {k}
        history.append(standing)
    return history


def propagate(events: Iterable[Event], final_correct: bool | None = None) -> list[int]:
    """Labels by error propagation and cessation (arXiv:2505.14391, Section 4.2).

    A step is right if no error stands open after it. So a step is wrong that repairs a later error while an earlier one
    stands, or that repairs one error and makes another.

    Args:
        events: what each step does.
        final_correct: verdict on the final answer, which the last step's label then is, whatever stands open; None
            leaves it to the events.

    Returns:
        [K] 1 (right) or 0 (wrong).
    """
    labels = [int(not standing) for standing in open_errors(events)]
    if labels and final_correct is not None:
        labels[-1] = int(final_correct)
    return labels


def kinds_of(events: Sequence[Event], final_correct: bool | None = None) -> list[str]:
    """[K] the kind of each step, one of `KINDS`; the last one's fits the label that `propagate` gives it."""
    history = open_errors(events)
    labels = propagate(events, final_correct)
    kinds: list[str] = []
    for k, (event, label) in enumerate(zip(events, labels, strict=True)):
        before = bool(k and history[k - 1])
        if label:
            kinds.append("cessation" if before else "right")
        else:
            kinds.append("propagation" if before and not event.own_error else "error")
    return kinds


def first_error_labels(labels: Labels) -> list[Label]:
    """First-error labels: 1 up to the first 0, 0 there, None after it (PRM800K and the paper's arm FE)."""
    first = _first_error(labels)
    return [*labels[: first + 1], *[None] * (len(labels) - first - 1)]


def first_error_zero(labels: Labels) -> list[Label]:
    """As `first_error_labels`, but every step after the first error counts as wrong."""
    first = _first_error(labels)
    return [*labels[: first + 1], *[0] * (len(labels) - first - 1)]


def last_only(labels: Labels) -> list[Label]:
    """Only the last step's label: what an outcome reward model is trained on."""
    return [*[None] * (len(labels) - 1), *labels[-1:]]


def first_error(labels: Labels) -> int:
    """0-based index of the first wrong step, -1 if there is none (the label of ProcessBench)."""
    return next((k for k, label in enumerate(labels) if label == 0), -1)


def _first_error(labels: Labels) -> int:
    found = first_error(labels)
    return len(labels) if found < 0 else found


def mc_labels(successes: Sequence[int], n: int, least: int = 1) -> tuple[list[int], list[float]]:
    """Monte-Carlo labels (Math-Shepherd): a step is as good as the completions that start from it.

    Args:
        successes: [K] completions from after each step that reached the right answer.
        n: completions drawn from each step.
        least: successes that make a step right.

    Returns:
        hard [K] labels, 1 where at least `least` succeeded, and soft [K] ones, the share that did.

    Raises:
        DataError: a count outside 0 to n, or n or least below 1.
    """
    if n < 1 or not 1 <= least <= n:
        raise DataError(f"mc_labels: n = {n} and least = {least}, allowed are n from 1 on and least from 1 to n")
    for k, count in enumerate(successes):
        if not 0 <= count <= n:
            raise DataError(f"mc_labels: {count} successes at step {k}, allowed are 0 to n = {n}")
    return [int(count >= least) for count in successes], [count / n for count in successes]


RULES = ("all", "any", "majority", "weighted")


def consensus(sources: Sequence[Labels], rule: str = "all", weights: Sequence[float] | None = None) -> list[Label]:
    """One label a step from several sources; None where they do not agree.

    Args:
        sources: label lists of equal length.
        rule: `all`: the label that every source gives; a step that one source leaves open stays open.
            `any`: right where one source says so, wrong where all say so.
            `majority`: the label that more than half of the sources give; one that gives none counts against it.
            `weighted`: the label that more than half of the weight gives.
        weights: of the sources, for `weighted`.

    Raises:
        DataError: no source, lists of different lengths, an unknown rule, or weights that do not go with it.
    """
    if rule not in RULES:
        raise DataError(f"consensus: rule = {rule!r}, allowed are {', '.join(RULES)}")
    lengths = [len(labels) for labels in sources]
    if not sources or len(set(lengths)) > 1:
        raise DataError(f"consensus: sources with {lengths} labels -> give at least one, all for the same steps")
    if (rule == "weighted") != (weights is not None) or (weights is not None and len(weights) != len(sources)):
        raise DataError(f"consensus: rule = {rule!r} with weights {weights} -> one a source, for `weighted` alone")
    shares = [1.0] * len(sources) if weights is None else list(weights)
    whole = sum(shares)
    agreed: list[Label] = []
    for votes in zip(*sources, strict=True):
        right, wrong = (sum(w for vote, w in zip(votes, shares, strict=True) if vote == label) for label in (1, 0))
        if rule in ("all", "any"):
            said = {1: right == whole or (rule == "any" and right > 0), 0: wrong == whole}
        else:
            said = {1: 2 * right > whole, 0: 2 * wrong > whole}
        agreed.append(1 if said[1] else 0 if said[0] else None)
    return agreed
