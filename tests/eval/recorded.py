"""Evaluation folders made by hand: problems, samples and settings as the record has them, without a model."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonrl.observe.records import encode_record

EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def sample(identity: str, index: int, text: str, verdict: str = "wrong", **changed: Any) -> dict[str, Any]:
    """A sample record; `correct` and `score` follow from the verdict unless they are given."""
    right = None if verdict in ("bad_gold", "fault", "unscored") else verdict == "correct"
    row = {
        "id": identity,
        "metric": "sample",
        "index": index,
        "prompt_hash": "0" * 64,
        "seed": "1",
        "text": text,
        "finish_reason": "stop",
        "length": len(text.split()),
        "extracted": None,
        "verdict": verdict,
        "reason": "by hand",
        "right": right,
        "score": None if right is None else float(right),
        "grader": 2,
    } | changed
    row.setdefault("class", "right" if row["right"] else row["extracted"] and f"~ {row['extracted']}")
    row["correct"] = None if row["right"] is None else bool(row["right"]) and row["finish_reason"] == "stop"
    return row


def problem(identity: str, answer: str | None = "42", **columns: Any) -> dict[str, Any]:
    """A problem record; `level`, `subject` and `group` stand in it, other columns under `columns`."""
    own = {name: columns.pop(name) for name in ("level", "subject", "group", "problem", "prompt") if name in columns}
    return (
        {"id": identity, "prompt": f"What is {identity}?", "prompt_hash": "0" * 64, "answer": answer, "images": 0}
        | own
        | {"columns": columns}
    )


def write_suite(
    folder: Path,
    problems: Sequence[Mapping[str, Any]],
    samples: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the three files of a suite."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {"model": "a-model", "temperature": 0.6, "top_p": 0.95, "max_tokens": 64, "seed": 0, "reward": "math"}
    (folder / "settings.json").write_text(json.dumps(given if settings is None else settings))
    for name, rows in (("problems.jsonl", problems), ("samples.jsonl", samples)):
        (folder / name).write_bytes(b"".join(map(encode_record, rows)))
    return folder


def lively_suite(folder: Path, count: int = 60, n: int = 8, seed: int = 0, words: int = 60) -> Path:
    """A suite with every kind of sample: right, wrong, cut, empty, without an answer, unscored, hostile to a page."""
    draw = random.Random(f"{folder.name} {seed}")
    problems, samples = [], []
    for place in range(count):
        gold = str(draw.randrange(10, 999))
        level = draw.randrange(1, 6)
        columns = {"subject": draw.choice(["Algebra", "Geometry"]), "year": 2020 + place % 3} if count > 20 else {}
        problems.append(problem(f"p{place}", gold, level=f"Level {level}", **columns))
        for index in range(n):
            body = " ".join(
                hashlib.sha256(f"{place} {index} {word}".encode()).hexdigest()[:6]
                for word in range(draw.randrange(5, words))
            )
            kind = draw.random() + 0.08 * level
            cut = draw.random() < 0.15
            text, verdict, extracted = f"{body} so \\boxed{{{gold}}}", "correct", gold
            if kind > 0.75:
                text, verdict, extracted = f"{body} so \\boxed{{7}}", "wrong", "7"
            if kind > 1.1:
                text, verdict, extracted = f"{body} I do not know", "no_answer", None
            if (place, index) in ((0, 0), (1, 1)):
                text, verdict, extracted = f"{EVIL} the answer is \\boxed{{7}}", "wrong", "7"
            if (place, index) == (2, 0):
                text, verdict, extracted = "", "no_answer", None
            if (place, index) == (3, 0):
                text, verdict, extracted = f"{body} \\boxed{{7}}", "bad_gold", None
            samples.append(
                sample(
                    f"p{place}", index, text, verdict, extracted=extracted, finish_reason="length" if cut else "stop"
                )
            )
    draw.shuffle(samples)  # the order of arrival
    return write_suite(folder, problems, samples)


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
