"""What `reasonrl verify` prints: the table over a file, the explanation of one pair, differences of two files."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

from reasonrl.eval.verify_files import Tally
from reasonrl.eval.verify_lines import read_verdicts
from reasonrl.observe.metrics import format_number, format_seconds
from reasonrl.rewards import math as grader
from reasonrl.rewards.extract import after_thinking, extract_answer, extract_gold
from reasonrl.rewards.extract_gold import kind_of
from reasonrl.rewards.policy import POLICIES
from reasonrl.rewards.verdict import Verdict

_HOW = {
    "box": r"in the last \boxed{…}",
    "tag": "in the last <answer> tags",
    "hashes": "after the last ####",
    "stated": "stated as the answer",
    "whole": "the whole response",
    "prose_number": "the number that the last sentence ends in",
    "prose_letter": "the letter that the last sentence names",
    "prose_formula": "the formula that the last sentence ends in",
    "prose_words": "the words in bold in the last sentence",
}
_SHOWN = 300


def tally_table(tally: Tally, title: str) -> str:
    """The counts over a file, for a terminal."""
    rows = [("lines", f"{tally.lines:,}")]
    labelled = tally.right + tally.wrong
    if labelled:
        hits = labelled - tally.false_negatives - tally.false_positives
        rows.append(("agree with the label", f"{_share(hits, labelled)} of {labelled:,}"))
        rows.append(("false positives", f"{tally.false_positives:,} of {tally.wrong:,}"))
        rows.append(("false negatives", f"{tally.false_negatives:,} of {tally.right:,}"))
    if tally.unread:
        rows.append(("labels not read", f"{tally.unread:,} (`equal` is neither true nor false)"))
    for status, count in tally.statuses.items():
        if count or status in ("correct", "wrong"):
            rows.append((status, f"{count:,} ({_share(count, tally.lines)})"))
    if tally.malformed:
        rows.append(("of them malformed lines", f"{tally.malformed:,}"))
    if tally.graded > 1 and tally.seconds > tally.start:
        speed = format_number((tally.graded - 1) / (tally.seconds - tally.start))
        start = f"after a start of {format_seconds(tally.start)}"
        rows.append(("speed", f"{speed} pairs/s ({tally.graded:,} in {format_seconds(tally.seconds)}, {start})"))
    rows.append(("slowest verdict", f"{tally.slowest:.3f} s"))
    return _table(title, ["", ""], rows)


def explanation(gold: str, response: str, policy: str) -> tuple[Verdict, str]:
    """The verdict on one pair, and how it came about."""
    verdict = grader.verify(gold, response, policy)
    bare = extract_gold(gold)
    rows = [("gold", _short(gold))]
    if bare != gold.strip():
        rows.append(("read as", _short(bare)))
    rows.append(("its kind", kind_of(bare)))
    outside = after_thinking(response)
    dropped = len(response) - len(outside)
    rows.append(("response", f"{len(response):,} characters" + (f", {dropped:,} in think blocks" if dropped else "")))
    found = extract_answer(response, bare, POLICIES[policy])
    rows.append(("answer", "none found" if found is None else _short(found.text)))
    if found is not None:
        rows.append(("found", _HOW.get(found.how, found.how)))
    rows.append(("policy", policy))
    rows.append(("reason", verdict.reason))
    rows.append(("verdict", f"{verdict.status}, {_score(verdict)}"))
    rows.append(("time", f"{verdict.seconds:.4f} s"))
    for other in POLICIES:
        if other != policy:
            theirs = grader.verify(gold, response, other)
            rows.append((f"under {other}", f"{theirs.status}: {theirs.reason}"))
    return verdict, _table("", ["", ""], rows)


def one_line(verdict: Verdict) -> str:
    """A verdict in a line: `correct: 0.5 (exact numbers)`."""
    extracted = "" if verdict.extracted is None else f" {_short(verdict.extracted)}"
    return f"{verdict.status}:{extracted} ({verdict.reason})"


def differences(ours: Path, theirs: Path, most: int = 20) -> str:
    """Where two files of verdicts on the same pairs differ, for a terminal.

    Raises:
        DataError: one of them is no file of verdicts.
    """
    moves: Counter[tuple[str, str]] = Counter()
    examples: list[tuple[str, str, str, str]] = []
    lines = our_lines = their_lines = 0
    for left, right in zip_longest(read_verdicts(ours), read_verdicts(theirs)):
        our_lines += left is not None
        their_lines += right is not None
        if left is None or right is None:
            continue
        lines += 1
        if left["status"] != right["status"]:
            moves[right["status"], left["status"]] += 1
            if len(examples) < most:
                extracted = _short(str(left.get("extracted") or ""), 40)
                examples.append((str(left["line"]), right["status"], left["status"], extracted))
    uneven = ""
    if our_lines != their_lines:
        uneven = f"only the first {lines:,} lines are compared: {our_lines:,} here, {their_lines:,} in {theirs}\n"
    if not moves:
        return f"{uneven}no verdict of {lines:,} differs from {theirs}\n"
    counted = [(before, now, f"{count:,}") for (before, now), count in moves.most_common()]
    title = f"{sum(moves.values()):,} of {lines:,} verdicts differ from {theirs}"
    return (
        uneven
        + _table(title, ["theirs", "here", "lines"], counted)
        + _table("", ["line", "theirs", "here", "extracted here"], examples)
    )


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    output = io.StringIO()
    table = Table(box=box.SIMPLE, pad_edge=False, show_header=any(header))
    for name in header:
        table.add_column(name)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(file=output, width=110, force_terminal=False).print(table)
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    return "\n".join([title] * bool(title) + [line for line in lines if line]) + "\n"


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.1f} %" if total else "-"


def _score(verdict: Verdict) -> str:
    return "no score (masked)" if verdict.score is None else f"score {verdict.score:g}"


def _short(text: str, most: int = _SHOWN) -> str:
    shown = "".join(symbol if symbol.isprintable() else repr(symbol)[1:-1] for symbol in text[:most])
    return shown + (f" … ({len(text):,} characters)" if len(text) > most else "")
