"""Conditions over named numbers, such as `0 < pass_rate < 1`: checked when they are read, evaluated by simpleeval,
never by Python's `eval`.
"""

from __future__ import annotations

import ast
import difflib
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from simpleeval import InvalidExpression, SimpleEval

from reasonrl.errors import ReasonRLError

FUNCTIONS: dict[str, Any] = {"min": min, "max": max, "abs": abs, "round": round}
_OPERATORS: dict[type[ast.AST], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_STRUCTURE = (
    ast.Expression,
    ast.BoolOp,
    ast.And,
    ast.Or,
    ast.Compare,
    ast.BinOp,
    ast.UnaryOp,
    ast.Name,
    ast.Load,
    ast.Constant,
    ast.Call,
)
ALLOWED = f"names, numbers, comparisons, + - * / // %, and, or, not, and the functions {', '.join(sorted(FUNCTIONS))}"


class ExpressionError(ReasonRLError, ValueError):
    """A condition that cannot be read or evaluated."""

    exit_status = 2


@dataclass(frozen=True)
class Expression:
    """A condition over named numbers.

    Attributes:
        text: the condition, such as `0 < pass_rate < 1 and mean_tokens <= 20_000`.
        names: the names it may use; None allows any (they are then checked when it is evaluated).

    Raises:
        ExpressionError: the text is not a condition, calls or reaches for something it must not, or uses an unknown
        name.
    """

    text: str
    names: frozenset[str] | None = None
    variables: frozenset[str] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "variables", _check(self.text, None if self.names is None else frozenset(self.names)))

    def evaluate(self, values: Mapping[str, Any]) -> bool:
        """Whether the condition holds for `values`.

        Raises:
            ExpressionError: a value is missing or is no number, or the arithmetic fails (division by zero).
        """
        known = {}
        for name in sorted(self.variables):
            if name not in values:
                raise ExpressionError(_unknown(self.text, name, values))
            value = values[name]
            item = getattr(value, "item", None)
            known[name] = item() if callable(item) else value
            if not isinstance(known[name], (bool, int, float)):
                raise ExpressionError(
                    f"{self.text!r}: {name} is {value!r}, which is no number -> keep works on numeric columns"
                )
        try:
            return bool(SimpleEval(names=known, functions=FUNCTIONS, operators=_OPERATORS).eval(self.text.strip()))
        except (InvalidExpression, ArithmeticError, TypeError, ValueError) as error:
            raise ExpressionError(f"{self.text!r} cannot be evaluated for {known}: {error}") from error


def _check(text: str, names: frozenset[str] | None) -> frozenset[str]:
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        column = f" at column {error.offset}" if isinstance(error, SyntaxError) and error.offset else ""
        raise ExpressionError(
            f"{text!r} is not a condition: {getattr(error, 'msg', error)}{column} -> write it like '0 < pass_rate < 1'"
        ) from None
    functions: set[int] = set()
    variables: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
            if called not in FUNCTIONS or node.keywords:
                raise ExpressionError(f"{text!r} calls {called!r}, which is not allowed; allowed: {ALLOWED}")
            functions.add(id(node.func))
        elif isinstance(node, ast.Constant) and not isinstance(node.value, (bool, int, float)):
            raise ExpressionError(f"{text!r} uses {node.value!r}, which is no number; allowed: {ALLOWED}")
        elif not isinstance(node, (*_STRUCTURE, *_OPERATORS)):
            raise ExpressionError(f"{text!r} uses {type(node).__name__}, which is not allowed; allowed: {ALLOWED}")
        elif isinstance(node, ast.Name) and id(node) not in functions:
            variables.add(node.id)
    body = tree.body
    if isinstance(body, (ast.BinOp, ast.Constant)) or (
        isinstance(body, ast.UnaryOp) and not isinstance(body.op, ast.Not)
    ):
        raise ExpressionError(
            f"{text!r} is a number, not a condition -> compare it with something, such as '{text.strip()} > 0'"
        )
    if not variables:
        raise ExpressionError(
            f"{text!r} uses no name, so it is the same for every row -> write it like '0 < pass_rate < 1'"
        )
    if names is not None:
        for name in sorted(variables - names):
            raise ExpressionError(_unknown(text, name, names))
    return frozenset(variables)


def _unknown(text: str, name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    match = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {match[0]!r}? " if match else ""
    return f"{text!r} uses the unknown name {name!r}; {hint}known: {', '.join(names) or 'none'}"
