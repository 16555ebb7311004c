"""The named policies: what counts as the same answer."""

from __future__ import annotations

from dataclasses import dataclass, replace


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


_STRICT = Policy(
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
)
_DEFAULT = replace(
    _STRICT,
    name="default",
    prose_answers=True,
    optional_percent=True,
    optional_unit=True,
    rounding=3,
    gold_rounding=4,
    unordered_lists=True,
    ratio_as_value=True,
    solved_equations=True,
    key_words=True,
)
_LENIENT = replace(
    _DEFAULT,
    name="lenient",
    convertible_units=True,
    rounding=2,
    gold_rounding=2,
    tolerance=0.01,
    loose_brackets=True,
    unevaluated=True,
)
POLICIES: dict[str, Policy] = {policy.name: policy for policy in (_STRICT, _DEFAULT, _LENIENT)}
"""The named policies of `verify`."""


@dataclass(frozen=True)
class Rule:
    """A rule of comparison with one example pair, and what each policy says of it.

    Attributes:
        topic: what the rule is about.
        says: the rule.
        gold: the example's gold.
        answer: the example's answer.
        strict, default, lenient: whether that policy takes the answer for the gold.
    """

    topic: str
    says: str
    gold: str
    answer: str
    strict: bool
    default: bool
    lenient: bool


def _rules(topic: str, *rows: tuple[str, str, str, str]) -> tuple[Rule, ...]:
    """Rules of one topic; the last column names the policies that say yes by their first letters."""
    return tuple(
        Rule(topic, says, gold, answer, "s" in yes, "d" in yes, "l" in yes) for says, gold, answer, yes in rows
    )


RULES: tuple[Rule, ...] = (
    *_rules(
        "spelling",
        ("one value, any spelling", r"\frac{1}{2}", "0.5", "sdl"),
        ("unreduced and mixed numbers, thousands marks, powers of ten", r"2\frac{1}{2}", "10/4", "sdl"),
        ("repeating decimals", r"0.1\overline{6}", "1/6", "sdl"),
        ("unicode signs", r"(-\infty,-3)\cup(3,\infty)", "(-∞, -3) ∪ (3, +∞)", "sdl"),
        ("ordinals and numbers in words", "12", r"12^{\text{th}}", "sdl"),
        ("an identity, where both sides are defined", r"\sin^2 x", r"1-\cos^2 x", "sdl"),
        ("other letters are another answer", "x^2+1", "y^2+1", ""),
        ("a capital letter is another letter", "2k", "2K", ""),
        ("but for the constant C", r"x^2+C", "x^2+c", "sdl"),
        ("a letter behind a number is a variable, no unit", "10 h", "10", ""),
        ("a sum or product of plain numbers must be worked out", "11", "3+8", "l"),
        ("so must a sum of powers, a remainder and a maximum", "9901", "99^2+99+1", "l"),
        ("a power, a root or a binomial by itself need not", "1024", "2^{10}", "sdl"),
    ),
    *_rules(
        "percent",
        ("a percentage is a value", r"10\%", "0.1", "sdl"),
        ("the sign may be dropped or added on one side", r"10\%", "10", "dl"),
        ("but not so that the value moves by a hundred", "20", "0.2", ""),
    ),
    *_rules(
        "units",
        ("a unit may be dropped or added on one side", r"5\text{ cm}", "5", "dl"),
        ("two units of physics or money must agree", r"5\text{ cm}", r"5\text{ m}", ""),
        ("a sign of money is a unit", r"\$36", r"36\text{ cents}", ""),
        ("a word that changes the number is no unit", "5", r"5\text{ dozen}", ""),
        ("units are converted", r"5\text{ cm}", r"50\text{ mm}", "l"),
        ("counted things may have another name", r"24\text{ ways}", r"24\text{ arrangements}", "dl"),
        ("a degree sign may be dropped, or the angle be in radians", r"135^\circ", r"\frac{3\pi}{4}", "sdl"),
        ("a degree sign may be dropped", r"45^\circ", "45", "dl"),
        ("a number's base may be dropped, its digits count", "1011_2", "1011", "dl"),
        ("but not added to a decimal number", "10", "10_2", ""),
    ),
    *_rules(
        "rounding",
        ("a decimal of three significant digits that rounds an exact gold", r"\frac{1}{3}", "0.333", "dl"),
        ("a decimal of two", r"\frac{1}{3}", "0.33", "l"),
        ("a decimal that does not round it", r"\frac{2}{3}", "0.666", "l"),
        ("a whole gold is never rounded", "784", "784.3", ""),
        ("a decimal gold of four digits stands for the exact value it rounds", "30.52", r"\frac{1587}{52}", "dl"),
        ("in a percentage or with a unit three digits do", r"41.4\%", r"\sqrt{2}-1", "dl"),
        ("a decimal gold of three digits without either does not", "0.333", r"\frac{1}{3}", "l"),
        ("a decimal answer with fewer digits than a decimal gold, three at least", "2.653", "2.65", "dl"),
        ("two decimals a hundredth apart", "2.653", "2.66", "l"),
        ("either side of a gold `exact ≈ decimal`", r"\frac{40}{3} \approx 13.33", r"\frac{40}{3}", "sdl"),
    ),
    *_rules(
        "lists",
        ("the order of a list without brackets", "1, 2", "2, 1", "dl"),
        ("a list without brackets and a set", "1, 2", r"\{2, 1\}", "dl"),
        ("a missing or additional item", "2", r"\{1, 2\}", ""),
        ("a tuple is ordered", "(1, 2)", "(2, 1)", ""),
        ("a tuple is no set", "(1, 2)", r"\{1, 2\}", ""),
        ("brackets of a list that the gold wrote without", "1, 2", "(1, 2)", "dl"),
        ("brackets that the answer left out", "(1, 2)", "1, 2", "l"),
        ("named values", "(x, y) = (1, 2)", "y = 2, x = 1", "sdl"),
        ("names on one side", "3, 4", "a = 3, b = 4", "sdl"),
        ("plus-minus is two values", r"3 \pm \sqrt{2}", r"3-\sqrt{2}, 3+\sqrt{2}", "dl"),
        ("plus-minus within a set", r"\{1 \pm \sqrt{5}, -2\}", r"\{-2, 1-\sqrt{5}, 1+\sqrt{5}\}", "sdl"),
        ("a list is not the interval between its items", "1, 2", r"x \in [1, 2]", ""),
        ("one of two values", "5", "5 or 6", ""),
        ("a column and a tuple", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "(1, 2)", "sdl"),
    ),
    *_rules(
        "sets of reals",
        ("inequality and interval", "(3, 4]", r"3 < x \le 4", "sdl"),
        ("`or` and union", r"x \le -2 \text{ or } x = 1", r"(-\infty,-2] \cup \{1\}", "sdl"),
        ("a condition and an interval", r"\{x \mid -2 < x < 3\}", "(-2, 3)", "sdl"),
        ("all but a point", r"x \ne 2", r"(-\infty,2) \cup (2,\infty)", "sdl"),
        ("open and closed ends", "[2, 5)", "(2, 5)", ""),
        ("another letter in an inequality", "x > 3", "y > 3", ""),
    ),
    *_rules(
        "equations",
        ("the left side may be dropped or added", "x = 5", "5", "sdl"),
        ("unless it names something else", "x = 5", "y = 5", ""),
        ("also where it names the quantity by several letters or a function", "70", "m + n = 70", "sdl"),
        ("an equation to be solved is no value", "70", "2x = 70", ""),
        ("a function's argument may have another name", "f(n) = 2n", "f(x) = 2x", "sdl"),
        ("two equations that differ by a factor", "2x + 4y - 3 = 0", r"y = -\frac{1}{2}x + \frac{3}{4}", "sdl"),
        ("an equation and what one of its letters is", r"\rho\sin\theta = 3", r"3\csc\theta", "dl"),
        ("an equation is not its right side zero", "x + y = 0", "0", ""),
        ("a chain that claims two values", "5", "x = 4 = 5", ""),
        ("a parameter declared to be arbitrary may have another name", r"k\pi, k \in \mathbb{Z}", r"n\pi", "sdl"),
        ("one that is not may not", r"k\pi", r"n\pi", ""),
        ("conditions behind an answer may be dropped", r"\frac{x}{x+1}, x \ne -1", r"\frac{x}{x+1}", "dl"),
    ),
    *_rules(
        "ratios and times",
        ("ratios are equal when proportional", "2:3", "4:6", "sdl"),
        ("a ratio and its value", "3:1", "3", "dl"),
        ("a time is no ratio", "12:00", "1:00", ""),
    ),
    *_rules(
        "words",
        ("case, articles and punctuation do not count", r"\text{Monday}", "monday.", "sdl"),
        ("the key word of a sentence", "Any odd number of participants", "odd", "dl"),
        ("the numbers of a sentence, all and in order", "The rent is $240$ yuan", "240", "dl"),
        ("another word", r"\text{east}", r"\text{west}", ""),
        ("words that say nothing", "42", r"\text{the number that solves the problem}", ""),
    ),
)
"""The rules with their examples: the tests run them and the documents show them."""


def rules_table() -> str:
    """The rules as a Markdown table."""
    lines = ["| | rule | gold | answer | strict | default | lenient |", "|---|---|---|---|---|---|---|"]
    topic = ""
    for rule in RULES:
        shown = rule.topic if rule.topic != topic else ""
        topic = rule.topic
        gold, answer = (text.replace("|", "\\|") for text in (rule.gold, rule.answer))
        says = ["yes" if said else "no" for said in (rule.strict, rule.default, rule.lenient)]
        lines.append(f"| {shown} | {rule.says} | `{gold}` | `{answer}` | {' | '.join(says)} |")
    return "\n".join(lines)
