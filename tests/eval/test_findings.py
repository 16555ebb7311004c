"""What is told beside the figures; classes of answers; fingerprints of checkpoints; lines of a killed record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reasonrl.errors import RunError
from reasonrl.eval.answer_classes import answer_class
from reasonrl.eval.findings import findings, gold_unread
from reasonrl.fingerprint import model_fingerprint
from reasonrl.observe.records import RecordWriter, read_records


@pytest.mark.parametrize(
    ("text", "gold", "found"),
    [
        ("so the total is 42", "42", True),
        ("so the total is 42.", "$42$", True),
        ("so the total is 142", "42", False),
        ("so the total is 42.5", "42", False),
        ("<think>42</think> I do not know", "42", False),
        ("42" + " and on" * 60, "42", False),
        (r"it is $\frac{1}{2}$", r"\frac{1}{2}", True),
        ("it is 7", "7", False),
    ],
)
def test_a_gold_that_stands_at_the_end_is_seen(text: str, gold: str, found: bool) -> None:
    assert gold_unread(text, gold) is found


def test_classes_are_equal_for_equal_values_and_for_right_answers() -> None:
    half = {answer_class(text, False) for text in ("0.5", "1/2", r"\frac{1}{2}", "x = 0.5", "2/4")}
    assert half == {"= 1/2"}
    assert {answer_class(text, True) for text in ("7", "seven")} == {"right"}
    assert answer_class("0.5", False) != answer_class("0.25", False) != answer_class(r"\text{red}", False)
    assert answer_class(r"\text{red}", False) == answer_class("red", False)
    assert answer_class(None, False) is None and answer_class("5", None) is None
    assert (answer_class("9" * 4000, False) or "").startswith("~ 999"), "too long a number is named by its text"


def row(index: int, **changes: Any) -> dict[str, Any]:
    made = {"id": f"p{index}", "metric": "sample", "index": 0, "finish_reason": "stop", "text": "words", "right": False}
    return {**made, "correct": False, "verdict": "wrong", **changes}


def test_findings_name_what_happened_and_nothing_else() -> None:
    golds = {f"p{index}": "1234" for index in range(100)}

    def said(found: list[dict[str, Any]], **about: Any) -> list[str]:
        return findings(found, golds, max_tokens=8, temperature=1.0, about=about)

    assert said([row(index) for index in range(100)], rows="verified") == []
    assert said([row(index, finish_reason="length") if index < 9 else row(index) for index in range(100)]) == []
    cut = [row(index, finish_reason="length", right=index < 3) if index < 10 else row(index) for index in range(100)]
    assert said(cut) == [
        "10 of 100 samples (10.0 %) truncated at 8 tokens and counted as wrong, of which 3 held the right answer"
        " -> raise max_tokens"
    ]
    odd = [row(0, text=" \n"), row(1, text="it is 1234"), row(2, correct=None, verdict="bad_gold")]
    odd += [row(3, verdict="timeout"), row(4, finish_reason="content_filter"), *(row(index) for index in range(5, 100))]
    lines = said(odd, limited={"problems": 100, "of": 500}, rows="other")
    for words in ("first 100 of 500", "another revision", "content_filter", "empty", "misread", "limits", "left out"):
        assert sum(words in line for line in lines) == 1, words
    assert len(lines) == 7
    text = "the same long text of the problem, again and again"
    alike = [{**row(index, text=text), "index": turn} for index in range(6) for turn in (0, 1)]
    assert any("seed or temperature does not reach the engine" in line for line in said(alike))
    alike[0]["text"] = "another"
    assert said(alike) == []


def test_a_checkpoint_is_known_by_its_content_wherever_it_lies(tmp_path: Path) -> None:
    def checkpoint(name: str, weights: bytes) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(weights)
        return folder

    weights = bytes(range(256)) * 40_000
    first = model_fingerprint(checkpoint("a", weights))
    assert first == model_fingerprint(checkpoint("b", weights)) and first is not None and len(first) == 16
    assert model_fingerprint(checkpoint("c", weights[::-1])) != first
    assert model_fingerprint(checkpoint("d", weights + b"x")) != first
    assert model_fingerprint("owner/name") is None


def test_a_record_outlives_half_a_line_at_any_place(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    rows = [{"id": "a", "text": "line\u2028separator \ud83d"}, {"id": "b", "text": "ü" * 70_000}, {"id": "c"}]
    writer = RecordWriter(path)
    for one in rows:
        writer.write(one)
    with pytest.raises(RunError, match="being written by another process"):
        RecordWriter(path)
    writer.close()
    assert read_records(path) == rows
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    for cut in (0, 1, ends[0] - 1, ends[0], ends[0] + 1, ends[1] - 1, ends[1], len(whole) - 1):
        path.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends)
        assert read_records(path) == rows[:kept]
        again = RecordWriter(path)
        for one in rows[kept:]:
            again.write(one)
        again.close()
        assert path.read_bytes() == whole
    path.write_bytes(b"[]\n" + whole)
    with pytest.raises(RunError, match=r"line 1: .* is no JSON object"):
        read_records(path)
    assert json.loads(whole.splitlines()[0])["id"] == "a"
