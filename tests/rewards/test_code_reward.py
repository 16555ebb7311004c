"""The `code` reward: layouts of tests, comparison, verdicts, and programs that try to pass without solving."""

from __future__ import annotations

import json
import pickle
import time
from typing import Any

import pytest

from reasonrl.errors import RewardError
from reasonrl.rewards import check_rows, get_reward
from reasonrl.rewards.code import CodeReward, program_of
from reasonrl.rewards.code_compare import same_output, same_value
from reasonrl.rewards.code_tests import BadTests, read_tests
from reasonrl.rewards.sandbox import isolation

DOUBLE = "print(int(input()) * 2)"
SCRIPT_TESTS = {"inputs": ["1\n", "2\n", "3\n", "4\n"], "outputs": ["2", "4", "6", "8"], "fn_name": None}
CALL_TESTS = json.dumps({"fn_name": "add", "inputs": [[1, 2], [3, 4]], "outputs": [[3], 7]})


def fenced(program: str, language: str = "python") -> str:
    return f"I think so.\n```{language}\n{program}\n```\nThat is it."


def verdict(program: str, tests: Any, **columns: Any) -> Any:
    args = {key: columns.pop(key) for key in ("score", "time_limit", "tolerance", "max_tests") if key in columns}
    reward = CodeReward(workers=1, **args)
    return reward.verdicts([fenced(program)], tests=[tests], **{key: [value] for key, value in columns.items()})[0]


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("print(1)", "print(1)"),
        ("```python\na\n```\nthen\n```py\nb\n```", "b\n"),
        ("```python\na\n```\nwhich prints\n```text\n5\n```", "a\n"),
        ("<think>```python\nno\n```</think>\n```\nyes\n```", "yes\n"),
        ("```python\ncut of", "cut of"),
        ("````python\n'''\n```\n'''\n````", "'''\n```\n'''\n"),
        ("```cpp\nint main;\n```", ""),
        ("~~~python\na\n~~~", "a\n"),
    ],
)
def test_the_program_in_a_response(text: str, program: str) -> None:
    assert program_of(text) == program


@pytest.mark.parametrize(
    ("tests", "function", "style", "inputs", "expected"),
    [
        (SCRIPT_TESTS, None, "script", ("1\n", "2\n", "3\n", "4\n"), ("2", "4", "6", "8")),
        ({"inputs": [["a", "b"]], "outputs": [["c", "d"]]}, None, "script", ("a\nb",), ("c\nd",)),
        ([{"input": "1", "output": "2", "testtype": "stdin"}], None, "script", ("1",), ("2",)),
        (CALL_TESTS, None, "calls", ([1, 2], [3, 4]), (([3], 3), (7,))),
        (
            [{"input": "[1, 2]\n3", "output": "true", "testtype": "functional"}],
            "f",
            "calls",
            ([[1, 2], 3],),
            ((True,),),
        ),
        ([{"input": [1], "output": 2, "fn_name": "f", "type": "function_call"}], None, "calls", ([1],), ((2,),)),
        (["assert f(1) == 2", "assert f(2) == 3"], None, "asserts", ("assert f(1) == 2", "assert f(2) == 3"), ()),
        ("x = 3\nassert f(x) == 4", None, "asserts", ("assert f(x) == 4",), ()),
        ("def check(candidate):\n    assert candidate(1)", "f", "asserts", ("check(f)",), ()),
        ({"test_list": ["assert f(1)"], "test_setup_code": "import math"}, None, "asserts", ("assert f(1)",), ()),
    ],
)
def test_layouts_of_tests(tests: Any, function: str | None, style: str, inputs: Any, expected: Any) -> None:
    for given in (tests, tests if isinstance(tests, str) else json.dumps(tests)):
        task = read_tests(given, function)
        assert (task.style, task.inputs, task.expected) == (style, inputs, expected)


@pytest.mark.parametrize(
    "tests",
    [
        {},
        [],
        {"inputs": ["1"], "outputs": []},
        {"what": 1},
        [1, 2],
        [{"input": "1"}],
        "not python at all (",
        "x = 1",
        [{"input": 1, "output": 2, "type": "function_call"}],
        "def check(candidate):\n    assert candidate(1)",
    ],
)
def test_tests_that_cannot_be_used(tests: Any) -> None:
    with pytest.raises(BadTests):
        read_tests(tests)


def test_comparison_of_outputs() -> None:
    assert same_output("1 2\n3\n", "\n1   2 \n3\n\n\n") and not same_output("1 2\n3", "1 2 3")
    assert not same_output("1.0", "1.00001") and same_output("x 1.0", "x 1.0000001", 1e-6)
    assert not same_output("x 1.0", "y 1.0", 1e-6) and not same_output("a", "", None) and same_output("", "\n")
    assert not same_output("nan", "1", 1e-3) and not same_output("1", "1 1", 1e-3)


def test_comparison_of_values() -> None:
    assert same_value([1, [2, 3]], (1, (2, 3))) and same_value({"1": 2}, {1: 2}) and same_value(1, 1.0)
    assert not same_value([1], [1, 2]) and not same_value([1], "[1]") and not same_value({1}, [1])
    assert not same_value(True, 1) and not same_value(0.3, 0.1 + 0.2) and same_value(0.3, 0.1 + 0.2, 1e-9)
    assert not same_value("1", 1) and not same_value(None, 0) and same_value(None, None)


def test_all_or_nothing_and_pass_rate() -> None:
    half = "n = int(input())\nprint(n * 2 if n < 3 else 0)"
    columns = {"tests": [SCRIPT_TESTS] * 3}
    texts = [fenced(DOUBLE), fenced(half), "no"]
    assert CodeReward(workers=2)(completions=texts, **columns) == [1.0, 0.0, 0.0]
    assert CodeReward("pass_rate", workers=2)(completions=texts, **columns) == [1.0, 0.5, 0.0]
    assert CodeReward("pass_rate", max_tests=2, workers=2)(completions=texts, **columns)[1] == 1.0


def test_verdicts_columns_and_metrics_in_any_order() -> None:
    programs = [DOUBLE, "print(0)", "1/0", "while True: pass", "def (", "import os; os.abort()", DOUBLE, DOUBLE]
    tests: list[Any] = [SCRIPT_TESTS] * 6 + ["{}", None]
    expected = ["correct", "wrong", "runtime_error", "timeout", "compile_error", "crash", "bad_gold", "bad_gold"]
    completions: list[Any] = [[{"role": "assistant", "content": fenced(program)}] for program in programs]
    reward = pickle.loads(pickle.dumps(get_reward({"name": "code", "args": {"time_limit": 0.4, "workers": 3}})))
    for order in (list(range(8)), [5, 3, 1, 7, 6, 4, 2, 0]):
        extra: dict[str, list[Any]] = {}
        metrics: dict[str, float] = {}
        scores = reward(
            completions=[completions[place] for place in order],
            tests=[tests[place] for place in order],
            log_extra=extra.__setitem__,
            log_metric=metrics.__setitem__,
        )
        assert extra["verdict"] == [expected[place] for place in order]
        assert [extra["tests_passed"][order.index(0)], extra["tests_passed"][order.index(6)]] == ["4/4", "0/0"]
        assert scores == [[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, None, None][place] for place in order]
        assert metrics["verdict/bad_gold"] == 0.25 and metrics["code/isolated"] == float(isolation().whole)
        assert "ZeroDivisionError" in extra["code_reason"][order.index(2)]


def test_functions_methods_and_asserts() -> None:
    assert verdict("def add(a, b): return a + b", CALL_TESTS).status == "correct"
    assert verdict("class Solution:\n    def add(self, a: int, b: int) -> int: return a + b", CALL_TESTS).passed == 2
    assert verdict("def add(a: List[int], b): return heapq.nsmallest(1, [a + b])[0]", CALL_TESTS).passed == 2
    assert verdict("def sub(a, b): return a", CALL_TESTS).status == "runtime_error"
    mbpp = ["assert near(1) == (1, {2})", "assert abs(near(3)[0] - 3) < 1e-9", "assert near(2)[0] == 3"]
    assert verdict("def near(x): return x, {x + 1}", mbpp, score="pass_rate").passed == 2
    check = (
        "def check(candidate):\n    assert candidate([3, 1]) == [1, 3]\n"
        "    for n in range(30):\n        assert candidate([n, 0]) == [0, n]"
    )
    assert verdict("def srt(x): return sorted(x)", check, entry_point="srt").status == "correct"
    assert verdict("def srt(x): return x", check, entry_point="srt").status == "wrong"
    assert verdict("def srt(x): return 1 / 0", check, entry_point="srt").status == "runtime_error"
    assert verdict("def srt(x):\n    while True: pass", check, entry_point="srt", time_limit=0.3).status == "timeout"


def test_asserts_reach_all_of_a_program() -> None:
    program = (
        "class Pair:\n    def __init__(self, a, b): self.a, self.b = a, b\n"
        "    def total(self): return self.a + self.b\n"
        "def longest(pairs, n): return max(p.a for p in pairs[:n])\nLIMIT = 5\n"
        "def order(x): x.sort()\ndef positive(x):\n    if x < 0: raise ValueError('no')\n    return x\n"
    )
    tests = [
        "assert longest([Pair(1, 2), Pair(7, 3)], 2) == 7 and Pair(2, 3).total() == LIMIT",
        "import math\nassert math.isclose(positive(2.5), 5 / 2)",
        "def raises():\n    try: positive(-1)\n    except ValueError: return True\nassert raises()",
        "def sorts():\n    x = [3, 1, 2]\n    order(x)\n    return x\nassert sorts() == [1, 2, 3]",
    ]
    assert verdict(program, tests).status == "correct"


CHEATS = {
    "equal to everything": """
class Any:
    def __eq__(self, other): return True
    def __bool__(self): return True
f = lambda *a: Any()
""",
    "a number equal to everything": """
class N(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
f = lambda *a: N(-1)
""",
    "ends well": "import sys\ndef f(*a): sys.exit(0)",
    "ends at once": "import os\nos._exit(0)",
    "ends at once in the call": "import os\ndef f(*a): os._exit(0)",
    "becomes another program": "import os\ndef f(*a): os.execv('/bin/true', ['true'])",
    "no more assertions": "import builtins\nbuiltins.AssertionError = ValueError\ndef f(*a): return None",
    "patches comparison": """
import json, math
math.isclose = lambda *a, **k: True
json.loads = lambda *a: {}
def f(*a): return 0
""",
    "says that it passed": """
import os
def f(*a):
    for d in range(1, 60):
        for t in (b'{"passed": true}', b'{"value": true}'):
            try: os.write(d, len(t).to_bytes(4, 'big') + t)
            except OSError: pass
    return 0
""",
    "looks for what is expected": """
import gc, sys
def f(*a):
    frame, seen = sys._getframe(), []
    while frame:
        seen += list(frame.f_locals.values()) + list(frame.f_globals.values())
        frame = frame.f_back
    for o in gc.get_objects():
        seen += o.values() if type(o) is dict else o if type(o) in (list, tuple) else []
    return next((x for x in seen if type(x) is str and x.startswith('the-mark-') and len(x) == 11), 0)
""",
    "searches its memory": """
import re
def f(*a):
    for line in open('/proc/self/maps'):
        start, end = (int(x, 16) for x in line.split()[0].split('-'))
        if 'rw' not in line or end - start > 1 << 26: continue
        memory = open('/proc/self/mem', 'rb')
        memory.seek(start)
        try: found = re.search(rb'the-mar[k]-[0-9]+', memory.read(end - start))
        except OSError: continue
        if found: return found[0].decode()
    return 0
""",
}


@pytest.mark.parametrize("name", CHEATS)
def test_a_program_cannot_pass_without_solving(name: str) -> None:
    program = CHEATS[name]
    asserts = ["assert f(3) == 'the-mark-73'", "assert f(4) == 'the-mark-74' and f(5) != f(6)"]
    calls = {"fn_name": "f", "inputs": [[3], [4]], "outputs": ["the-mark-73", "the-mark-74"]}
    for tests in (asserts, calls):
        found = verdict(program, tests, score="pass_rate", time_limit=1.0)
        assert found.passed == 0 and found.status not in ("correct", "bad_gold", "fault"), (found, tests)
    honest = "def f(x): return f'the-mark-7{x}'"
    assert verdict(honest, asserts).status == verdict(honest, calls).status == "correct"


SENT = {
    "deep": b"[" * 900 + b"]" * 900,
    "deeper": b"[" * 100_000 + b"]" * 100_000,
    "a fraction with an exponent": b'{"n": ["Fraction", "1e999999999"]}',
    "a quotient by nothing": b'{"q": ["0x1", "0x0"]}',
    "a key of many digits": b'{"d": [[{"i": "0x' + b"f" * 9000 + b'"}, 1]]}',
    "a list in a set": b'{"s": [[1]]}',
    "an unknown kind": b'{"h": 3}',
    "a huge decimal": b'{"n": "1e999999999"}',
    "a huge integer": b'{"i": "0x' + b"f" * 90000 + b'"}',
    "many digits": b"9" * 10_000,
    "no number": b'{"f": "x"}',
}


@pytest.mark.parametrize("name", SENT)
def test_whatever_a_program_sends_is_only_wrong(name: str) -> None:
    program = f"""
import os
sent = b'{{"value": ' + {SENT[name]!r} + b'}}'
def f(*a):
    for d in range(3, 60):
        try: os.write(d, len(sent).to_bytes(4, 'big') + sent)
        except OSError: pass
    while True: pass
"""
    calls = {"fn_name": "f", "inputs": [[3]], "outputs": [{"1": 4}]}
    started = time.monotonic()
    for tests, more in ((calls, {"tolerance": 1e-6}), (["assert f(3) == 5"], {})):
        found = verdict(program, tests, time_limit=1.0, **more)
        assert found.passed == 0 and found.status not in ("correct", "bad_gold", "fault"), found
    assert time.monotonic() - started < 40


@pytest.mark.parametrize("name", ["looks for what is expected", "searches its memory"])
def test_those_searches_find_what_is_there(name: str) -> None:
    """The control: what a program is given it does find."""
    given = {"fn_name": "f", "inputs": [["the-mark-99"]], "outputs": ["the-mark-99"]}
    assert verdict(CHEATS[name], given, time_limit=2.0).status == "correct"


def test_programs_run_side_by_side() -> None:
    sleeper = "import time; time.sleep(2); print(2)"
    tests = {"inputs": ["1"], "outputs": ["2"]}
    started = time.monotonic()
    assert CodeReward(workers=6)(completions=[fenced(sleeper)] * 6, tests=[tests] * 6) == [1.0] * 6
    assert time.monotonic() - started < 6 * 2  # one after another


def test_a_limit_for_all_tests_together() -> None:
    slow = "input()\nimport time\nwhile time.process_time() < 0.3: pass\nprint(1)"
    tests = {"inputs": ["1"] * 20, "outputs": ["1"] * 20}
    reward = CodeReward("pass_rate", time_limit=5, total_time_limit=0.5, workers=1)
    found = reward.verdicts([fenced(slow)], tests=[tests])[0]
    assert found.status == "timeout" and 1 <= found.passed <= 3 and found.total == 20


def test_arguments_columns_and_rows() -> None:
    for args, message in (
        ({"score": "some"}, "allowed: all, pass_rate"),
        ({"time_limit": 0}, "above 0"),
        ({"workers": 0}, "1 or more"),
        ({"time_limit": "3"}, "do not fit"),
    ):
        with pytest.raises(RewardError, match=message):
            get_reward({"name": "code", "args": args})
    with pytest.raises(RewardError, match=r"no column 'tests' or 'input_output'.*columns: answer"):
        CodeReward()(completions=["x"], answer=["1"])
    assert CodeReward()(completions=[]) == []
    reward = get_reward("code")
    check_rows(reward, [{"tests": "{}"}, {"tests": SCRIPT_TESTS}])
    with pytest.raises(RewardError, match=r"row 0 \(id 'a'\): .*no known layout"):
        check_rows(reward, [{"id": "a", "tests": "{}"}])
    if isolation().whole:
        assert CodeReward(requires_isolation=True)(completions=[DOUBLE], tests=[SCRIPT_TESTS]) == [1.0]
