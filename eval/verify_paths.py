"""Which files `reasonrl verify` may read and write: nothing is graded, made or emptied before they are checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reasonrl.errors import DataError, RunError
from reasonrl.eval.verify_lines import count_and_hash, read_verdicts

ABOUT = ".about.json"
"""What is appended to the name of a file of verdicts for the file that says how they were made."""


def about_of(out: Path) -> Path:
    """The file beside a file of verdicts that says how they were made."""
    return out.with_name(out.name + ABOUT)


def check_files(pairs: Path, out: Path | None, compare: Path | None = None) -> None:
    """Refuses files that cannot be read or written, and an output that is one of the inputs; changes nothing.

    Raises:
        DataError: `pairs` is a pipe or device, which cannot be read twice.
        RunError: `out` is no regular file, or it or its about file is `pairs` or `compare`.
    """
    if pairs.exists() and not pairs.is_file() and not pairs.is_dir():
        raise DataError(
            f"{pairs} is no regular file (a pipe or device), and the pairs are read twice -> write them into a file"
            " first: cat … > pairs.jsonl"
        )
    if out is None:
        return
    if not out.name or out.is_dir():
        raise RunError(f"--out {out} is a directory -> name a file in it, such as {out / 'verdicts.jsonl'}")
    if _is_device(out):
        raise RunError(
            f"--out {out} is no regular file, and verdicts go to one that can be resumed -> name a file; its lines can"
            " be printed afterwards with cat"
        )
    inputs = [("the file of pairs", pairs)]
    if compare is not None:
        inputs += [("the file of --compare", compare), ("the about file of --compare", about_of(compare))]
    for written in (out, about_of(out)):
        for name, read in inputs:
            if _same(written, read):
                raise RunError(f"--out {out}: it would overwrite {name}, {read} -> give another --out")


def check_compare(compare: Path, pairs: Path) -> None:
    """Refuses a file to compare with that holds no verdicts, or verdicts on other pairs.

    Raises:
        RunError: it is no such file, or its about file names another input.
        DataError: it holds something else than verdicts; `pairs` cannot be read.
    """
    fix = "give a file of verdicts that `reasonrl verify … --out` wrote"
    if not compare.is_file():
        what = "is no regular file" if compare.exists() else "does not exist"
        raise RunError(f"--compare {compare} {what} -> {fix}")
    try:
        lines = sum(1 for _ in read_verdicts(compare, fix))
    except OSError as error:
        raise RunError(f"--compare {compare}: {error.strerror or error} -> {fix}") from error
    if not lines:
        raise RunError(f"--compare {compare} holds no verdict -> {fix}")
    theirs = _read_about(compare).get("input_sha256")
    if theirs is not None and theirs != count_and_hash(pairs)[1]:
        raise RunError(
            f"--compare {compare}: its verdicts are on another input than {pairs} (input_sha256 in"
            f" {about_of(compare).name} differs) -> compare verdicts on the same file of pairs, or grade it anew"
        )


def _read_about(out: Path) -> dict[str, Any]:
    try:
        about = json.loads(about_of(out).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}


def _is_device(path: Path) -> bool:
    """Whether a path is a pipe or device, or one of the names of a process's streams, whatever they lead to."""
    parts = path.absolute().parts
    if parts[:2] == ("/", "dev") and parts[2:3] != ("shm",):
        return True
    return path.exists() and not path.is_file()


def _same(left: Path, right: Path) -> bool:
    """Whether two paths lead to one file, by links of either kind."""
    try:
        return left.samefile(right)
    except OSError:
        return left.resolve() == right.resolve()
