"""Big-integer arithmetic: numbers of twelve to fourteen digits, added, subtracted, multiplied, or one a power of the
other modulo a third (arXiv 2601.05593, appendix C). The wording and the moduli are ours, the paper gives none.

    What is 1204817263549 * 8815309211007?        Compute 730164208835^204417733106 mod 7351.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from reasonrl.data_tools.worlds.arithmetic import check_asked, split_of
from reasonrl.errors import DataError

KINDS: dict[str, tuple[str, ...]] = {
    "add": ("What is {a} + {b}?", "Compute the sum of {a} and {b}.", "Add {b} to {a}. What do you get?"),
    "subtract": (
        "What is {a} - {b}?",
        "Compute the difference {a} - {b}.",
        "Subtract {b} from {a}. What do you get?",
    ),
    "multiply": (
        "What is {a} * {b}?",
        "Compute the product of {a} and {b}.",
        "Multiply {a} by {b}. What do you get?",
    ),
    "power": (
        "Find the remainder when {a}^{b} is divided by {m}.",
        "Compute {a}^{b} mod {m}.",
        "What does {a} to the power of {b} leave when it is divided by {m}?",
    ),
}
"""Templates by kind."""


class BigIntegerWorld:
    """Problems with one whole number for an answer."""

    def rows(
        self,
        n: int,
        *,
        split: str = "train",
        seed: int = 0,
        kinds: Sequence[str] = tuple(KINDS),
        low: int = 10**11,
        high: int = 10**13,
        modulus: Sequence[int] = (10**3, 10**6),
    ) -> list[dict[str, Any]]:
        """Write `n` distinct problems.

        Args:
            n: number of rows.
            split: `train`, `validation` or `test`; the three share no problem.
            seed: of the problems.
            kinds: of `KINDS`, each as likely.
            low, high: both numbers are uniform between them, ends included.
            modulus: likewise, of `power`.

        Returns:
            Rows with `id`, `problem`, `answer`, `solution` (the answer alone, boxed), `kind`
            and `category` (`math`).

        Raises:
            DataError: an argument is out of range, or there are fewer problems than asked for.
        """
        _check(n, split, kinds, low, high, modulus)
        draw = random.Random(f"big_integers/{split}/{seed}")
        rows: dict[str, dict[str, Any]] = {}
        for _ in range(1000 * (n + 10)):
            kind = draw.choice(list(kinds))
            a, b, m = draw.randint(low, high), draw.randint(low, high), draw.randint(*modulus)
            problem = draw.choice(KINDS[kind]).format(a=a, b=b, m=m)
            if split_of(problem) != split or problem in rows:
                continue
            answer = {"add": a + b, "subtract": a - b, "multiply": a * b}[kind] if kind != "power" else pow(a, b, m)
            rows[problem] = {
                "id": f"big_integers/{split}/{problem}",
                "problem": problem,
                "answer": str(answer),
                "solution": f"\\boxed{{{answer}}}",
                "kind": kind,
                "category": "math",
            }
            if len(rows) == n:
                return list(rows.values())
        raise DataError(f"big_integers: the {split} split holds fewer than {n} problems -> widen low and high")


def _check(n: Any, split: str, kinds: Any, low: Any, high: Any, modulus: Any) -> None:
    check_asked("big_integers", n, split)
    if isinstance(kinds, str) or not kinds or any(kind not in KINDS for kind in kinds):
        raise DataError(f"big_integers: kinds = {kinds!r}, allowed is a list of {', '.join(KINDS)}")
    ends = [("low and high", low, high), ("modulus", *(modulus if len(modulus) == 2 else (0, 0)))]
    for name, least, most in ends:
        if type(least) is not int or type(most) is not int or not 2 <= least <= most:
            raise DataError(f"big_integers: {name} = {least!r}, {most!r} -> two whole numbers from 2 up, in order")
