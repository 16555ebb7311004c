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
from reasonrl.eval.verify_paths import check_compare, check_files
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
        RunError: arguments that do not go together, an output that is an input; else as `verify_files.verify_file`.
    """
    if restart and out is None:
        raise RunError("--restart throws away the verdicts in --out, and there is no --out")
    if compare is not None and out is None:
        raise RunError("--compare needs --out: the verdicts of this run are compared with the other file's")
    check_files(pairs, out, compare)
    if compare is not None:
        check_compare(compare, pairs)
    settings = Settings(policy, workers, time_limit, limit, Columns(gold_column, pred_column))
    interrupts = _Interrupts()
    bar = Progress(description=pairs.name, unit="pair")

    def started(total: int, done: int) -> None:
        bar.report(done, total, "pairs", "")
        if done:
            bar.line(f"{done:,} of {total:,} verdicts were there already")
        bar.start()

    with interrupts.watched(), bar:
        try:
            tally = verify_file(
                pairs, out, settings, restart=restart, on_start=started, on_verdict=bar.advance, whole=interrupts
            )
        except KeyboardInterrupt:
            raise interrupts.error("before the first verdict") from None
    say(tally_table(tally, f"{pairs.name}, policy {policy}").rstrip("\n"))
    if tally.interrupted:
        kept = f"{tally.lines:,} verdicts are in {out} -> the same command goes on" if out else "nothing was kept"
        raise interrupts.error(kept)
    if compare is not None and out is not None:
        say(differences(out, compare).rstrip("\n"))


class _Interrupts:
    """While `watched`, SIGTERM interrupts as Ctrl-C does, once; a second signal kills at once.

    Entered itself, it puts the interrupt off to its end: what stands inside is done wholly or not at all.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._held = False

    @contextmanager
    def watched(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def error(self, said: str) -> Interrupted:
        """What ends the command, with the exit status of the signal: 130 or 143."""
        error = Interrupted(f"stopped; {said}")
        error.exit_status = 128 + (self.number or signal.SIGINT)
        return error

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        if not self._held:
            raise KeyboardInterrupt

    def __enter__(self) -> None:
        self._held = True

    def __exit__(self, *exc: object) -> None:
        self._held = False
        if self.number is not None:
            raise KeyboardInterrupt
