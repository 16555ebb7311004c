"""Completions on disk."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest

from reasonrl.observe import CompletionsWriter, completion_files, read_parquet


def rows(step: int) -> list[dict[str, object]]:
    prompt = [{"role": "user", "content": "2 + 2?"}]
    return [
        {
            "id": f"p{step}",
            "prompt": prompt,
            "text": "\\boxed{4} é",
            "verdict": "correct",
            "reward": 1.0,
            "advantage": 0.7,
            "length": 9,
            "finish_reason": "stop",
        },
        {
            "id": f"p{step}",
            "prompt": prompt,
            "text": "",
            "verdict": "no_answer",
            "reward": None,
            "advantage": -0.7,
            "length": 0,
            "finish_reason": "length",
            "note": "x",
        },
    ]


def test_rows_read_back_with_plain_pandas(tmp_path: Path) -> None:
    path = CompletionsWriter(tmp_path / "completions").write(10, rows(10))
    assert path == tmp_path / "completions" / "step_000010.parquet"
    table = pandas.read_parquet(path)
    assert list(table["verdict"]) == ["correct", "no_answer"] and list(table["length"]) == [9, 0]
    assert table["reward"].isna().tolist() == [False, True] and table["text"][0] == "\\boxed{4} é"
    assert read_parquet(path)[1]["note"] == "x" and read_parquet(path)[0]["note"] is None
    assert read_parquet(path)[0]["prompt"] == [{"role": "user", "content": "2 + 2?"}]


def test_truncate_after_removes_later_steps_and_leftovers(tmp_path: Path) -> None:
    writer = CompletionsWriter(tmp_path)
    for step in (2, 4, 1_000_006):
        writer.write(step, rows(step))
    (tmp_path / ".step_000009.parquet.77.tmp").write_bytes(b"half")
    assert list(completion_files(tmp_path)) == [2, 4, 1_000_006]
    assert writer.truncate_after(3) == 2
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step_000002.parquet"]
    assert completion_files(tmp_path / "nowhere") == {}


def test_what_cannot_be_written_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    writer = CompletionsWriter(tmp_path)
    with pytest.raises(ValueError, match=r"column 'reward' .* mixes types"):
        writer.write(1, [{"reward": 1.0}, {"reward": "high"}])
    with pytest.raises(ValueError, match="no rows"):
        writer.write(1, [])
    with pytest.raises(ValueError, match="must not be negative"):
        writer.write(-1, rows(0))
    assert completion_files(tmp_path) == {}
