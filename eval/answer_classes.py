"""The class of an extracted answer, by which votes are counted."""

from __future__ import annotations

RIGHT = "right"
"""The class of every right answer: the grader has found them all equal to the gold."""

_LONGEST = 200


def answer_class(extracted: str | None, right: bool | None) -> str | None:
    """The class of an answer: equal for answers of one problem that say the same; None where there is no answer.

    Right answers are one class. A wrong one that is a number is named by its value (`1/2`, `0.5` and `\\frac{1}{2}` are
    one class), any other by its text without dressing and spaces. The class of a sample depends on that sample alone,
    so that it can be told as the sample comes, in whatever order.

    Args:
        extracted: the answer as it was read from the response.
        right: the verdict; None where it could not be scored.
    """
    if extracted is None or right is None:
        return None
    if right:
        return RIGHT
    value = _value(extracted)
    if value is not None:
        return f"= {value}"
    from reasonrl.rewards.compare import text_key

    key = text_key(extracted)[:_LONGEST]
    return f"~ {key}" if key else None


def _value(text: str) -> str | None:
    """A rational number's value, of a bare number or of the last side of `x = 4`; None for anything else."""
    from reasonrl.rewards.mathlang.answers import read
    from reasonrl.rewards.mathlang.exact import NotExact, exact
    from reasonrl.rewards.mathlang.lexer import Unreadable
    from reasonrl.rewards.mathlang.tree import Rel, Sym

    try:
        reading = read(text)
        node = reading.node
        if isinstance(node, Rel) and set(node.signs) == {"="} and isinstance(node.sides[0], Sym):
            node = node.sides[-1]
        # What hangs on the number (a remark, such as a condition) makes it another answer.
        value = None if reading.remark else exact(node)
    except (Unreadable, NotExact):
        return None
    # Python writes no number of more than some thousand digits; such a one is named by its text.
    short = value is not None and max(abs(value.numerator), value.denominator) < 10**_LONGEST
    return str(value) if short else None
