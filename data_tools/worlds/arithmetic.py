"""Chains of arithmetic with a written solution: the world of the quickstart.

A problem is a chain such as `7+5*3-8`, worked strictly from left to right with every value taken modulo `modulus`.
Its written solution has one step a line and a boxed answer:

    7+5=2
    2*3=6
    6-8=8
    \\boxed{8}

The writer of solutions (the *teacher* of a cold start) can be imperfect in a way that imitation cannot mend and a
verifiable reward can: a seeded share of the facts (`hard_facts`) is misremembered as one fixed wrong value with
probability `slip`. With probability `self_correction` the teacher notices a slip and redoes the step on a line that
starts with `!`. Problems and answers are always exact; only solutions carry slips.

Train, validation and test are disjoint by construction: the split of a problem is a hash of its text.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any

from reasonrl.errors import DataError

OPERATORS = "+-*"
REDO = "!"
#: Sixteenths of the problem space that belong to each split.
SPLITS = {"test": range(0, 2), "validation": range(2, 3), "train": range(3, 16)}


def split_of(problem: str) -> str:
    """The split a problem belongs to, by a hash of its text."""
    bucket = hashlib.sha256(problem.encode()).digest()[0] % 16
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def check_asked(world: str, n: Any, split: str) -> None:
    """Raises DataError unless a world is asked for at least one row of a split that there is."""
    if split not in SPLITS:
        raise DataError(f"{world}: split {split!r} is unknown -> one of {', '.join(SPLITS)}")
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise DataError(f"{world}: n = {n!r}, but at least 1 row must be asked for")


def apply(operator: str, left: int, right: int, modulus: int) -> int:
    """One step of the chain, modulo `modulus`."""
    value = {"+": left + right, "-": left - right, "*": left * right}[operator]
    return value % modulus


Fact = tuple[str, int, int]
"""Operator, left and right."""


def mistaken_facts(facts: Sequence[Fact], share: float, modulus: int, draw: random.Random) -> dict[Fact, int]:
    """The facts of a seeded share, each with the one wrong value that it is mistaken for."""
    ordered = list(facts)
    draw.shuffle(ordered)
    chosen = ordered[: round(share * len(ordered))]
    return {fact: (apply(*fact, modulus) + draw.randrange(1, modulus)) % modulus for fact in chosen}


class ArithmeticWorld:
    """Chains of `operations` steps on single digits, with graded difficulty and an optionally imperfect teacher."""

    def rows(
        self,
        n: int,
        *,
        split: str = "train",
        seed: int = 0,
        operations: int | Sequence[int] = 3,
        modulus: int = 10,
        hard_facts: float = 0.0,
        slip: float = 0.5,
        self_correction: float = 0.0,
        teacher_seed: int = 0,
    ) -> list[dict[str, Any]]:
        """Write `n` problems.

        Args:
            n: number of rows; problems may repeat in `train`, never in `validation` and `test`.
            split: `train`, `validation` or `test`; the three share no problem.
            seed: seed of the problems and of where the teacher slips.
            operations: steps of a chain, or a sequence of them to draw from; this is the difficulty of a row.
            modulus: every value is taken modulo this number, 2 to 10.
            hard_facts: share of the facts (operator, left, right) that the teacher misremembers, 0 to 1.
            slip: probability that a hard fact is written with its wrong value.
            self_correction: probability that a slip is noticed and redone on the next line.
            teacher_seed: seed of which facts are hard and what they are mistaken for.

        Returns:
            Rows with `id`, `problem`, `answer` (text), `solution`, `difficulty` (steps) and `slips` (uncorrected ones
            in the solution).

        Raises:
            DataError: an argument is out of range, or the split has fewer distinct problems than asked for.
        """
        lengths = _lengths(operations)
        _check(n, split, modulus, {"hard_facts": hard_facts, "slip": slip, "self_correction": self_correction})
        teacher = _Teacher(modulus, hard_facts, slip, self_correction, teacher_seed)
        draw = random.Random(f"arithmetic/{split}/{seed}")
        rows: list[dict[str, Any]] = []
        seen: set[str] = set()
        misses = 0
        while len(rows) < n:
            chain = _draw_chain(draw, draw.choice(lengths), modulus)
            problem = _text(chain)
            if split_of(problem) != split or (split != "train" and problem in seen):
                misses += 1
                if misses > 1000 * (n + 1):
                    raise DataError(
                        f"arithmetic: the {split} split holds fewer than {n} distinct problems of {lengths} operations"
                        " -> ask for fewer rows or for longer chains"
                    )
                continue
            seen.add(problem)
            solution, slips = teacher.solve(chain, random.Random(f"teacher/{seed}/{split}/{len(rows)}"))
            rows.append(
                {
                    "id": f"arithmetic/{split}/{problem}/{len(rows)}"
                    if split == "train"
                    else f"arithmetic/{split}/{problem}",
                    "problem": problem,
                    "answer": str(_value(chain, modulus)),
                    "solution": solution,
                    "difficulty": len(chain) - 1,
                    "slips": slips,
                }
            )
        return rows


Chain = list[tuple[str, int]]


def _lengths(operations: Any) -> list[int]:
    several = isinstance(operations, Sequence) and not isinstance(operations, str)
    lengths = list(operations) if several else [operations]
    if not lengths or any(isinstance(length, bool) or not isinstance(length, int) or length < 1 for length in lengths):
        raise DataError(
            f"arithmetic: operations = {operations!r}, allowed are the steps of a chain, a whole number from 1 on, or a"
            " list of such to draw from"
        )
    return lengths


def _check(n: int, split: str, modulus: int, shares: dict[str, float]) -> None:
    check_asked("arithmetic", n, split)
    if not isinstance(modulus, int) or not 2 <= modulus <= 10:
        raise DataError(f"arithmetic: modulus = {modulus!r}, allowed are 2 to 10 (values are single digits)")
    for name, share in shares.items():
        if not 0.0 <= share <= 1.0:
            raise DataError(f"arithmetic: {name} = {share}, allowed are 0 to 1")


def _draw_chain(draw: random.Random, length: int, modulus: int) -> Chain:
    first = ("", draw.randrange(modulus))
    return [first] + [(draw.choice(OPERATORS), draw.randrange(1, modulus)) for _ in range(length)]


def _text(chain: Chain) -> str:
    return "".join(f"{operator}{operand}" for operator, operand in chain)


def _value(chain: Chain, modulus: int) -> int:
    value = chain[0][1]
    for operator, operand in chain[1:]:
        value = apply(operator, value, operand, modulus)
    return value


class _Teacher:
    """Writes solutions, with its own fixed misconceptions."""

    def __init__(self, modulus: int, hard_facts: float, slip: float, self_correction: float, seed: int) -> None:
        self.modulus, self.slip, self.self_correction = modulus, slip, self_correction
        draw = random.Random(f"facts/{modulus}/{seed}")
        facts = [(o, left, right) for o in OPERATORS for left in range(modulus) for right in range(1, modulus)]
        self.mistaken = mistaken_facts(facts, hard_facts, modulus, draw)

    def solve(self, chain: Chain, draw: random.Random) -> tuple[str, int]:
        """The written solution of a chain and the number of slips left uncorrected in it."""
        value, slips, lines = chain[0][1], 0, []
        for operator, operand in chain[1:]:
            right = apply(operator, value, operand, self.modulus)
            written = right
            fact = (operator, value, operand)
            if fact in self.mistaken and draw.random() < self.slip:
                written = self.mistaken[fact]
            lines.append(f"{value}{operator}{operand}={written}")
            if written != right and draw.random() < self.self_correction:
                lines.append(f"{REDO}{value}{operator}{operand}={right}")
                written = right
            slips += written != right
            value = written
        lines.append(f"\\boxed{{{value}}}")
        return "\n".join(lines), slips
