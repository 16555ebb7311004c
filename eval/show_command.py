"""The work of `reasonrl show`: one completion or sample, to be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from reasonrl.errors import DataError
from reasonrl.plays import PlayForm, form_of


def read_shown(path: Path) -> list[dict[str, Any]]:
    """The rows of a completions file (parquet), of a file of samples (JSON lines), or of a suite's folder, samples with
    the prompts and answers that stand beside them.

    Raises:
        DataError: it holds none.
    """
    from reasonrl.eval.samples import PROBLEMS, SAMPLES, read_problems, read_samples
    from reasonrl.observe.completions import read_parquet
    from reasonrl.observe.records import iter_records

    folder = path if path.is_dir() else path.parent
    if (path.is_dir() or path.name == SAMPLES) and (folder / PROBLEMS).is_file():
        problems = read_problems(folder)
        return [
            {**{name: problems[row["id"]].get(name) for name in ("prompt", "answer")}, **row}
            for row in read_samples(folder)
        ]
    if not path.is_file():
        raise DataError(f"{path} is no file of completions -> name a completions/step_….parquet or a suite's folder")
    rows = read_parquet(path) if path.suffix == ".parquet" else list(iter_records(path))
    if not rows or not any("text" in row for row in rows):
        raise DataError(f"{path} holds no rows with a column `text` -> name a file of completions or samples")
    return rows


def show(
    path: Path,
    row: int,
    marks: dict[str, Any],
    *,
    colour: bool,
    width: int,
    html: Path | None = None,
    say: Callable[[str], None],
) -> None:
    """Shows one row, or writes it as a page.

    Args:
        path: as `read_shown` takes it.
        row: its place from 0; below 0 from the end.
        marks: of the play, where they are not the usual ones: play, answer, scene, speaker.
        colour, width: of the terminal.
        html: a file for a page of the row instead.
        say: takes the text.

    Raises:
        DataError: there is no such row, or a mark is no regular expression.
    """
    rows = read_shown(path)
    if not -len(rows) <= row < len(rows):
        raise DataError(f"{path} has {len(rows):,} rows, and there is no row {row} -> 0 to {len(rows) - 1}")
    form = _form(marks)
    if html is not None:
        from reasonrl.observe.metrics import write_atomically
        from reasonrl.observe.play_page import play_page

        write_atomically(html, play_page(rows[row], form, title=f"{path.name}, row {row}").encode("utf-8", "replace"))
        say(f"written to {html}")
        return
    from reasonrl.observe.plays import show_row

    say(show_row(rows[row], form, colour=colour, width=width).rstrip("\n"))


def _form(marks: dict[str, Any]) -> PlayForm | None:
    given = {name: value for name, value in marks.items() if value is not None}
    try:
        return form_of(**given) if given else None
    except ValueError as problem:
        raise DataError(f"--{problem}") from problem
