"""Invariants of verdicts on generated mathematics: an answer is itself, another spelling of it is it, a changed digit,
sign or bracket is not; sympy is the oracle for expressions. The slow version draws 10,000 of each.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from fractions import Fraction

import pytest
import sympy
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reasonrl.rewards.math import verify
from reasonrl.rewards.mathlang.answers import read
from reasonrl.rewards.mathlang.equality import same_value, value_of
from reasonrl.rewards.mathlang.lexer import Unreadable
from reasonrl.rewards.mathlang.residue import Residues
from reasonrl.rewards.verdict import STATUSES

FAST, MANY = 300, 10_000
whole = st.integers(1, 999)
small = st.integers(2, 9)
letters = st.sampled_from("xyzabtn")
squarefree = st.sampled_from([2, 3, 5, 6, 7, 10, 11, 13, 14, 15])


def text(shape: str, *parts: st.SearchStrategy[object]) -> st.SearchStrategy[str]:
    """Texts of one shape; each `@` of it is filled from a strategy."""

    def fill(values: tuple[object, ...]) -> str:
        pieces = shape.split("@")
        return pieces[0] + "".join(f"{value}{piece}" for value, piece in zip(values, pieces[1:], strict=True))

    return st.tuples(*parts).map(fill)


fractions = st.tuples(whole, whole).map(lambda pair: Fraction(pair[0], pair[0] + pair[1]))
latex_fractions = fractions.map(lambda value: rf"\frac{{{value.numerator}}}{{{value.denominator}}}")
numbers = st.one_of(
    whole.map(str),
    text("-@", whole),
    text("@.@", whole, whole),
    latex_fractions,
    text(r"@@", small, latex_fractions),
    text(r"@\sqrt{@}", small, squarefree),
    text(r"\frac{@ - \sqrt{@}}{@}", whole, squarefree, small),
    text(r"@ + @i", whole, whole),
    text(r"@\pi", small),
    text("@^{@}", small, small),
    text(r"\log_{@} 1@", small, whole),
)
polynomials = st.one_of(
    text("@@^2 + @@ - @", small, letters.map(lambda _: "x"), small, st.just("x"), whole),
    text("@x^{@} - @y", small, small, small),
    text(r"\frac{@x + @}{x - @}", small, whole, whole),
    text(r"@\sin @x + @", small, small, whole),
    text(r"@e^{@x} - @", small, small, small),
    text(r"@\sqrt{x^2 + @}", small, whole),
    text(r"\ln(x + @) + @", whole, whole),
)
expressions = st.one_of(numbers, polynomials)
single_answers = st.one_of(
    expressions,
    text("(@, @)", numbers, numbers),
    text("(@, @, @)", whole, whole, whole),
    text(r"\left[@, @\right)", whole, latex_fractions),
    text(r"(@, \infty)", numbers),
    text(r"\{@, @, @\}", whole, whole, whole),
    text("@, @", whole, latex_fractions),
    text(r"(-\infty, -@) \cup (@, \infty)", whole, whole),
    text(r"\begin{pmatrix} @ & @ \\ @ & @ \end{pmatrix}", whole, whole, whole, whole),
    text("y = @", polynomials),
    text("x = @", numbers),
    text("f(x) = @", polynomials),
    text("@ < x < 1@", whole, whole),
    text(r"x \ge @", numbers),
    text(r"@^\circ", whole),
    text(r"@\%", whole),
    text(r"@\text{ cm}", whole),
    text(r"@ \pm \sqrt{@}", whole, squarefree),
    text("@:@", small, whole),
    text("1011_{@}", small),
    text(r"x^2 + @y^2 = @", small, whole),
)
families = text(r"@\pi + k\pi, k \in \mathbb{Z}", latex_fractions)
answers = st.one_of(single_answers, families)  # `\pi/2 + k\pi` and `3\pi/2 - k\pi` are the same numbers


def boxed(answer: str) -> str:
    return rf"so the answer is \boxed{{{answer}}}"


def run(check: Callable[[object], None], strategy: st.SearchStrategy[object], examples: int) -> None:
    settings(max_examples=examples, deadline=None, derandomize=True)(given(strategy)(lambda drawn: check(drawn)))()


def is_itself(answer: str) -> None:
    for policy in ("strict", "default", "lenient"):
        assert verify(answer, boxed(answer), policy=policy).correct, (answer, policy)
    read(answer)


def survives_dressing(answer: str) -> None:
    """Other commands, spaces, invisible brackets, dollars, a full stop: the same answer, also to `strict`."""
    dressed = answer.replace(r"\frac", r"\dfrac").replace(" ", r"\; ").replace("(", r"\left(").replace(")", r"\right)")
    dressed = dressed.replace(r"\left(-\infty", r"\left( -\infty").replace(r"\ge", r"\geq")
    if "[" not in answer:  # `\left(…\right]` was paired already
        assert verify(answer, boxed(f"${dressed}$."), policy="strict").correct, (answer, dressed)
    spaced = re.sub(r"([,+=<])", r"  \1  ", answer)
    assert verify(answer, boxed(spaced), policy="strict").correct, (answer, spaced)


def changed(answer: str, seed: int) -> list[str]:
    """The answer with a digit, a sign, a bracket changed."""
    chance = random.Random(seed)
    mutants = []
    places = [match.start() for match in re.finditer(r"\d", answer)]
    if places:
        place = chance.choice(places)
        digit = chance.choice([digit for digit in "123456789" if digit != answer[place]])
        mutants.append(answer[:place] + digit + answer[place + 1 :])
    if signs := [match.start() for match in re.finditer(r" [+-] ", answer)]:
        place = chance.choice(signs) + 1
        mutants.append(answer[:place] + ("-" if answer[place] == "+" else "+") + answer[place + 1 :])
    if answer[0].isdigit() and "," not in answer and ":" not in answer and "<" not in answer:
        mutants.append("-" + answer)
    if answer.startswith(("(", r"\left[", r"\{")) and "," in answer:
        other = {"(": "[", "\\": "("}[answer[0]]
        mutants.append(other + re.sub(r"^(\(|\\left\[|\\\{)", "", answer))
    return mutants


def changes_count(drawn: tuple[str, int]) -> None:
    answer, seed = drawn
    for mutant in changed(answer, seed):
        verdict = verify(answer, boxed(mutant), policy="strict")
        assert not verdict.correct, (answer, mutant, verdict.reason)


SIGNS = re.split(
    r"\s+",
    r"""\frac \sqrt { } ( ) [ ] \{ \} | ^ _ + - * / = < ! \cup \in \pm , ; : % \circ \sum \int \begin{pmatrix}
    \end{pmatrix} \\ & x y i e \pi \infty 2 10 0.5 99 \text{or} where cm \sin \log \mathbb{R} \boxed{ \left \right $ no
    ½ √ ² ' . \ldots""",
)
SOUP = st.lists(st.sampled_from([*SIGNS, " "]), max_size=14).map("".join)


def never_raises(drawn: tuple[str, str]) -> None:
    gold, response = drawn
    for policy in ("strict", "default", "lenient"):
        first, second = (verify(gold, boxed(response), policy=policy) for _ in range(2))
        assert first.status in STATUSES
        assert (first.status, first.extracted, first.reason) == (second.status, second.extracted, second.reason)
        assert first.seconds < 2.5


CHECKS: list[tuple[Callable[..., None], st.SearchStrategy[object]]] = [
    (is_itself, answers),
    (survives_dressing, answers),
    (changes_count, st.tuples(single_answers, st.integers(0, 10**6))),
    (never_raises, st.tuples(SOUP, SOUP)),
]


@pytest.mark.parametrize(("check", "strategy"), CHECKS, ids=lambda part: getattr(part, "__name__", ""))
def test_property(check: Callable[..., None], strategy: st.SearchStrategy[object]) -> None:
    run(check, strategy, FAST)


@pytest.mark.slow
@pytest.mark.parametrize(("check", "strategy"), CHECKS, ids=lambda part: getattr(part, "__name__", ""))
def test_property_many(check: Callable[..., None], strategy: st.SearchStrategy[object]) -> None:
    run(check, strategy, MANY)


X, Y = sympy.symbols("x y", positive=True)


def factors_are_found(tree: sympy.Expr) -> bool:
    """Whether sympy's trial division, to 2**15, factors any product of two of its numbers: beyond that its factor cache
    may raise on a product of two near primes."""
    return all(max(abs(number.p), number.q) < 2**15 for number in tree.atoms(sympy.Rational))


trees = st.recursive(
    st.one_of(
        st.integers(-9, 9).map(sympy.Integer),
        st.sampled_from([X, Y]),
        st.fractions(-9, 9, max_denominator=7).map(sympy.Rational),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: pair[0] + pair[1]),
        st.tuples(inner, inner).map(lambda pair: pair[0] * pair[1]),
        st.tuples(inner, st.integers(2, 3)).map(lambda pair: pair[0] ** pair[1]),
        inner.map(lambda tree: sympy.sqrt(1 + tree**2)),
        inner.map(sympy.sin),
    ).filter(factors_are_found),
    max_leaves=6,
)


@given(trees, trees)
@settings(max_examples=120, deadline=None)
def test_expressions_against_sympy(left: sympy.Expr, right: sympy.Expr) -> None:
    """Expansion does not change a value, and a value added does; sympy does the algebra."""
    for one, other, equal in (
        (left * right, sympy.expand(left * right), True),
        (left + right, left + right + sympy.Rational(1, 7), False),
    ):
        assume(all(abs(part) < 10**9 for part in one.atoms(sympy.Rational)))  # larger angles have no value
        texts = [sympy.latex(tree) for tree in (one, other)]
        nodes = [read(text).node for text in texts]
        assert same_value(*nodes) is equal, texts


@given(trees)
@settings(max_examples=120, deadline=None)
def test_constants_against_sympy(tree: sympy.Expr) -> None:
    constant = tree.subs({X: sympy.Rational(3, 7), Y: sympy.sqrt(2)})
    assume(all(abs(part) < 10**9 for part in constant.atoms(sympy.Rational)))
    value = value_of(read(sympy.latex(constant)).node)
    assert value is not None
    exact = sympy.N(constant, 40)
    assert abs(sympy.Rational(value.numerator, value.denominator) - exact) < sympy.Float(10) ** -25 * (1 + abs(exact))


@given(st.integers(-50, 50), st.integers(1, 50), st.integers(0, 12), st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_residues_are_the_value_modulo_the_prime(top: int, bottom: int, power: int, added: int) -> None:
    from reasonrl.rewards.mathlang.residue import PRIME

    node = read(rf"\left(\frac{{{top}}}{{{bottom}}}\right)^{{{power}}} + {added}!").node
    residues = Residues()
    if top == 0 and power == 0:
        return
    value = Fraction(top, bottom) ** power + sympy.factorial(added).__int__()
    assert residues(node) == value.numerator * pow(value.denominator, -1, PRIME) % PRIME
    assert residues.pure


@pytest.mark.parametrize(
    "unreadable", ["the sum of 2 numbers", "(" * 200 + "1" + ")" * 200, "1 2", "x" * 5_000, r"\frac{1}{", "9" * 700]
)
def test_what_is_not_read(unreadable: str) -> None:
    with pytest.raises(Unreadable):
        read(unreadable)
