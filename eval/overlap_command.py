"""The work of `reasonrl overlap`: which problems of one data set stand in another."""

from __future__ import annotations

import json
from pathlib import Path

from reasonrl.data_tools import Rows, load_rows
from reasonrl.data_tools.overlap import Overlaps, find_overlaps
from reasonrl.errors import DataError
from reasonrl.observe import write_atomically

_SHOWN = 10
_WIDTH = 100


def overlap_report(
    first: str,
    second: str,
    *,
    words: int,
    share: float,
    first_column: str | None = None,
    second_column: str | None = None,
    out: Path | None = None,
) -> str:
    """Compares two data sets, writes the pairs and tells how many rows of the second are in the first.

    Args:
        first, second: a file that `load_rows` reads (JSONL, parquet, CSV), a folder of them, or the name of a suite.
        words: words of an n-gram.
        share: least share of a second row's n-grams in the first row.
        first_column, second_column: the column with the problem, where it has an unusual name.
        out: JSONL file for the pairs; it is written anew.

    Raises:
        DataError: a data set that cannot be read, or an output that is one of them.
    """
    if out is not None and out.resolve() in (Path(first).resolve(), Path(second).resolve()):
        raise DataError(f"--out {out} is one of the data sets -> name another file")
    sides = [_rows(first, first_column), _rows(second, second_column)]
    found = find_overlaps(*sides, words=words, share=share)
    if out is not None:
        lines = [json.dumps(pair.as_dict(), ensure_ascii=False) + "\n" for pair in found.pairs]
        write_atomically(out, "".join(lines).encode())
    dropped = [
        f"{rows.report.n_dropped:,} rows of {name} could not be read"
        for rows, name in zip(sides, (first, second), strict=True)
        if rows.report.n_dropped
    ]
    wrote = [] if out is None else [f"wrote {out} ({len(found.pairs):,} pairs)"]
    return "\n".join([*_told(found, first, second), *dropped, *wrote])


def _rows(name: str, column: str | None) -> Rows:
    columns = None if column is None else {"problem": column}
    if not Path(name).exists() and not any(sign in name for sign in "/*"):
        from reasonrl.eval.suites import resolve

        suites = resolve([name])
        if len(suites) != 1:
            raise DataError(f"{name} holds {len(suites)} suites -> name one of them, as {name}:{next(iter(suites))}")
        rows, _ = next(iter(suites.values())).load()
        return rows
    return load_rows(name, columns=columns, require=("problem",))


def _told(found: Overlaps, first: str, second: str) -> list[str]:
    counts, rows = found.counts(), max(1, found.second_rows)
    hit = counts["text"] + counts["ngrams"]
    same = len({pair.second for pair in found.pairs if pair.same_answer})
    lines = [
        f"{hit:,} of {found.second_rows:,} rows of {second} ({100 * hit / rows:.1f} %) overlap with the"
        f" {found.first_rows:,} rows of {first}:",
        f"  {counts['text']:,} word for word, {counts['ngrams']:,} with at least {100 * found.share:g} % of their"
        f" {found.words}-word runs; {same:,} with the same answer",
    ]
    if found.short:
        lines.append(f"  ({found.short:,} rows of {second} have fewer than {found.words} words: as whole texts only)")
    for pair in found.pairs[:_SHOWN]:
        answer = {True: "same answer", False: "another answer", None: "answer unknown"}[pair.same_answer]
        lines += [
            f"{pair.kind} {100 * pair.share:.0f} %, {answer}: {pair.first} and {pair.second}",
            f"    {_short(pair.first_text)}",
            f"    {_short(pair.second_text)}",
        ]
    if len(found.pairs) > _SHOWN:
        lines.append(f"… and {len(found.pairs) - _SHOWN:,} more pairs (--out FILE keeps them all)")
    return lines


def _short(text: str) -> str:
    # One line, and no control character of the data on the terminal.
    plain = " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
    return plain if len(plain) <= _WIDTH else f"{plain[: _WIDTH - 1]}…"
