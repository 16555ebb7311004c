"""Figures of label quality as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from reasonrl.prm.quality.agreeing import Agreeing, Compared, Figures
from reasonrl.prm.quality.intervals import Share


def share_text(share: Share) -> str:
    """A share in percent with its interval: `91.2 [88.0, 93.6]`."""
    if share.value is None:
        return "-"
    if share.low is None or share.high is None:
        return f"{100 * share.value:.1f}"
    return f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]"


def change_text(change: Share) -> str:
    """A change in percentage points with its interval: `-3.1 [-5.0, -1.2]`."""
    if change.value is None:
        return "-"
    if change.low is None or change.high is None:
        return f"{100 * change.value:+.1f}"
    return f"{100 * change.value:+.1f} [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"


def kappa_text(figures: Figures) -> str:
    """Kappa with its interval: `.61 [.55, .67]`."""
    found = figures.agreement
    if found.kappa is None:
        return "-"
    if found.interval is None:
        return f"{found.kappa:.2f}"
    return f"{found.kappa:.2f} [{found.interval[0]:.2f}, {found.interval[1]:.2f}]"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns put under each other; the first to the left, the others to the right."""
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]
    for row in (header, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def agreeing_lines(found: Agreeing, gold: str | None, length: str) -> Iterator[str]:
    """Everything that `compare_sets` found."""
    if gold is not None and len(found.pairs) > 1:
        yield f"against {gold}:"
        yield from _one_a_line(found.pairs, lambda pair: pair.first, True)
        yield ""
    elif len(found.pairs) > 1:
        yield from _one_a_line(found.pairs, lambda pair: f"{pair.first} and {pair.second}", False)
        yield ""
    for pair in found.pairs:
        if len(found.pairs) > 1 and "#" in pair.first + pair.second:
            continue  # single votes stand in the table above
        yield from _pair_lines(pair, gold is not None, length)
        yield ""
    for name, aside in found.aside.items():
        again = found.repeated.get(name, 0)
        yield f"{name}: {aside.rows:,} rows read"
        yield from (f"  {line}" for line in aside.lines())
        if again:
            yield f"  {again:,} rows left out: their id stands twice, and the first counts"


def _pair_lines(pair: Compared, gold: bool, length: str) -> Iterator[str]:
    yield f"{pair.first} against {pair.second}" if gold else f"{pair.first} and {pair.second}"
    if pair.missing or pair.other_steps:
        yield (
            f"  ({pair.missing:,} solutions are in one of the two alone, {pair.other_steps:,} have another text or"
            " other steps)"
        )
    if not pair.whole.agreement.n:
        yield "  no step is labelled by both"
        return
    figures = [pair.whole, *pair.parts, *pair.positions]
    yield from (f"  {line}" for line in figure_lines(figures, gold))
    if len(pair.lengths) > 1:
        yield f"  by length ({length}):"
        yield from (f"  {line}" for line in figure_lines(pair.lengths, gold))


def figure_lines(rows: Sequence[Figures], gold: bool, head: str = "steps") -> Iterator[str]:
    """A table of figures, a row each; `gold` if the second set is the truth."""
    return table((head, *_head(gold)), [[row.name, *_cells(row, gold)] for row in rows])


def _one_a_line(pairs: Sequence[Compared], name: Callable[[Compared], str], gold: bool) -> Iterator[str]:
    return table(("labels", *_head(gold)), [[name(pair), *_cells(pair.whole, gold)] for pair in pairs])


def _head(gold: bool) -> tuple[str, ...]:
    if gold:
        return ("labelled", "accuracy %", "kappa", "F1 right", "F1 wrong", "wrong called right", "right called wrong")
    return ("labelled", "agree %", "kappa", "only first right", "only second right")


def _cells(figures: Figures, gold: bool) -> list[str]:
    found = figures.agreement
    cells = [f"{found.n:,}", share_text(figures.share), kappa_text(figures)]
    if not gold:
        return [*cells, f"{found.only_first:,}", f"{found.only_second:,}"]
    f1 = [_f1(hits, found.only_first + found.only_second) for hits in (found.both_right, found.both_wrong)]
    return [*cells, *f1, _of(found.only_first, found.both_wrong), _of(found.only_second, found.both_right)]


def _f1(hits: int, faults: int) -> str:
    return f"{2 * hits / (2 * hits + faults):.3f}" if hits or faults else "-"


def _of(faults: int, others: int) -> str:
    return f"{faults:,} of {faults + others:,}"
