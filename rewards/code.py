"""The `code` reward: run a completion's program against the row's tests."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.plugins import near
from reasonrl.rewards.code_judge import CodeVerdict, judge
from reasonrl.rewards.code_tests import NAMES_OF_FUNCTION, BadTests, Task, read_tests
from reasonrl.rewards.columns import column_named
from reasonrl.rewards.combining import row_name
from reasonrl.rewards.completions import text_of
from reasonrl.rewards.early import Begun, Hands
from reasonrl.rewards.extract import after_thinking
from reasonrl.rewards.sandbox import Isolation, Limits, isolation
from reasonrl.rewards.verdict import status_shares

SCORES = ("all", "pass_rate")
STATUSES = (
    "correct",
    "wrong",
    "no_answer",
    "compile_error",
    "runtime_error",
    "timeout",
    "memory_limit",
    "output_limit",
    "crash",
    "bad_gold",
    "fault",
)
COLUMNS = ("tests", "input_output", "test_list", "test", "test_cases")
_SETUP_COLUMNS = ("test_setup_code", "test_setup")
_FENCE = re.compile(r"^[ \t]*(```+|~~~+)[ \t]*([\w+#.-]*)[^\n]*$", re.MULTILINE)
_PYTHON = frozenset({"", "python", "py", "python3", "py3"})


class CodeReward:
    """Tests passed by the program in a completion; None where the tests cannot be used or no sandbox can be had.

    The program is the last fenced block of Python outside the think block, or all of the text if there is no block. It
    runs in a locked-down process tree (`reasonrl.rewards.sandbox`); see docs/reward_functions.md for what holds it.

    Args:
        score: `all` (1 if every test passes, else 0) or `pass_rate` (the share that passes).
        tests: the column with the tests; None takes the first of `tests`, `input_output`, `test_list`, `test`,
            `test_cases` that is there. The function to call may stand in it or in a column `fn_name`, `func_name` or
            `entry_point`.
        time_limit: seconds of processor time for one test.
        total_time_limit: seconds of processor time for all tests of a program; what is left out then has failed.
        memory_mb: address space of the program, MiB.
        max_tests: take the first tests only.
        tolerance: numbers that differ by no more than this, relatively or absolutely, are the same; None: exactly.
        workers: programs at a time; None: one less than the processors there are, at most 8.
        requires_isolation: refuse to run where the kernel's namespaces are not to be had.
    """

    token_level = False

    def __init__(
        self,
        score: str = "all",
        tests: str | None = None,
        time_limit: float = 6.0,
        total_time_limit: float = 60.0,
        memory_mb: int = 1024,
        max_tests: int | None = None,
        tolerance: float | None = None,
        workers: int | None = None,
        requires_isolation: bool = False,
    ) -> None:
        if score not in SCORES:
            raise RewardError(f"reward 'code': score {score!r} is unknown{near(str(score), SCORES)}")
        for name, value in (
            ("time_limit", time_limit),
            ("total_time_limit", total_time_limit),
            ("memory_mb", memory_mb),
        ):
            if not value > 0:
                raise RewardError(f"reward 'code': {name}={value} must be above 0")
        for name, count in (("max_tests", max_tests), ("workers", workers)):
            if count is not None and count < 1:
                raise RewardError(f"reward 'code': {name}={count} must be 1 or more")
        self.__name__ = "code"
        self.score = score
        self.tests = tests
        self.limits = Limits(seconds=float(time_limit), memory_mb=memory_mb)
        self.total_time_limit = float(total_time_limit)
        self.max_tests = max_tests
        self.tolerance = tolerance
        self.workers = workers
        self.requires_isolation = requires_isolation
        self._hands = Hands(workers or min(8, max(1, (os.cpu_count() or 2) - 1)), "code-reward")
        self._begun: Begun[CodeVerdict] = Begun()

    @property
    def isolation(self) -> Isolation:
        """What this machine's kernel lets the programs be held by; warns once where that is not everything."""
        return isolation()

    def __call__(
        self,
        prompts: Sequence[Any] | None = None,
        completions: Sequence[Any] = (),
        completion_ids: Sequence[Any] | None = None,
        *,
        log_extra: Callable[..., None] | None = None,
        log_metric: Callable[..., None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        """A number in [0, 1] or None a completion; `verdict`, `tests_passed` and `code_reason` go to `log_extra`, the
        share of each status and whether namespaces held the programs (`code/isolated`) to `log_metric`.
        """
        verdicts = self.verdicts(completions, **columns)
        if log_extra is not None:
            log_extra("verdict", [verdict.status for verdict in verdicts])
            log_extra("tests_passed", [f"{verdict.passed}/{verdict.total}" for verdict in verdicts])
            log_extra("code_reason", [verdict.reason for verdict in verdicts])
        if log_metric is not None and verdicts:
            for name, value in status_shares([verdict.status for verdict in verdicts], STATUSES).items():
                log_metric(name, value)
            log_metric("code/isolated", float(self.isolation.whole))
        return [self._score(verdict) for verdict in verdicts]

    def verdicts(self, completions: Sequence[Any], **columns: Any) -> list[CodeVerdict]:
        """One verdict a completion; the columns as in a call.

        Raises:
            RewardError: no column of tests, or `requires_isolation` on a machine that has none.
        """
        if not completions:
            return []
        held = self.isolation
        if self.requires_isolation and not held.whole:
            raise RewardError(
                f"reward 'code': requires_isolation is true, and this machine lets programs be held by {held} only"
                " -> allow unprivileged user namespaces, or run on another machine"
            )
        name = self._column(columns)
        rows = [{key: _cell(columns, key, place) for key in columns} for place in range(len(completions))]
        futures = []
        for one, row in zip(completions, rows, strict=True):
            program = program_of(text_of(one))
            begun = self._begun.take(_key(program, row, name))
            futures.append(begun if begun is not None else self._submit(program, row, name))
        try:
            return [future.result() for future in futures]
        except BaseException:  # Ctrl-C too: nobody waits for the rest any more
            for future in futures:
                future.cancel()
            raise

    def begin(self, prompt: Any, completion: Any, row: Mapping[str, Any]) -> None:
        """Begin to run one sample's program; see `early`."""
        with contextlib.suppress(RewardError):  # whatever is wrong, the call says it
            program, name = program_of(text_of(completion)), self._column(row)
            if self.requires_isolation and not self.isolation.whole:
                return
            self._begun.put(_key(program, row, name), self._submit(program, row, name))

    def drop(self, prompt: Any, completion: Any, row: Mapping[str, Any]) -> None:
        """Give up what was begun about one sample; see `early`."""
        with contextlib.suppress(RewardError):
            if (begun := self._begun.take(_key(program_of(text_of(completion)), row, self._column(row)))) is not None:
                begun.cancel()

    def forget(self) -> None:
        """Give up all that was begun; see `early`."""
        self._begun.clear()

    def _submit(self, program: str, row: Mapping[str, Any], column: str) -> Future[CodeVerdict]:
        return self._hands.submit(functools.partial(self._judge, program, row, column))

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Refuse rows of which none has tests that can be used; single ones are masked and counted in training."""
        problem = ""
        for place, row in enumerate(rows):
            try:
                self._task(row, self._column(row))
                return
            except BadTests as bad:
                problem = problem or f"{row_name(row, place)}: {bad}"
        if rows:
            raise RewardError(f"reward 'code': no row has tests that can be used; {problem}")

    def _column(self, columns: Mapping[str, Any]) -> str:
        return column_named("code", self.tests, COLUMNS, columns, "tests", "tests")

    def _task(self, row: Mapping[str, Any], column: str) -> Task:
        function = next((row[name] for name in NAMES_OF_FUNCTION if isinstance(row.get(name), str)), None)
        setup = next((row[name] for name in _SETUP_COLUMNS if isinstance(row.get(name), str)), None)
        if row.get(column) is None:
            raise BadTests(f"its column {column!r} is empty")
        return read_tests(row[column], function, setup).first(self.max_tests)

    def _judge(self, program: str, row: Mapping[str, Any], column: str) -> CodeVerdict:
        try:
            task = self._task(row, column)
        except BadTests as bad:
            return CodeVerdict("bad_gold", reason=str(bad))
        if not program.strip():
            return CodeVerdict("no_answer", 0, len(task.inputs), "there is no program")
        return judge(
            program,
            task,
            self.limits,
            tolerance=self.tolerance,
            stop_at_failure=self.score == "all",
            total_seconds=self.total_time_limit,
            isolate=self.isolation.whole,
        )

    def _score(self, verdict: CodeVerdict) -> float | None:
        if verdict.status in ("bad_gold", "fault"):
            return None
        if self.score == "all":
            return float(verdict.status == "correct")
        return verdict.passed / verdict.total if verdict.total else 0.0


def program_of(text: str) -> str:
    """The program in a response: the last fenced block of Python, or of no language, outside the think block (it may
    be left open at the end); without any fence all of the text. Nothing where all blocks are in other languages.
    """
    outside = after_thinking(text)
    blocks: list[tuple[str, str]] = []
    fence, language, start = "", "", 0
    for mark in _FENCE.finditer(outside):
        if not fence:
            fence, language, start = mark[1], mark[2].lower(), mark.end() + 1
        elif mark[1].startswith(fence) and not mark[2]:
            blocks.append((language, outside[start : mark.start()]))
            fence = ""
    if fence:
        blocks.append((language, outside[start:]))
    python = [inside for language, inside in blocks if language in _PYTHON]
    if python:
        return python[-1]
    return "" if blocks else outside.strip()


def _key(program: str, row: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """What a verdict depends on besides the reward's own settings."""
    return program, column, *(repr(row.get(name)) for name in (column, *NAMES_OF_FUNCTION, *_SETUP_COLUMNS))


def _cell(columns: Mapping[str, Any], key: str, place: int) -> Any:
    values = columns[key]
    if isinstance(values, Sequence) and not isinstance(values, str) and place < len(values):
        return values[place]
    return None
