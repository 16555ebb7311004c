"""Decontamination: planted copies are found, siblings are told apart, unrelated rows are not; the command."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.data_tools import load_rows
from reasonrl.data_tools.overlap import find_overlaps, words_of
from reasonrl.errors import DataError

_NOUNS = [
    "apple",
    "brick",
    "candle",
    "drum",
    "engine",
    "forest",
    "garden",
    "hammer",
    "island",
    "jacket",
    "kettle",
    "ladder",
    "mirror",
    "needle",
]
_VERBS = [
    "buys",
    "paints",
    "moves",
    "counts",
    "weighs",
    "sells",
    "folds",
    "hides",
    "stacks",
    "burns",
    "drops",
    "lends",
    "mends",
    "packs",
]


def _sentence(generator: random.Random) -> str:
    words = [f"{generator.choice(_VERBS)} {generator.randrange(2, 99)} {generator.choice(_NOUNS)}s" for _ in range(8)]
    return f"A man {', '.join(words)}. How many things are there?"


def _rows(name: str, count: int, seed: int) -> list[dict[str, str]]:
    generator = random.Random(seed)
    return [{"id": f"{name}{place}", "problem": _sentence(generator), "answer": str(place)} for place in range(count)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"Find $\dfrac{1}{2}\cdot x$.", r"find \(\frac12 \times x\)"),
        (r"Let $\left( a,\, b \right)$ be real.", "Let (a, b) be real!"),
        (r"There are 1,000 or 1{,}000,000 sheep", "there are 1000 or 1000000 sheep"),
        (r"the \text{greatest} \textbf{value}", "The greatest value"),
        ("ｘ² − 1", "x2 - 1"),
    ],
)
def test_copies_in_other_dress_are_the_same_words(one: str, other: str) -> None:
    left, right = (words_of(text) for text in (one, other))
    assert left == right


def test_other_numbers_and_signs_are_other_words() -> None:
    assert words_of("x + 1 = 2") != words_of("x - 1 = 2") and words_of("take 3 of 5") != words_of("take 3 of 6")


def test_planted_rows_are_found_and_no_others() -> None:
    train, test = _rows("a", 400, 1), _rows("b", 60, 2)
    train[17] |= {"problem": test[3]["problem"].upper(), "answer": test[3]["answer"]}
    train[50] |= {"problem": "Here is a story. " + test[9]["problem"] + " Explain every step of yours, please."}
    half = test[20]["problem"].split()
    train[99] |= {"problem": " ".join(half[: 3 * len(half) // 4])}
    changed = test[31]["problem"].split()
    train[123] |= {"problem": " ".join([*changed[:-9], "17", *changed[-8:]])}
    found = find_overlaps(train, test)
    assert {(pair.first, pair.second, pair.kind) for pair in found.pairs} == {
        ("a17", "b3", "text"),
        ("a50", "b9", "ngrams"),
        ("a99", "b20", "ngrams"),
        ("a123", "b31", "ngrams"),
    }
    assert found.pairs[0].same_answer is True and found.pairs[0].share == 1.0
    assert [pair.share for pair in found.pairs] == sorted((pair.share for pair in found.pairs), reverse=True)
    assert found.counts() == {"text": 1, "ngrams": 3, "none": 56} and found.second_hit == 4
    # Shares by brute force over pairs of word runs.
    for pair in found.pairs[1:]:
        ours, theirs = (words_of(text) for text in (pair.first_text, pair.second_text))
        runs = {tuple(theirs[start : start + 10]) for start in range(len(theirs) - 9)}
        held = {tuple(ours[start : start + 10]) for start in range(len(ours) - 9)}
        assert pair.share == pytest.approx(len(runs & held) / len(runs))
    assert not find_overlaps(_rows("a", 400, 3), test).pairs


def test_short_rows_are_compared_as_whole_texts() -> None:
    second = [{"id": "s", "problem": "What is 2 + 2?"}]
    assert find_overlaps([{"id": "f", "problem": "what is $2+2$"}], second).pairs[0].kind == "text"
    found = find_overlaps(
        [{"id": "f", "problem": "What is 2 + 2? And what is 3 + 3, my dear friend of numbers?"}], second
    )
    assert not found.pairs and found.short == 1
    with pytest.raises(DataError, match="at least 2 words"):
        find_overlaps(second, second, words=1)


def test_messages_are_read_where_there_is_no_problem() -> None:
    problem = _rows("a", 1, 5)[0]
    asked = {
        "id": "m",
        "prompt": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": problem["problem"]}],
    }
    assert find_overlaps([problem], [asked]).pairs[0].kind == "text"


def test_the_command_tells_and_writes_pairs(tmp_path: Path) -> None:
    train, test = _rows("a", 50, 1), _rows("b", 20, 2)
    train[5]["problem"] = test[7]["problem"] + "\x1b[31m"
    for name, rows in (("train", train), ("test", test)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["overlap", str(tmp_path / "train.jsonl"), str(tmp_path / "test.jsonl")]
    ran = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "pairs.jsonl")])
    assert ran.exit_code == 0, ran.output
    assert "1 of 20 rows" in ran.output and "(5.0 %)" in ran.output and "\x1b" not in ran.output
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert [(pair["first"], pair["second"]) for pair in pairs] == [("a5", "b7")]
    for wrong, message in (
        ([*words, "--out", words[2]], "is one of the data sets"),
        ([*words, "--words", "1"], "at least 2 words"),
        (["overlap", words[1], "no_such_suite"], "no_such_suite"),
    ):
        refused = CliRunner().invoke(main, wrong)
        assert refused.exit_code != 0 and message in refused.output and "Traceback" not in refused.output
    assert len((tmp_path / "test.jsonl").read_text().splitlines()) == 20


def test_real_sets(tmp_path: Path) -> None:
    """MATH's training rows hold none of MATH-500 word for word, but siblings with other numbers."""
    root = os.environ.get("REASONRL_DATA")
    if root is None:
        pytest.skip("REASONRL_DATA does not name the folder of real data")
    train, test = (
        load_rows(Path(root) / name, require=("problem",)) for name in ("math_train/train.jsonl", "math500/test.jsonl")
    )
    found = find_overlaps(train, test)
    assert (found.first_rows, found.second_rows) == (7498, 500)
    assert found.counts()["text"] == 0 and 10 <= found.counts()["ngrams"] <= 40
    assert find_overlaps(test, test).counts()["text"] == 500
