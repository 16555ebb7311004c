"""LiveCodeBench's files as they lie on the hub (`test.jsonl`, `test2.jsonl`, …), read without running anything of them.

Jain et al. 2024, arXiv 2403.07974. Hidden tests are stored as JSON, or as JSON in a pickle, compressed and in base64.
Only a text is ever taken out of such a pickle: one that names any class or function is refused.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reasonrl.errors import DataError

_LARGEST = 1 << 30


class _TextOnly(pickle.Unpickler):
    """Reads plain values; whatever would import something is refused."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of one file, with `problem`, `tests`, `fn_name` (where a function is called) and the file's own columns.

    Raises:
        DataError: a line is not what LiveCodeBench writes.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip():
                try:
                    yield _row(json.loads(line))
                except (ValueError, KeyError, TypeError, zlib.error, pickle.UnpicklingError, EOFError) as problem:
                    raise DataError(
                        f"{path}:{number}: no row of LiveCodeBench: {type(problem).__name__}: {problem} -> get the file"
                        " anew from livecodebench/code_generation_lite"
                    ) from problem


def _row(raw: dict[str, Any]) -> dict[str, Any]:
    tests = [*_tests(raw["public_test_cases"]), *_tests(raw["private_test_cases"])]
    starter = raw.get("starter_code") or ""
    problem = raw["question_content"]
    if starter:
        problem = f"{problem}\n\nComplete this code:\n```python\n{starter}\n```"
    else:
        problem = f"{problem}\n\nThe program reads from standard input and writes to standard output."
    named = json.loads(raw.get("metadata") or "{}").get("func_name")
    told = ("question_title", "platform", "contest_id", "contest_date", "difficulty")
    row = {"id": str(raw["question_id"]), "problem": problem, "tests": tests}
    return row | {key: raw[key] for key in told if key in raw} | ({"fn_name": named} if named else {})


def _tests(cell: str) -> list[dict[str, Any]]:
    if not cell.lstrip().startswith("["):
        cell = _unpacked(cell)
    tests = json.loads(cell)
    if not isinstance(tests, list) or not all(isinstance(test, dict) and "input" in test for test in tests):
        raise ValueError(f"tests are not a list of input and output: {str(tests)[:80]}")
    return tests


def _unpacked(cell: str) -> str:
    try:
        packed = base64.b64decode(cell, validate=True)
    except binascii.Error as problem:
        raise ValueError(f"hidden tests are neither JSON nor base64: {problem}") from problem
    machine = zlib.decompressobj()
    plain = machine.decompress(packed, _LARGEST)
    if machine.unconsumed_tail:
        raise ValueError(f"hidden tests are larger than {_LARGEST} bytes")
    text = _TextOnly(io.BytesIO(plain)).load()
    if not isinstance(text, str):
        raise ValueError(f"hidden tests are a {type(text).__name__}, where text was expected")
    return text
