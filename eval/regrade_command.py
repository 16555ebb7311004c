"""The work of `reasonrl regrade`: every suite of a folder, a progress bar, the table of what changed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from reasonrl.errors import Interrupted, RewardError, RunError
from reasonrl.eval.regrade import Grading, check_name, own_grading, regrade_suite
from reasonrl.eval.report import markdown_table
from reasonrl.eval.report_data import suite_folders
from reasonrl.eval.samples import OWN, verdicts_path
from reasonrl.eval.verdict_diff import MOST_EXAMPLES, VerdictDiff, diff_json, diff_suite, diff_tables
from reasonrl.observe import write_atomically
from reasonrl.observe.metrics import format_number, format_seconds
from reasonrl.observe.progress import Progress
from reasonrl.observe.tables import table

_CELL = 60


def regrade(
    directory: Path,
    *,
    suites: Sequence[str],
    policy: str | None,
    reward: str | None,
    name: str | None,
    against: str | None,
    workers: int | None,
    time_limit: float,
    restart: bool,
    say: Callable[[str], None],
) -> None:
    """Judges the samples of an evaluation folder again and says what changed.

    Beside each suite's verdicts, `<name>.diff.json` and `<name>.diff.md` hold the difference.

    Args:
        directory: an evaluation's folder, or one suite's.
        suites: only these; none takes all.
        policy: of the math verifier.
        reward: a reward's name, `file.py:function`, or terms as YAML. Without either, each suite is judged by its own
            reward as it is today, or by the math verifier's policy `default`.
        name: of the re-grade; None takes that of the policy or reward.
        against: another re-grade to compare with; None compares with the verdicts made with the samples.
        workers, time_limit: of the verifier.
        restart: throw away the verdicts of this name first.
        say: writes a line to the terminal.

    Raises:
        Interrupted: Ctrl-C; the verdicts made so far stay, and the same command goes on.
        RunError, DataError, RewardError: as `regrade.regrade_suite`.
    """
    if policy is not None and reward is not None:
        raise RunError("--policy belongs to the math verifier, and --reward names another grader -> give one of them")
    grading = Grading(policy or "default", _reward(reward), workers, time_limit, Path.cwd())
    name = name or grading.name
    check_name(name)
    folders = suite_folders(directory, suites)
    before = against or OWN
    if before != OWN:
        for folder in folders.values():
            if not verdicts_path(folder, before).exists():
                raise RunError(
                    f"--against {before}: {verdicts_path(folder, before)} is not there -> make it with --name {before}"
                )
    diffs = []
    with _pool(grading) as pool:
        for suite, folder in folders.items():
            chosen = grading if policy or reward else own_grading(folder, grading)
            _one(suite, folder, chosen, name, restart, pool, say)
            diffs.append(diff_suite(suite, folder, before, name))
            _write_diff(folder, name, diffs[-1])
    few = max(3, MOST_EXAMPLES // len(diffs))  # the files beside the verdicts hold more
    for part in diff_tables([replace(diff, examples=diff.examples[:few]) for diff in diffs]):
        body = [[_short(cell) for cell in line] for line in part["body"]]
        say(f"{part['title']}\n{table(part['header'], body)}\n")


def _reward(text: str | None) -> Any:
    """A reward spec from the command line: YAML, so that a name is a name and terms are terms."""
    if text is None:
        return None
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RewardError(
            f"--reward {text!r} is no YAML: {error} -> give a name, or terms such as '[{{name: math}}]'"
        ) from error
    return text if isinstance(found, int | float | bool) or found is None else found


def _pool(grading: Grading) -> AbstractContextManager[Any]:
    """One pool for all suites: its start takes longer than a small suite's verdicts. No worker starts before a pair."""
    if grading.reward is not None or grading.workers == 0:
        return nullcontext()
    from reasonrl.rewards.pool import RewardPool

    return RewardPool(workers=grading.workers, time_limit=grading.time_limit)


def _one(
    suite: str, folder: Path, grading: Grading, name: str, restart: bool, pool: Any, say: Callable[[str], None]
) -> None:
    bar = Progress(description=suite, unit="sample")

    def started(total: int, done: int) -> None:
        bar.report(done, total, "samples", "")
        bar.start()

    start = time.monotonic()
    with bar:
        try:
            done = regrade_suite(
                folder, grading, name, restart=restart, pool=pool, on_start=started, on_verdict=bar.advance
            )
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped; the verdicts made so far are in {verdicts_path(folder, name)} -> the same command goes on"
            ) from None
    seconds = time.monotonic() - start
    there = "" if done.made == done.total else f"; {done.total - done.made:,} verdicts were there already"
    speed = f", {format_number(done.made / seconds)} samples/s" if done.made else ""
    say(f"{suite}: {done.made:,} samples judged in {format_seconds(seconds)}{speed}{there}; {done.path}")


def _write_diff(folder: Path, name: str, diff: VerdictDiff) -> None:
    path = verdicts_path(folder, name)
    tables = [line for part in diff_tables([diff]) for line in [*markdown_table(part), ""]]
    write_atomically(path.with_suffix(".diff.md"), "\n".join(tables).encode("utf-8", "replace"))
    content = json.dumps(diff_json(diff), indent=1) + "\n"
    write_atomically(path.with_suffix(".diff.json"), content.encode())


def _short(text: str) -> str:
    plain = "".join(symbol if symbol.isprintable() else " " for symbol in text)
    return plain if len(plain) <= _CELL else plain[: _CELL - 1] + "…"
