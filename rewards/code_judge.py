"""One program against one task, in a sandbox of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.rewards.code_compare import same_output, same_value
from reasonrl.rewards.code_tests import Task
from reasonrl.rewards.sandbox import Limits, Outcome, Sandbox
from reasonrl.rewards.sandbox.wire import decode, encode


@dataclass(frozen=True)
class CodeVerdict:
    """What came of a program.

    Attributes:
        status: `correct` when every test passed, else what the first failed one came to: `wrong`, `compile_error`,
            `runtime_error`, `timeout`, `memory_limit`, `output_limit`, `crash`; `no_answer` without a program,
            `bad_gold` where the tests cannot be used, `fault` where no sandbox could be had.
        passed: tests passed; total: tests there are (those not run count as failed).
        reason: of the first failure, in a few words.
    """

    status: str
    passed: int = 0
    total: int = 0
    reason: str = ""


def judge(
    code: str,
    task: Task,
    limits: Limits,
    *,
    tolerance: float | None = None,
    stop_at_failure: bool = False,
    total_seconds: float = 60.0,
    isolate: bool = True,
) -> CodeVerdict:
    """Run the tests in order and compare outside.

    What a test expects never enters the program's sandbox: outputs and values are compared here, and test code runs in
    a second sandbox, which asks the program's for values.

    Args:
        stop_at_failure: leave the other tests out once one failed.
        total_seconds: processor time for all tests; what is left out then counts as failed.
    """
    run = {"script": _script, "calls": _calls, "asserts": _asserts}[task.style]
    passed, spent, first = 0, 0.0, ("", "")
    try:
        with Sandbox(limits, isolate) as program:
            program.load(code)
            with _Tests(task, limits, isolate) as tests:
                for number in range(len(task.inputs)):
                    outcome, right = run(program, tests, task, number, tolerance)
                    spent += outcome.seconds
                    passed += right
                    if not right and not first[0]:
                        first = (outcome.status if outcome.status != "ok" else "wrong", _reason(number, outcome))
                    stuck = outcome.status == "compile_error" or (stop_at_failure and not right)
                    if stuck or (spent > total_seconds and number + 1 < len(task.inputs)):
                        first = first if first[0] else ("timeout", f"{spent:.1f} s for {number + 1} tests")
                        break
    except RewardError as problem:
        return CodeVerdict("fault", 0, len(task.inputs), str(problem))
    return CodeVerdict(first[0] or "correct", passed, len(task.inputs), first[1])


class _Tests:
    """The sandbox of test code; none for tasks without."""

    def __init__(self, task: Task, limits: Limits, isolate: bool) -> None:
        self.sandbox = Sandbox(limits, isolate) if task.style == "asserts" else None
        if self.sandbox is not None:
            self.sandbox.load(task.setup, tests=True)

    def __enter__(self) -> _Tests:
        return self

    def __exit__(self, *problem: object) -> None:
        if self.sandbox is not None:
            self.sandbox.close()


def _script(program: Sandbox, tests: _Tests, task: Task, number: int, tolerance: float | None) -> tuple[Outcome, bool]:
    outcome = program.script(task.inputs[number])
    return outcome, outcome.status == "ok" and same_output(task.expected[number], outcome.output, tolerance)


def _calls(program: Sandbox, tests: _Tests, task: Task, number: int, tolerance: float | None) -> tuple[Outcome, bool]:
    outcome = program.ask({"name": task.function, "args": encode(task.inputs[number])})
    if outcome.status != "ok" or outcome.reply is None or "value" not in outcome.reply:
        return outcome, False
    try:
        value = decode(outcome.reply["value"])
        return outcome, any(same_value(one, value, tolerance) for one in task.expected[number])
    except (ValueError, TypeError, ArithmeticError, RecursionError) as problem:  # what a program sent may be anything
        return Outcome(
            "crash", note=f"a reply that is no value: {type(problem).__name__}", seconds=outcome.seconds
        ), False


def _asserts(program: Sandbox, tests: _Tests, task: Task, number: int, tolerance: float | None) -> tuple[Outcome, bool]:
    """One piece of test code; a program that failed while it was asked explains the failure."""
    assert tests.sandbox is not None
    trouble: list[Outcome] = []
    seconds = 0.0

    def relay(request: Mapping[str, Any]) -> Mapping[str, Any]:
        nonlocal seconds
        outcome = program.ask(request)
        seconds += outcome.seconds
        if outcome.status != "ok":
            trouble.append(outcome)
        return dict(outcome.reply) if outcome.reply is not None else {"note": f"the program ended: {outcome.status}"}

    outcome = tests.sandbox.ask({"code": task.inputs[number]}, relay)
    right = outcome.status == "ok" and outcome.reply is not None and outcome.reply.get("passed") is True
    if not right and trouble:
        return Outcome(trouble[-1].status, "", None, trouble[-1].note, seconds), False
    status = outcome.status if right or outcome.status != "runtime_error" else "wrong"
    return Outcome(status, "", outcome.reply, outcome.note, seconds), right


def _reason(number: int, outcome: Outcome) -> str:
    what = outcome.note.splitlines()[-1] if outcome.note else ""
    if outcome.status == "ok":
        what = what or "another result than expected"
    return f"test {number + 1}: {outcome.status if outcome.status != 'ok' else 'wrong'}" + (f": {what}" if what else "")
