"""Extraction on real responses and worked solutions: what a model states in prose is what it boxed."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from reasonrl.latex import box_spans
from reasonrl.rewards.choice import ChoiceReward
from reasonrl.rewards.math import verify


def real_rows(name: str) -> list[dict[str, Any]]:
    """The rows of a file below the folder that REASONRL_DATA names; the test skips where there is none."""
    path = Path(os.environ.get("REASONRL_DATA", ".")) / name
    if "REASONRL_DATA" not in os.environ or not path.is_file():
        pytest.skip(f"REASONRL_DATA names no folder with {name}")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]


def unboxed(text: str) -> str:
    for box in reversed(box_spans(text)):
        text = text[: box.start] + box.content + text[box.end :]
    return text


def same_question(text: str) -> str:
    return " ".join(text.split())


def test_a_response_scores_the_same_without_its_box() -> None:
    rows = real_rows("verify_pairs/qwen_math100_response.jsonl")
    changed = [
        row["pred"][-80:]
        for row in rows
        if verify(row["gold"], row["pred"]).correct != verify(row["gold"], unboxed(row["pred"])).correct
    ]
    assert len(changed) <= 0.005 * len(rows), changed


@pytest.mark.parametrize("boxed", [True, False])
def test_labels_of_others_on_whole_responses(boxed: bool) -> None:
    golds = {
        same_question(row["question"]): row["answer"].split("####")[-1].strip()
        for row in real_rows("gsm8k/test.jsonl") + real_rows("gsm8k/train.jsonl")
    }
    golds |= {
        same_question(row["problem"]): row["answer"]
        for row in real_rows("math500/test.jsonl") + real_rows("math_train/train.jsonl")
    }
    rows = real_rows("processbench/gsm8k.jsonl") + real_rows("processbench/math.jsonl")
    rows = [row for row in rows if golds.get(same_question(row["problem"]))]
    assert len(rows) > 400
    differ = []
    for row in rows:
        text = "\n\n".join(row["steps"])
        verdict = verify(golds[same_question(row["problem"])], text if boxed else unboxed(text))
        if verdict.correct != row["final_answer_correct"]:
            differ.append((verdict.gold, verdict.extracted, text[-80:]))
    assert len(differ) <= 0.015 * len(rows), differ


def test_worked_solutions_end_in_their_gold() -> None:
    statuses: Counter[str] = Counter()
    for row in real_rows("gsm8k/test.jsonl"):
        worked, _, gold = row["answer"].rpartition("####")
        statuses[verify(gold.strip(), re.sub(r"<<[^>]*>>", "", worked)).status] += 1
    assert statuses["correct"] >= 0.985 * statuses.total(), statuses


def test_every_choice_of_a_real_set_has_its_letter_and_its_value() -> None:
    rows = [row for row in real_rows("mathvision/testmini.jsonl") if row.get("options")]
    assert len(rows) > 50
    reward = ChoiceReward()
    golds = [row["answer"] for row in rows]
    right = reward(prompts=[""] * len(rows), completions=golds, answer=golds, options=[row["options"] for row in rows])
    assert right == [1.0] * len(rows)
    values = [row["options"]["ABCDE".index(row["answer"])] for row in rows]
    boxed = [rf"\boxed{{{value}}}" for value in values]
    scores = reward(prompts=[""] * len(rows), completions=boxed, answer=golds, options=[row["options"] for row in rows])
    assert sum(score == 1.0 for score in scores) >= 0.97 * len(rows)
