"""The work of `reasonrl pacore pool` and `reasonrl pacore episodes`: from cached answers to training data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from reasonrl.pacore.compaction import Compaction, get_compaction
from reasonrl.pacore.episodes import Law, episode_row, schedule
from reasonrl.pacore.errors import PacoreError
from reasonrl.pacore.pools import (
    MATH,
    PoolFilter,
    PoolProblem,
    PoolReport,
    by_verifier,
    graded,
    pool_of_samples,
    read_pool,
    write_pool,
)
from reasonrl.pacore.synthesis import SynthesisPrompt


def make_pool(
    path: Path,
    out: Path,
    *,
    keep: tuple[str, ...] = (MATH,),
    column: str = "category",
    least: int = 24,
    compaction: str = "after_think",
    policy: str = "default",
    workers: int | None = None,
    say: Callable[[str], None],
) -> PoolReport:
    """Grades the messages of a pool where they have no scores, filters its problems by accuracy, and writes the rest.

    Args:
        path: the record format, or sample rows of the stage kind `rollout` (parquet).
        out: the filtered pool.
        keep: one condition for all; or several, each `KIND:CONDITION`, by the value of `column`.
        column: that column.
        least: messages that a problem must have.
        compaction: of responses.
        policy: of the verifier.
        workers: of the verifier.
        say: takes lines for the user.

    Raises:
        DataError: the file cannot be read.
        PacoreError: conditions that cannot be, or no problem left.
    """
    report = PoolReport()
    chosen = PoolFilter(_conditions(keep), column, least)
    problems = graded(read_any_pool(path, report, get_compaction(compaction)), by_verifier(policy, workers))
    kept = [one for one in problems if chosen.wants(one, report)]
    say(told(path, report))
    if not kept:
        raise PacoreError(f"{path}: no problem is left -> loosen --keep or --least")
    write_pool(out, kept)
    say(f"{len(kept)} problems in {out}")
    return report


def make_episodes(
    path: Path,
    out: Path,
    *,
    steps: int,
    instances: int,
    messages: str,
    seed: int = 0,
    prompt: str | None = None,
    say: Callable[[str], None],
) -> int:
    """Writes the episodes of a whole training, in the order in which it is to take them.

    Args:
        path: a filtered pool.
        out: JSON lines.
        steps, instances: iterations, and instances of each.
        messages: the law of their number, such as `16..24`.
        seed: of orders and draws.
        prompt: file of a synthesis prompt.
        say: takes lines for the user.

    Returns:
        How many.

    Raises:
        DataError: the file cannot be read.
        PacoreError: a law that cannot be, or a pool that is too small for it.
    """
    from reasonrl.observe.metrics import write_atomically
    from reasonrl.observe.records import encode_record

    report, law, framed = PoolReport(), Law.read(messages), SynthesisPrompt(prompt)
    problems = list(read_pool(path, report))
    rows = [episode_row(step, episode, framed) for step, episode in schedule(problems, steps, instances, law, seed)]
    write_atomically(out, b"".join(map(encode_record, rows)))
    passes = len(rows) / len(problems)
    say(f"{len(rows)} episodes of {len(problems)} problems, {passes:.2f} passes, in {out}")
    return len(rows)


def read_any_pool(path: Any, report: PoolReport, compaction: Compaction) -> Iterable[PoolProblem]:
    """A pool in the record format, or one made of the samples of a stage of kind `rollout`, whichever the rows are.

    Raises:
        DataError: the file cannot be read.
    """
    from reasonrl.data_tools.files import BadRow, read_paths

    first = next((row for _, row in read_paths(path, None, None, None) if not isinstance(row, BadRow)), {})
    if "responses" in first or "problem_id" not in first:
        return read_pool(path, report, compaction)
    rows = [row for _, row in read_paths(path, None, None, None) if not isinstance(row, BadRow)]
    pool = pool_of_samples(rows, compaction)
    report.read = len(pool)
    report.responses_dropped = sum(one.dropped for one in pool)
    return pool


def _conditions(keep: tuple[str, ...]) -> str | dict[str, str]:
    if len(keep) == 1 and ":" not in keep[0]:
        return keep[0]
    pairs = [one.partition(":") for one in keep]
    if not all(found and kind for kind, found, _ in pairs):
        raise PacoreError("several conditions -> each as KIND:CONDITION, such as 'math:0 < acc < 9/24'")
    return {kind.strip(): condition for kind, _, condition in pairs}


def told(path: Path | str, report: PoolReport) -> str:
    """What became of a pool's problems, in words."""
    counts = {
        "kept": report.kept,
        "none right": report.none_right,
        "all right": report.all_right,
        "filtered": report.filtered,
        "unscored": report.unscored,
        "too few messages": report.too_few,
        **{f"bad ({reason})": count for reason, count in report.bad.items()},
    }
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "kept")
    dropped = f"; {report.responses_dropped} responses without a message" if report.responses_dropped else ""
    return f"{path}: {report.read} problems: {said}{dropped}"
