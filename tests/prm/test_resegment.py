"""Segmentation by a model: whatever it replies, steps partition the text; kills and faults cost no row."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from judge_world import Act, ScriptedServer, Seen, code_in, parts_of

from reasonrl.errors import DataError, StageFailed
from reasonrl.prm.resegment import LLMSegmenter, emit, pieces_of, read_reply
from reasonrl.prm.resegment_run import segment_rows
from reasonrl.prm.segment import Rules, segment
from reasonrl.prm.steps import Step, partition_fault, spans_of, steps_from_spans
from reasonrl.rewards.judges.verdicts import Unreadable

RULES = Rules(shortest=20, longest=120)


def solution(number: int, sentences: int = 9) -> str:
    lines = [f"Line {place} of {number} adds {place}.{chr(10) if place % 3 else ' '}" for place in range(sentences)]
    return "".join(lines) + ("Wait, let me check.\n\nIt is 7 – done ✓." if number % 2 else "")


def rows_of(count: int) -> list[Any]:
    return [
        (f"r:{n}", {"id": f"s{n}", "problem": f"Add {n}.", "answer": "7", "text": solution(n)}) for n in range(count)
    ]


def pieces_in(seen: Seen) -> int:
    return len(re.findall(r"^\(\d+\) ", parts_of(seen)["solution"], re.MULTILINE))


def pairs(seen: Seen, number: int = 0) -> Act:
    """Two pieces a step."""
    return Act(json.dumps({"code": code_in(seen), "starts": [*range(1, pieces_in(seen) + 1, 2)]}))


def model_at(url: str, concurrency: int = 4, **more: Any) -> LLMSegmenter:
    settings = {"base_url": url, "model": "cutter", "max_concurrency": concurrency, "backoff": 0.01, "max_retries": 3}
    return LLMSegmenter({**settings, "price": {"input": 1.0, "output": 2.0}}, RULES, **more)


def run(folder: Path, url: str, rows: list[Any], **more: Any) -> dict[str, Any]:
    model = model_at(url, **more.pop("model", {}))
    try:
        return segment_rows(folder, lambda: rows, {}, model, **{"shard_size": 4, **more})
    finally:
        model.close()


def product(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted((folder / "rows").glob("*.jsonl")) for line in file.open()]


def test_a_model_joins_pieces_to_steps(tmp_path: Path) -> None:
    with ScriptedServer(pairs) as server:
        counts = run(tmp_path, server.url, rows_of(10))
        again = run(tmp_path, server.url, rows_of(10))
        assert again == counts and len(server.seen) == 10
    assert counts["rows"] == 10 and counts["fallen_back"] == counts["set_aside"] == 0 and counts["asked"] == 10
    assert counts["prompt_tokens"] == 100 and counts["cost"] == pytest.approx(10 * 20e-6)
    made = product(tmp_path)
    assert [row["id"] for row in made] == [f"s{n}" for n in range(10)]
    for number, row in enumerate(made):
        assert row["text"] == solution(number) and row["segmented_by"] == "cutter"
        pieces = pieces_of(row["text"])
        assert len(row["steps"]) == (len(pieces) + 1) // 2 > 3
        assert partition_fault(row["text"], steps_from_spans(row["steps"])) is None


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ({"starts": [2, 3]}, "begins with 2"),
        ({"starts": [1, 3, 3]}, "3 after 3"),
        ({"starts": [1, 40]}, "has 40, but there are"),
        ({"starts": []}, "no list of whole numbers"),
        ({"starts": [1, True]}, "no list of whole numbers"),
        ({"starts": [1]}, "at most 120 are allowed"),
        ({"cuts": [1]}, "and starts; end with it"),
        ({"steps": ["Line 0 of 0 adds 0."]}, "pieces end at character"),
        ({"steps": ["Line 1", "Line 0"]}, "word for word"),
        ({"steps": [3]}, "no list of texts"),
    ],
)
def test_what_no_partition_is_says_so(answer: dict[str, Any], wanted: str) -> None:
    text = solution(0)
    with pytest.raises(Unreadable, match=wanted):
        read_reply(json.dumps({"code": "c", **answer}), "c", text, pieces_of(text), 120)


def test_steps_may_be_given_as_texts() -> None:
    text = solution(1)
    parts = [text[step.start : step.end].strip() for step in segment(text, RULES)]
    reply = json.dumps({"code": "c", "steps": parts}, ensure_ascii=False)
    assert read_reply(reply, "c", text, pieces_of(text), 120) == segment(text, RULES)


def test_it_is_asked_again_with_the_reason_and_then_the_rules_cut(tmp_path: Path) -> None:
    told: list[str] = []

    def script(seen: Seen, number: int) -> Act:
        problem = parts_of(seen)["problem"]
        if problem == "Add 1.":
            return Act("I cannot.")
        if problem == "Add 2." and len(seen.body["messages"]) == 1:
            return Act(json.dumps({"code": code_in(seen), "starts": [1, 99]}))
        if problem == "Add 2.":
            told.append(seen.body["messages"][-1]["content"])
        return pairs(seen)

    with ScriptedServer(script) as server:
        counts = run(tmp_path, server.url, rows_of(5))
    assert counts["fallen_back"] == 1 and counts["asked"] == 3 + 3 + 2 and "has 99, but there are" in told[0]
    made = product(tmp_path)
    assert [row["segmented_by"] for row in made] == ["cutter", "rules", "cutter", "cutter", "cutter"]
    assert made[1]["steps"] == spans_of(segment(solution(1), RULES))


def test_random_replies_never_break_a_text(tmp_path: Path) -> None:
    draw = random.Random(0)

    def script(seen: Seen, number: int) -> Act:
        count = pieces_in(seen)
        starts = [draw.choice([1, 2, 0, -1]), *(draw.randint(0, count + 2) for _ in range(draw.randint(0, 8)))]
        sound = sorted({1, *draw.sample(range(1, count + 1), count // 2)})
        garbage = draw.choice([starts, sound, sound, None, {"1": 1}, [1.5]])
        return Act(json.dumps({"code": code_in(seen), "starts": garbage}))

    with ScriptedServer(script) as server:
        counts = run(tmp_path, server.url, rows_of(40), model={"re_asks": 0})
    assert 0 < counts["fallen_back"] < 40
    for number, row in enumerate(product(tmp_path)):
        assert row["text"] == solution(number)
        assert partition_fault(row["text"], steps_from_spans(row["steps"])) is None


def test_a_model_that_never_answers_ends_it_and_what_it_said_stays(tmp_path: Path) -> None:
    rows = rows_of(60)
    fails = pytest.raises(StageFailed, match="no answer 20 times in a row")
    with ScriptedServer(lambda seen, number: pairs(seen) if number < 6 else Act("no")) as ill, fails:
        run(tmp_path, ill.url, rows, model={"re_asks": 0}, shard_size=60)
    with ScriptedServer(pairs) as well:  # another: what the first was still being asked may reach it after its end
        counts = run(tmp_path, well.url, rows, shard_size=60)
        assert len(well.seen) == 60 - 6 and counts["fallen_back"] == 0
    assert len(product(tmp_path)) == 60


def test_separators_mark_the_steps_of_what_a_generator_learns(tmp_path: Path) -> None:
    rows = [
        *rows_of(4),
        ("r:4", {"id": "bad", "problem": "?", "text": "   \n "}),
        ("r:5", {"id": "none", "problem": "?"}),
    ]
    with ScriptedServer(pairs) as server:
        counts = run(tmp_path, server.url, rows, separator="\n\n")
    made = product(tmp_path)
    assert counts["rows"] == len(made) == 4 + 1 and counts["set_aside"] == 1
    for number, row in enumerate(made[:4]):
        assert row["original_text"] == solution(number) and row["solution"] == row["text"]
        parts = row["text"].split("\n\n")
        assert len(parts) == len(row["steps"]) and not any("\n" in part for part in parts)
        assert " ".join(parts).split() == solution(number).split()
        cut = [row["text"][start:end] for start, end in row["steps"]]
        assert "".join(cut) == row["text"] and all(part.endswith("\n\n") for part in cut[:-1])
    with pytest.raises(DataError, match="take another separator"):
        emit("a<s>b", [Step(0, 5)], "<s>")


KILLED = """
import json, sys
from reasonrl.prm.resegment import LLMSegmenter
from reasonrl.prm.resegment_run import segment_rows
sys.path.insert(0, sys.argv[3])
from test_resegment import RULES, rows_of
model = LLMSegmenter({"base_url": sys.argv[1], "model": "cutter", "max_concurrency": 4}, RULES)
print(json.dumps(segment_rows(__import__("pathlib").Path(sys.argv[2]), lambda: rows_of(40), {}, model, shard_size=9)))
"""


def test_kills_cost_no_row_and_few_questions(tmp_path: Path) -> None:
    draw = random.Random(1)
    with ScriptedServer(lambda seen, number: Act(pairs(seen).text, seconds=0.03)) as server:
        whole = run(tmp_path / "whole", server.url, rows_of(40), shard_size=9)
        first = len(server.seen)
        words = [sys.executable, "-c", KILLED, server.url, str(tmp_path / "killed"), str(Path(__file__).parent)]
        kills = 0
        while True:
            process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
            before = len(server.seen)
            while kills < 3 and process.poll() is None and len(server.seen) < before + draw.randint(3, 9):
                time.sleep(0.01)
            if kills < 3 and process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
                process.wait()
                continue
            assert process.wait(60) == 0
            break
        assert kills == 3
        asked = Counter(parts_of(seen)["problem"] for seen in server.seen[first:])
    assert sum(asked.values()) <= 40 + 4 * kills and len(asked) == 40
    assert product(tmp_path / "killed") == product(tmp_path / "whole") and whole["rows"] == 40
