"""The named policies: what counts as the same answer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Policy:
    """What counts as the same answer.

    Attributes:
        name: the policy's name.
        prose_answers: where nothing is stated, the last number or letter of the prose is the answer.
        optional_percent: a percent sign on one side alone may be overlooked (`10%` and `10`). `10%` and `0.1` are
            always the same value.
        optional_unit: a unit on one side alone is overlooked; two units that are none of physics or money may differ.
        convertible_units: `5 cm` is `50 mm`.
        rounding: least significant digits of a decimal answer that stands for an exact gold it rounds; None: no decimal
            does.
        gold_rounding: least significant digits of a decimal gold that stands for the exact answer it rounds (one less
            in a percentage or with a unit); None: none does.
        tolerance: relative difference that two decimals may have; 0: none.
        unordered_lists: lists without brackets are sets. Tuples are always ordered, sets in braces never.
        loose_brackets: a list without brackets is a tuple with the same items in the same order, either way round;
            without it only the answer may have added them.
        ratio_as_value: `3:1` is 3.
        solved_equations: an equation is the expression for one of its letters (`y + 1 = x^2` and `x^2 - 1`).
        key_words: a word or a number that a longer gold of prose is about is that gold.
        unevaluated: a sum or product of plain numbers left standing is its value.
    """

    name: str
    prose_answers: bool
    optional_percent: bool
    optional_unit: bool
    convertible_units: bool
    rounding: int | None
    gold_rounding: int | None
    tolerance: float
    unordered_lists: bool
    loose_brackets: bool
    ratio_as_value: bool
    solved_equations: bool
    key_words: bool
    unevaluated: bool


POLICIES: dict[str, Policy] = {
    "strict": Policy(
        name="strict",
        prose_answers=False,
        optional_percent=False,
        optional_unit=False,
        convertible_units=False,
        rounding=None,
        gold_rounding=None,
        tolerance=0.0,
        unordered_lists=False,
        loose_brackets=False,
        ratio_as_value=False,
        solved_equations=False,
        key_words=False,
        unevaluated=False,
    ),
    "default": Policy(
        name="default",
        prose_answers=True,
        optional_percent=True,
        optional_unit=True,
        convertible_units=False,
        rounding=3,
        gold_rounding=4,
        tolerance=0.0,
        unordered_lists=True,
        loose_brackets=False,
        ratio_as_value=True,
        solved_equations=True,
        key_words=True,
        unevaluated=False,
    ),
    "lenient": Policy(
        name="lenient",
        prose_answers=True,
        optional_percent=True,
        optional_unit=True,
        convertible_units=True,
        rounding=2,
        gold_rounding=2,
        tolerance=0.01,
        unordered_lists=True,
        loose_brackets=True,
        ratio_as_value=True,
        solved_equations=True,
        key_words=True,
        unevaluated=True,
    ),
}
"""The named policies of `verify`."""
