"""Which tokens of a wrong answer are weighted by beta: those of its right steps, and what that is compared with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, get_args

import numpy

Mined = Literal["labels", "random_steps", "leading_steps", "uniform", "first_error", "oracle", "none"]
MINED: tuple[Mined, ...] = get_args(Mined)

Tokens = numpy.ndarray


def mined_tokens(mined: Mined, steps: Tokens, labels: Sequence[int | None], *, seed: str) -> Tokens:
    """The tokens of one wrong answer that get the weight beta.

    `labels`, `oracle`, `uniform`: all of the steps labelled right. `first_error`: of the right steps before the first
    wrong one. `random_steps`: steps in random order, until they hold as many tokens as the right steps do, the last one
    in part. `leading_steps`: as many from the start. `none`: no token.

    Args:
        mined: see above.
        steps: (T,) index of every token's step, -1 for tokens of none.
        labels: of every step: 1, 0, or None where it has none.
        seed: of the random order.

    Returns:
        (T,) of bool.
    """
    if mined == "none":
        return numpy.zeros(len(steps), dtype=bool)
    right = [label == 1 for label in labels]
    if mined == "first_error" and 0 in labels:
        first = list(labels).index(0)
        right = [label and place < first for place, label in enumerate(right)]
    of_right = _tokens_of(steps, [place for place, label in enumerate(right) if label])
    if mined in ("random_steps", "leading_steps"):
        order = list(range(len(labels)))
        if mined == "random_steps":
            random.Random(seed).shuffle(order)
        return _filled(steps, order, int(of_right.sum()))
    return of_right


def step_labels_of_tokens(steps: Tokens, labels: Sequence[int | None]) -> Tokens:
    """(T,) int8: the label of every token's step, -1 where there is none."""
    values = numpy.array([*(-1 if label is None else int(label) for label in labels), -1], dtype=numpy.int8)
    found: Tokens = values[steps]  # -1 takes the last one
    return found


def _tokens_of(steps: Tokens, chosen: Sequence[int]) -> Tokens:
    return numpy.isin(steps, numpy.asarray(chosen, dtype=steps.dtype))


def _filled(steps: Tokens, order: Sequence[int], mass: int) -> Tokens:
    """The first `mass` tokens of steps in this order."""
    found = numpy.zeros(len(steps), dtype=bool)
    for step in order:
        places = numpy.flatnonzero(steps == step)[:mass]
        found[places] = True
        mass -= len(places)
        if not mass:
            break
    return found
