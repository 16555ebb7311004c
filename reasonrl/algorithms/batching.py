"""Splitting a batch: seeded disjoint parts (mini-batches) and token-budget micro-batches.

The mini-batch decides the mathematics, the micro-batch only the memory: losses are weighted sums, so any plan gives
the same gradient.
"""

from __future__ import annotations

import random
from collections.abc import Sequence


def shuffled_parts(n: int, parts: int, *seed: str | int) -> list[list[int]]:
    """Shuffle 0..n-1 by the seed and split it into `parts` disjoint parts of equal size.

    Raises:
        ValueError: n is not a multiple of `parts`.
    """
    if parts < 1 or n % parts:
        raise ValueError(f"shuffled_parts: {n} samples cannot be split into {parts} equal parts")
    order = list(range(n))
    random.Random("/".join(map(str, seed))).shuffle(order)
    size = n // parts
    return [order[part * size : (part + 1) * size] for part in range(parts)]


def plan_microbatches(indices: Sequence[int], lengths: Sequence[int], tokens_per_microbatch: int) -> list[list[int]]:
    """Group samples so that rows x longest row (the padded size) stays within a token budget; longest first, so
    memory peaks at once.

    Args:
        indices: the samples to group.
        lengths: tokens of every sample (prompt and response), indexed by sample.
        tokens_per_microbatch: budget in padded tokens; a single sample longer than that gets a micro-batch of its own.

    Returns:
        Groups of samples; every index stands in exactly one of them.
    """
    if tokens_per_microbatch < 1:
        raise ValueError(f"tokens_per_microbatch = {tokens_per_microbatch}, but a micro-batch needs at least 1 token")
    plan: list[list[int]] = []
    longest = 0
    for index in sorted(indices, key=lambda i: (-lengths[i], i)):
        if plan and longest * (len(plan[-1]) + 1) <= tokens_per_microbatch:
            plan[-1].append(index)
        else:
            plan.append([index])
            longest = lengths[index]
    return plan


def plan_packed_rows(indices: Sequence[int], lengths: Sequence[int], tokens_per_row: int) -> list[list[int]]:
    """Group samples so that their tokens, set end to end in one row, stay within a budget: first-fit decreasing (each
    sample, longest first, goes to the first row with room for it). At most 11/9 of the fewest rows there could be, plus
    6/9 of a row (Dósa 2007).

    Args:
        indices: the samples to group.
        lengths: tokens of every sample (prompt and response), indexed by sample.
        tokens_per_row: budget in real tokens; a single sample longer than that gets a row of its own.

    Returns:
        Groups of samples, longest first within each; every index stands in exactly one of them.
    """
    if tokens_per_row < 1:
        raise ValueError(f"tokens_per_microbatch = {tokens_per_row}, but a micro-batch needs at least 1 token")
    plan: list[list[int]] = []
    room: list[int] = []
    for index in sorted(indices, key=lambda i: (-lengths[i], i)):
        row = next((number for number, left in enumerate(room) if left >= lengths[index]), None)
        if row is None:
            plan.append([index])
            room.append(tokens_per_row - lengths[index])
        else:
            plan[row].append(index)
            room[row] -= lengths[index]
    return plan


def pad_plans(plan: list[list[int]], count: int) -> list[list[int]]:
    """Append empty micro-batches up to `count`, so that every rank runs the same number; an empty one is run on a
    dummy row of weight zero.
    """
    if len(plan) > count:
        raise ValueError(f"pad_plans: {len(plan)} micro-batches cannot be padded to {count}")
    return plan + [[] for _ in range(count - len(plan))]
