"""Grading a file of pairs: one verdict a line, in order, by workers that can be killed; a stopped run goes on."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from reasonrl.errors import RewardError, RunError
from reasonrl.eval.verify_lines import (
    Columns,
    Pair,
    check_columns,
    count_and_hash,
    read_label,
    read_pairs,
    read_verdicts,
    verdict_line,
    whole_length,
)
from reasonrl.eval.verify_paths import about_of, check_files
from reasonrl.observe.metrics import write_atomically
from reasonrl.plugins import near
from reasonrl.rewards import math as grader
from reasonrl.rewards.policy import POLICIES
from reasonrl.rewards.verdict import SCORE_OF_STATUS, STATUSES, Verdict

if TYPE_CHECKING:
    from reasonrl.rewards.pool import RewardPool

_WAITING_A_WORKER = 512
"""Fewer leave workers without work while a busy machine lets this process wait."""


@dataclass
class Tally:
    """Counts over verdicts.

    Attributes:
        statuses: how many verdicts have each status.
        right, wrong: pairs labelled `equal: true` and `equal: false`.
        unread: pairs whose `equal` is neither, and not null.
        false_negatives, false_positives: pairs among them whose verdict contradicts the label.
        slowest: the longest time of one verdict, seconds.
        malformed: input lines that were no pair (their status is `fault`).
        graded: verdicts made by this process; `seconds` its time for them, `start` that until the first one.
        interrupted: whether it was stopped before the end.
    """

    statuses: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))
    right: int = 0
    wrong: int = 0
    unread: int = 0
    false_negatives: int = 0
    false_positives: int = 0
    slowest: float = 0.0
    malformed: int = 0
    graded: int = 0
    seconds: float = 0.0
    start: float = 0.0
    interrupted: bool = False

    @property
    def lines(self) -> int:
        """Verdicts counted."""
        return sum(self.statuses.values())

    def count(self, status: str, equal: Any, seconds: float, malformed: bool = False) -> None:
        """Counts one verdict; `equal` is the pair's label as it stands in the file, None if there is none."""
        self.statuses[status] += 1
        self.slowest = max(self.slowest, seconds)
        self.malformed += malformed
        label = read_label(equal)
        if label is True:
            self.right += 1
            self.false_negatives += status != "correct"
        elif label is False:
            self.wrong += 1
            self.false_positives += status == "correct"
        elif equal is not None:
            self.unread += 1


@dataclass(frozen=True)
class Settings:
    """How pairs are graded.

    Attributes:
        policy: a name in the table of policies.
        workers: processes; None takes one a processor, 0 grades in this process.
        time_limit: seconds a pair may take.
        limit: at most so many lines of the input; None takes all.
        columns: where the texts stand.
    """

    policy: str = "default"
    workers: int | None = None
    time_limit: float = 2.0
    limit: int | None = None
    columns: Columns = field(default_factory=Columns)


def verify_file(
    pairs: Path,
    out: Path | None,
    settings: Settings,
    *,
    restart: bool = False,
    on_start: Callable[[int, int], None] = lambda total, done: None,
    on_verdict: Callable[[], None] = lambda: None,
    whole: AbstractContextManager[Any] | None = None,
) -> Tally:
    """Grades a file of pairs; appends a line a verdict to `out`, flushed, and goes on where an earlier run stopped.

    Args:
        pairs: JSONL with a gold and a response a line, and perhaps `id` and `equal`, which are passed through.
        out: where the verdicts go, with `<out>.about.json` beside it; None keeps none of them.
        settings: policy, processes, limits.
        restart: throw away the verdicts that are there.
        on_start: called with the number of lines in all and of those done before.
        on_verdict: called after each verdict.
        whole: entered around the writing and counting of each verdict; keeps Ctrl-C from falling between the two.

    Returns:
        The counts over all verdicts, those of earlier runs included. After Ctrl-C those made so far, with
        `interrupted` set; they are in `out`.

    Raises:
        DataError: `pairs` cannot be read or holds no pair; `out` is damaged.
        RunError: `out` was made otherwise, is `pairs`, cannot be written, or another process writes it.
        RewardError: an unknown policy, or an argument out of range.
    """
    if settings.policy not in POLICIES:
        raise RewardError(f"policy {settings.policy!r} is unknown{near(settings.policy, POLICIES)}")
    check_files(pairs, out)
    total, digest = count_and_hash(pairs)
    check_columns(pairs, settings.columns)
    total = total if settings.limit is None else min(total, settings.limit)
    tally = Tally()
    with _opened(out, _identity(settings, digest), restart, tally) as file:
        done = tally.lines
        on_start(total, done)
        start = time.monotonic()
        try:
            todo = read_pairs(pairs, settings.columns, done, total)
            for pair, verdict in graded(todo, settings, max(total - done, 0)):
                with whole or nullcontext():
                    if file is not None and out is not None:
                        _append(file, verdict_line(pair, verdict), out)
                    tally.count(verdict.status, pair.passed.get("equal"), verdict.seconds, bool(pair.fault))
                    tally.start = tally.start or time.monotonic() - start
                    tally.graded += 1
                on_verdict()
        except KeyboardInterrupt:
            tally.interrupted = True
        tally.seconds = time.monotonic() - start
    return tally


def graded(
    pairs: Iterator[Pair], settings: Settings, count: int, shared: RewardPool | None = None
) -> Iterator[tuple[Pair, Verdict]]:
    """Each pair with its verdict, in order; a window of pairs is in work.

    Args:
        pairs: what to grade; one with a `fault` gets the status `fault`.
        settings: policy, processes, time limit.
        count: how many pairs there will be at most.
        shared: a pool that is there, and stays, for several files.
    """
    if not count:
        return
    if settings.workers == 0:
        for pair in pairs:
            yield pair, _malformed(pair) or grader.verify(pair.gold or "", pair.response or "", settings.policy)
        return
    from reasonrl.rewards.pool import RewardPool, default_workers

    workers = min(default_workers() if settings.workers is None else settings.workers, count)
    window: deque[tuple[Pair, Any]] = deque()
    with nullcontext(shared) if shared else RewardPool(workers=workers, time_limit=settings.time_limit) as pool:
        for pair in pairs:
            bad = _malformed(pair)
            window.append((pair, bad or pool.submit(pair.gold or "", pair.response or "", settings.policy)))
            while window and (len(window) > _WAITING_A_WORKER * workers or _is_done(window[0][1])):
                yield _result(window.popleft())
        while window:
            yield _result(window.popleft())


def _is_done(answer: Any) -> bool:
    return isinstance(answer, Verdict) or answer.done()


def _result(waiting: tuple[Pair, Any]) -> tuple[Pair, Verdict]:
    pair, answer = waiting
    return pair, answer if isinstance(answer, Verdict) else answer.result()


def _malformed(pair: Pair) -> Verdict | None:
    return Verdict("fault", SCORE_OF_STATUS["fault"], None, "", pair.fault) if pair.fault else None


def _identity(settings: Settings, digest: str) -> dict[str, Any]:
    return {
        "policy": settings.policy,
        "grader": grader.GRADER_VERSION,
        "time_limit": settings.time_limit,
        "columns": asdict(settings.columns),
        "input_sha256": digest,
    }


@contextmanager
def _opened(out: Path | None, identity: dict[str, Any], restart: bool, tally: Tally) -> Iterator[BinaryIO | None]:
    """The file of verdicts, open for appending after its last whole line; what it holds is counted."""
    if out is None:
        yield None
        return
    about = about_of(out)
    with _appending(out) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"{out}: another process is writing it -> wait for it, or give another --out") from error
        if restart:
            file.truncate(0)
        elif out.stat().st_size:
            _check_same(out, about, identity)
        try:
            write_atomically(about, (json.dumps(identity, indent=1) + "\n").encode())
        except OSError as error:
            raise _unwritable(about, error) from error
        file.truncate(whole_length(out))
        for record in read_verdicts(out):
            tally.count(record["status"], record.get("equal"), record.get("seconds") or 0.0, _was_malformed(record))
        yield file


def _appending(out: Path) -> BinaryIO:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return out.open("ab", buffering=0)
    except OSError as error:
        raise _unwritable(out, error) from error


def _append(file: BinaryIO, line: bytes, out: Path) -> None:
    """A whole line or none: what a full disk took of it is cut off again."""
    length = os.fstat(file.fileno()).st_size
    try:
        left = memoryview(line)
        while left:  # an unbuffered file may take a part
            left = left[file.write(left) :]
    except OSError as error:
        os.ftruncate(file.fileno(), length)
        raise RunError(
            f"{out}: a verdict could not be written: {error.strerror or error} -> make room; those before it are kept,"
            " and the same command goes on"
        ) from error


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(f"--out: {path} cannot be written: {error.strerror or error} -> name a file in a folder of yours")


def _was_malformed(record: dict[str, Any]) -> bool:
    return bool(record["status"] == "fault" and record.get("seconds") == 0.0)


def _check_same(out: Path, about: Path, identity: dict[str, Any]) -> None:
    """Raises RunError unless the verdicts that are there were made in the same way from the same file."""
    try:
        before = json.loads(about.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"{out} holds something, and {about.name} does not say how it was made -> give another --out, or throw it"
            " away with --restart"
        ) from error
    names = {
        "input_sha256": "the file of pairs has changed",
        "grader": "the grader's version is another",
    }
    for name, value in identity.items():
        if before.get(name) != value:
            said = names.get(name, f"{name.replace('_', ' ')} was {before.get(name)!r}, now {value!r}")
            raise RunError(f"{out} was made otherwise: {said} -> give another --out, or start over with --restart")
