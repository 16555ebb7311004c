"""Keep-expressions: what they may hold, what they mean, and that nothing else is evaluated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonrl.expressions import Expression, ExpressionError

NAMES = frozenset({"pass_rate", "n", "mean_tokens"})
number = st.floats(-100, 100, allow_nan=False)


@pytest.mark.parametrize(
    "text",
    [
        "0 < pass_rate < 1",
        "pass_rate * n >= 2 and mean_tokens <= 20_000",
        "not (n == 0) or pass_rate != 0.5",
        "max(pass_rate, n) > abs(-mean_tokens) // 2 % 3",
        "  n > 1\n",
    ],
)
@given(pass_rate=number, n=number, mean_tokens=number)
def test_means_what_python_means(text, pass_rate, n, mean_tokens):
    values = {"pass_rate": pass_rate, "n": n, "mean_tokens": mean_tokens}
    expected = eval(text.strip(), {}, values)
    assert Expression(text, NAMES).evaluate(values) is bool(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a condition"),
        ("0 < < 1", "is not a condition"),
        ("n = 1", "is not a condition"),
        ("pas_rate > 0", "did you mean 'pass_rate'"),
        ("__import__('os').system('x') > 0", "calls"),
        ("open('x') > 0", "calls 'open'"),
        ("n.real > 0", "Attribute"),
        ("n[0] > 0", "Subscript"),
        ("[n for n in 'ab'] == 1", "ListComp"),
        ("(lambda: 1)() > 0", "calls"),
        ("n > 'a'", "'a', which is no number"),
        ("n ** 9 > 0", "Pow"),
        ("n << 9 > 0", "LShift"),
        ("n in (1, 2)", "allowed"),
        ("n + 1", "is a number, not a condition"),
        ("1 < 2", "uses no name"),
        ("max > 1", "unknown name 'max'"),
        ("round(n, ndigits=2) > 1", "calls"),
        ("(" * 500 + "n" + ")" * 500 + " > 0", "is not a condition"),
    ],
)
def test_refused_when_read(text, message):
    with pytest.raises(ExpressionError) as caught:
        Expression(text, NAMES)
    assert message in str(caught.value)


def test_any_name_until_the_columns_are_known():
    expression = Expression("difficulty > 3 and n < 4")
    assert expression.variables == {"difficulty", "n"}
    with pytest.raises(ExpressionError, match=r"unknown name 'n'.*known: difficulty"):
        expression.evaluate({"difficulty": 4})


@pytest.mark.parametrize(("value", "message"), [("3", "is '3', which is no number"), (None, "is None")])
def test_values_that_are_no_numbers(value, message):
    with pytest.raises(ExpressionError, match=message):
        Expression("n > 1").evaluate({"n": value})


def test_arithmetic_that_fails():
    with pytest.raises(ExpressionError, match="division by zero"):
        Expression("1 / n > 1").evaluate({"n": 0})


def test_numpy_numbers_count():
    numpy = pytest.importorskip("numpy")
    assert Expression("n > 1").evaluate({"n": numpy.int64(2)}) is True
