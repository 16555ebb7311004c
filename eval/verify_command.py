"""The work of `reasonrl verify`: progress, the table, exit by signal."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from reasonrl.errors import Interrupted, RunError
from reasonrl.eval.verify_files import Settings, verify_file
from reasonrl.eval.verify_lines import Columns
from reasonrl.eval.verify_report import differences, explanation, one_line, tally_table
from reasonrl.observe.progress import Progress
from reasonrl.rewards import math as grader


def grade_pair(gold: str, response: str, policy: str, explain: bool, say: Callable[[str], None]) -> bool:
    """Grades one pair in this process, says the verdict, and returns whether it is correct."""
    if explain:
        verdict, text = explanation(gold, response, policy)
        say(text.rstrip("\n"))
    else:
        verdict = grader.verify(gold, response, policy)
        say(one_line(verdict))
    return verdict.correct


def grade_file(
    pairs: Path,
    *,
    out: Path | None,
    policy: str,
    workers: int | None,
    time_limit: float,
    limit: int | None,
    gold_column: str | None,
    pred_column: str | None,
    restart: bool,
    compare: Path | None,
    say: Callable[[str], None],
) -> None:
    """Grades a file with a progress bar on standard error and says the table.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the verdicts made so far are in `out`.
        RunError: arguments that do not go together; else as `verify_files.verify_file`.
    """
    if restart and out is None:
        raise RunError("--restart throws away the verdicts in --out, and there is no --out")
    if compare is not None and out is None:
        raise RunError("--compare needs --out: the verdicts of this run are compared with the other file's")
    settings = Settings(policy, workers, time_limit, limit, Columns(gold_column, pred_column))
    bar = Progress(description=pairs.name, unit="pair")

    def started(total: int, done: int) -> None:
        bar.report(done, total, "pairs", "")
        if done:
            bar.line(f"{done:,} of {total:,} verdicts were there already")
        bar.start()

    with _terminated_is_interrupted() as signals, bar:
        tally = verify_file(pairs, out, settings, restart=restart, on_start=started, on_verdict=bar.advance)
    say(tally_table(tally, f"{pairs.name}, policy {policy}").rstrip("\n"))
    if tally.interrupted:
        kept = f"{tally.lines:,} verdicts are in {out} -> the same command goes on" if out else "nothing was kept"
        error = Interrupted(f"stopped; {kept}")
        error.exit_status = 128 + (signals[0] if signals else signal.SIGINT)
        raise error
    if compare is not None and out is not None:
        say(differences(out, compare).rstrip("\n"))


@contextmanager
def _terminated_is_interrupted() -> Iterator[list[int]]:
    """While inside, SIGTERM interrupts as Ctrl-C does; the list then holds its number."""
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)
