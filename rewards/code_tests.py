"""Tests of a program as data sets write them, in one form."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAMES_OF_FUNCTION = ("fn_name", "func_name", "entry_point", "function_name")


class BadTests(ValueError):
    """Tests that cannot be used: the data's fault, not the program's."""


@dataclass(frozen=True)
class Task:
    """What a program must do.

    Attributes:
        style: `script` (standard input to standard output), `calls` (a function's values), `asserts` (test code).
        inputs: a text a test; for `calls` a list of arguments a test; for `asserts` the test code.
        expected: a text a test, or a value a test; nothing for `asserts`.
        function: the function of `calls`.
        setup: what the test code needs before it (`asserts`).
    """

    style: str
    inputs: tuple[Any, ...]
    expected: tuple[Any, ...] = ()
    function: str = ""
    setup: str = ""

    def first(self, count: int | None) -> Task:
        """The task with its first tests only."""
        return Task(self.style, self.inputs[:count], self.expected[:count], self.function, self.setup)


def read_tests(tests: Any, function: str | None = None, setup: str | None = None) -> Task:
    """The task that a cell of tests describes.

    Understood, each also as JSON text: `{"inputs": […], "outputs": […], "fn_name": …}` (APPS, TACO); a list of
    `{"input": …, "output": …}` with `testtype: functional` or `type: function_call` where a function is called
    (LiveCodeBench and others); a list of `assert` lines, `{"test_list": […], "test_setup_code": …}` (MBPP); test code
    with a function `check(candidate)` (HumanEval); other test code, each `assert` at its top a test.

    Args:
        tests: the cell.
        function: the function to call, where the cell does not name one.
        setup: code before asserts, where the cell has none.

    Raises:
        BadTests: it is none of these.
    """
    if isinstance(tests, str):
        parsed = _json(tests)
        if parsed is None or isinstance(parsed, (str, int, float)):
            return _of_code([tests], function, setup)
        tests = parsed
    if isinstance(tests, Mapping):
        return _of_mapping({key: value for key, value in tests.items() if value is not None}, function, setup)
    if not isinstance(tests, Sequence) or not tests:
        raise BadTests(f"there are no tests in {tests!r:.100}")
    if all(isinstance(one, str) for one in tests):
        return _of_code(list(tests), function, setup)
    if all(isinstance(one, Mapping) for one in tests):
        return _of_cases([{key: value for key, value in one.items() if value is not None} for one in tests], function)
    raise BadTests(f"a list of tests holds mappings or texts, not {tests[0]!r:.100}")


def _of_mapping(tests: dict[str, Any], function: str | None, setup: str | None) -> Task:
    if "inputs" in tests and "outputs" in tests:
        inputs, outputs = tests["inputs"], tests["outputs"]
        if not isinstance(inputs, Sequence) or not isinstance(outputs, Sequence) or len(inputs) != len(outputs):
            raise BadTests("inputs and outputs are not lists of the same length")
        name = _function_of(tests) or function
        return _of_cases([{"input": i, "output": o} for i, o in zip(inputs, outputs, strict=True)], name, bool(name))
    if "input" in tests and "output" in tests:
        return _of_cases([tests], function)
    asserts = tests.get("asserts", tests.get("test_list", tests.get("test", tests.get("tests"))))
    if asserts is None:
        raise BadTests(f"the keys {sorted(tests)} are no known layout of tests")
    before = "\n".join(filter(None, [*_texts(tests.get("test_imports")), tests.get("setup", ""), setup or ""]))
    before = "\n".join(filter(None, [before, tests.get("test_setup_code", "")]))
    return _of_code(_texts(asserts), _function_of(tests) or function, before)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        found = _json(value)
        return found if isinstance(found, list) else [value]
    return [str(one) for one in value or ()]


def _function_of(tests: Mapping[str, Any]) -> str | None:
    for name in NAMES_OF_FUNCTION:
        if isinstance(tests.get(name), str) and tests[name]:
            return str(tests[name])
    inner = tests.get("metadata")
    inner = _json(inner) if isinstance(inner, str) else inner
    return _function_of(inner) if isinstance(inner, Mapping) else None


def _of_cases(cases: list[dict[str, Any]], function: str | None, calls: bool | None = None) -> Task:
    if not cases:
        raise BadTests("there are no tests")
    for case in cases:
        if "input" not in case or "output" not in case:
            raise BadTests(f"a test has the keys {sorted(case)}; needed: input, output")
    kinds = {str(case.get("testtype", case.get("type", ""))) for case in cases}
    if calls is None:
        named = _function_of(cases[0])
        calls = bool(kinds & {"functional", "function_call"}) or named is not None
        function = named or function
    if not calls:
        return Task("script", tuple(_text(c["input"]) for c in cases), tuple(_text(c["output"]) for c in cases))
    if not function:
        raise BadTests("the tests call a function, and nothing names it -> a column fn_name or entry_point")
    inputs, outputs = zip(*(_call(case["input"], case["output"]) for case in cases), strict=True)
    return Task("calls", inputs, outputs, function)


def _call(given: Any, expected: Any) -> tuple[list[Any], tuple[Any, ...]]:
    """The arguments, and every value that counts as right."""
    if isinstance(given, str):  # one JSON value a line is one argument each
        lines = [line for line in given.split("\n") if line.strip()]
        try:
            args = [json.loads(line) for line in lines]
        except ValueError:
            args = [given]
        found = _json(expected) if isinstance(expected, str) else expected
        return args, (expected if found is None and expected != "null" else found,)
    if not isinstance(given, (list, tuple)):
        return [given], (expected,)
    # A list of one value may be that value wrapped: the layout leaves it open.
    wrapped = isinstance(expected, (list, tuple)) and len(expected) == 1
    return list(given), (expected, expected[0]) if wrapped else (expected,)


def _of_code(texts: list[str], function: str | None, setup: str | None) -> Task:
    before, tests = [setup or ""], []
    for text in texts:
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
            raise BadTests(f"the test {text[:80]!r} is no Python: {problem}") from None
        if any(isinstance(node, ast.FunctionDef) and node.name == "check" for node in tree.body):
            calls = [n for n in tree.body if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call)]
            if not function and not calls:
                raise BadTests("the tests define check(candidate), and nothing names the function -> entry_point")
            before.append(text if function is None or not calls else _without(text, calls))
            tests.append(f"check({function})" if function else "pass")
        else:
            asserts = [node for node in tree.body if isinstance(node, ast.Assert)]
            tests += [ast.unparse(node) for node in asserts]
            before.append(_without(text, asserts))
    if not tests:
        raise BadTests(f"there is no assert in the tests {texts[0][:80]!r}")
    return Task("asserts", tuple(tests), (), "", "\n".join(filter(None, before)))


def _without(text: str, nodes: Sequence[ast.stmt]) -> str:
    """Test code without some of its top-level statements."""
    left = [node for node in ast.parse(text).body if ast.dump(node) not in {ast.dump(one) for one in nodes}]
    return "\n".join(ast.unparse(node) for node in left)


def _text(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
