"""Logs made elsewhere: layouts, what they lack, what is damaged, kills; a round trip of our own rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from eval_world import CharacterTokenizer
from rollout_world import gather, rows_of

from reasonrl.data_tools.files import BadRow, PlacedRow, read_paths
from reasonrl.errors import DataError
from reasonrl.eval.rollouts import Collected, import_logs
from reasonrl.observe.records import read_records


class Ending(CharacterTokenizer):
    eos_token_id = 3


def placed(rows: list[Any]) -> Iterator[PlacedRow]:
    return ((f"log:{number}", row) for number, row in enumerate(rows, start=1))


def read(folder: Path, rows: list[Any], **options: Any) -> Collected:
    return import_logs(placed(rows), directory=folder, **options)


def test_our_own_rows_come_back_as_they_were(tmp_path: Path) -> None:
    """Drawn, written, imported: every column but the place among the samples' ids."""
    drawn = gather(tmp_path / "drawn", n=3, template="{problem} ??")
    rows = rows_of(drawn)
    again = import_logs(read_paths(str(drawn.path), None, None, None), directory=tmp_path / "imported")
    back = rows_of(again)
    own = {"extracted", "source_id", "seed", "verdict"}
    assert [{name: value for name, value in row.items() if name not in own} for row in back] == [
        {name: value for name, value in row.items() if name not in own} for row in rows
    ]
    assert [row["seed"] for row in back] == [row["seed"] for row in rows]
    assert back[0]["prompt"] == [{"role": "user", "content": "0 + 0 = ? ??"}] and back[0]["problem"] == "0 + 0 = ?"
    assert again.statistics["imported"] == {"samples": 90, "with_verdict": 90, "set_aside": {}}
    for name in ("pass_rate", "lengths", "length_histogram", "without", "mean_logprob_sampled"):
        assert again.statistics[name] == drawn.statistics[name]


def test_what_is_missing_is_made(tmp_path: Path) -> None:
    """Verdicts, token ids, lengths; other names; a sample a row, two problems."""
    rows = [
        {"question": "1+1?", "gold": "2", "out": "It is \\boxed{2}.", "stop_reason": "eos", "model": "m", "id": 7},
        {"question": "1+1?", "gold": "2", "out": "It is \\boxed{3}.", "stop_reason": "max_tokens", "model": "m"},
        {"question": "2+2?", "gold": "4", "out": "It is \\boxed{4}.", "stop_reason": "content_filter", "model": "n"},
        {"question": "1+1?", "gold": "2", "out": "It is \\boxed{2}.", "stop_reason": "length", "model": "m"},
    ]
    columns = {"problem": "question", "answer": "gold", "text": "out"}
    collected = read(tmp_path, rows, columns=columns, texts=Ending, template="{problem}!")
    found = rows_of(collected)
    assert [row["index"] for row in found] == [0, 1, 2, 0]
    assert len({row["problem_id"] for row in found[:3]}) == 1 != len({row["problem_id"] for row in found})
    assert [row["correct"] for row in found] == [True, False, False, True]
    assert [row["reward"] for row in found] == [1.0, 0.0, 0.0, 1.0]
    assert [row["finish_reason"] for row in found] == ["stop", "length", "length", "content_filter"]
    text = list(map(ord, "It is \\boxed{2}."))
    assert [row["completion_ids"] for row in found] == [
        [*text, 3],
        list(map(ord, rows[1]["out"])),
        text,
        list(map(ord, rows[2]["out"])),
    ]
    assert all(row["length"] == len(row["completion_ids"]) and row["logprobs_sampled"] is None for row in found)
    assert found[0]["prompt_ids"] == list(map(ord, "1+1?!\n\n")) and found[0]["pass_rate"] == 1 / 3
    assert [row["model"] for row in found] == ["m", "m", "m", "n"] and found[0]["source_id"] == "7"
    assert collected.statistics["imported"] == {"samples": 4, "judged": 4, "set_aside": {}}
    assert collected.statistics["without"] == {"ids": 0, "logprobs": 4, "length": 0}


def test_rows_that_hold_several_samples(tmp_path: Path) -> None:
    row = {
        "problem_id": "a",
        "problem": "1+1?",
        "answer": "2",
        "generations": ["two", "three", "\\boxed{2}"],
        "is_correct": [True, False, None],
        "completion_ids": [[1, 2], [3], [4, 5, 6]],
        "logprobs": [[-0.5, 0.0], [-1.0], [-1.0, -2.0, -3.0]],
        "finish_reasons": ["stop", "length", "stop"],
        "level": 5,
    }
    found = rows_of(read(tmp_path, [row]))
    assert [(row["id"], row["text"], row["correct"]) for row in found] == [
        ("a#0", "two", True),
        ("a#1", "three", False),
        ("a#2", "\\boxed{2}", True),
    ]
    assert [row["completion_ids"] for row in found] == [[1, 2], [3], [4, 5, 6]] and found[2]["level"] == 5
    assert found[0]["logprobs_sampled"] == [-0.5, 0.0] and found[1]["finish_reason"] == "length"


GOOD = {
    "problem_id": "a",
    "problem": "1+1?",
    "answer": "2",
    "text": "two",
    "correct": True,
    "completion_ids": [1, 2],
    "logprobs_sampled": [-0.5, -0.25],
    "length": 2,
}
DAMAGED = {
    "logprobs_sampled: 1 numbers": {"logprobs_sampled": [-0.5]},
    "logprobs_sampled: token 1": {"logprobs_sampled": [-0.5, float("nan")]},
    "logprobs_sampled: token 0": {"logprobs_sampled": [0.7, -0.5]},
    "logprobs_sampled: is": {"logprobs_sampled": "-0.5"},
    "completion_ids: token 1": {"completion_ids": [1, -2]},
    "completion_ids: is": {"completion_ids": 3},
    "length: is 9": {"length": 9},
    "length: is '-1'": {"length": -1, "completion_ids": None, "logprobs_sampled": None},
    "correct: is 'perhaps'": {"correct": "perhaps"},
    "reward: is 'inf'": {"reward": float("inf")},
    "finish_reason: is '3'": {"finish_reason": 3},
    "text: is empty": {"text": ""},
    "text: there is no response": {"text": None},
    "answer: is '3'": {"answer": "3"},
    "answer: there is none": {"answer": None, "correct": None, "problem_id": "b"},
    "index: sample 0": {"index": 0},
    "prompt_ids: differ": {"prompt_ids": [9]},
    "missing problem": {"problem": None},
    "torn": BadRow("torn or invalid JSON"),
}


@pytest.mark.parametrize("reason", DAMAGED)
def test_a_damaged_sample_is_set_aside_and_named_or_refused(tmp_path: Path, reason: str) -> None:
    change = DAMAGED[reason]
    bad = change if isinstance(change, BadRow) else {**GOOD, "id": "here", **change}
    rows = [{**GOOD, "prompt_ids": [4, 5]}, bad, GOOD]
    collected = read(tmp_path / "aside", rows)
    assert len(rows_of(collected)) == 2 and sum(collected.statistics["imported"]["set_aside"].values()) == 1
    (line,) = read_records(tmp_path / "aside" / "set_aside.jsonl")
    assert line["place"] == "log:2" and line["reason"].startswith(reason)
    with pytest.raises(DataError, match="log:2") as refused:
        read(tmp_path / "refused", rows, damaged="refuse")
    assert reason in str(refused.value)
    with pytest.raises(DataError, match="no sample of the logs can be used"):
        read(
            tmp_path / "none",
            [bad] if reason not in ("index: sample 0", "prompt_ids: differ", "answer: is '3'") else [],
        )


def test_verdicts_of_the_log_are_taken_or_made_anew(tmp_path: Path) -> None:
    rows = [{**GOOD, "text": "\\boxed{2}", "correct": False}, {**GOOD, "text": "\\boxed{1}", "correct": None}]
    for verify, expected in (("missing", [False, False]), ("all", [True, False]), ("none", [False, None])):
        found = rows_of(read(tmp_path / verify, rows, verify=verify))
        assert [row["correct"] for row in found] == expected
    assert found[0]["reward"] == 0.0 and found[1]["reward"] is None


def test_a_stopped_import_goes_on_and_judges_nothing_twice(tmp_path: Path) -> None:
    rows = [
        {"problem": f"{number % 7}+1?", "answer": str(number % 7 + 1), "text": f"\\boxed{{{number % 5}}}"}
        for number in range(700)
    ]
    seen: list[str] = []

    def reward(completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
        texts = [one[-1]["content"] for one in completions]
        seen.extend(texts)
        return [float(text == f"\\boxed{{{right}}}") for text, right in zip(texts, answer, strict=True)]

    class Stop(Exception):
        pass

    def stop() -> None:
        if len(seen) > 400:
            raise Stop

    with pytest.raises(Stop):
        read(tmp_path / "parts", rows, reward=reward, at_safe_point=stop)
    first = len(seen)
    assert 400 < first < 700
    collected = read(tmp_path / "parts", rows, reward=reward, keep="pass_rate > 0")
    assert len(seen) == 700 and collected.statistics["before_keep"]["samples"] == 700
    whole = read(tmp_path / "whole", rows, reward=reward, keep="pass_rate > 0")
    assert whole.path.read_bytes() == collected.path.read_bytes()


def test_files_of_any_layout(tmp_path: Path) -> None:
    """JSONL with a torn line, through the reader of files; numbers of types that do not fit become text."""
    path = tmp_path / "log.jsonl"
    lines = [
        json.dumps({**GOOD, "level": 1}),
        '{"problem": "tor',
        json.dumps({**GOOD, "level": "hard", "extra": 2**70}),
    ]
    path.write_text("\n".join(lines))
    collected = import_logs(read_paths(str(path), None, None, None), directory=tmp_path / "out")
    assert [row["level"] for row in rows_of(collected)] == ["1", "hard"]
    assert rows_of(collected)[1]["extra"] == str(2**70)
    assert collected.statistics["imported"]["set_aside"] == {"torn or invalid JSON": 1}
