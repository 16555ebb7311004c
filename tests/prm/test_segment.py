"""Segmentation: exact partitions, the band of lengths, reflection words, blocks that stay whole."""

from __future__ import annotations

import sys
import time
import types
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonrl.errors import DataError, ReasonRLError
from reasonrl.prm.segment import Rules, SaTSegmenter, aligned, merge, segment
from reasonrl.prm.steps import partition_fault, steps_text

PIECES = [
    "\n\n",
    "\n",
    " ",
    ". ",
    "Wait, ",
    "wait",
    "However",
    "$$",
    "\\[",
    "\\]",
    "```",
    "x = 3",
    "Let me check",
    "é",
    "\r\n",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=40), st.integers(0, 30), st.integers(1, 60))
def test_steps_partition_any_text(pieces: list[str], shortest: int, longest: int) -> None:
    text = "".join(pieces)
    steps = segment(text, Rules(shortest, max(shortest, longest)))
    assert partition_fault(text, steps) is None
    assert bool(steps) == bool(text)


def test_paragraphs_are_merged_up_to_the_band() -> None:
    text = "\n\n".join(f"Paragraph {n}. " + "a" * 85 for n in range(10))  # about 100 characters each
    lengths = [step.end - step.start for step in segment(text, Rules(250, 400))]
    assert all(250 <= length <= 400 for length in lengths) and len(lengths) == 3
    # A rest that is too short joins the step before where both fit.
    assert [step.end for step in merge([(0, 300), (300, 350)], Rules(250, 400))] == [350]
    assert [step.end for step in merge([(0, 300), (300, 350)], Rules(250, 340))] == [300, 350]


def test_every_paragraph_is_a_step_without_a_least_length() -> None:
    text = "One.\n\nTwo\nlines.\n \nThree."
    assert steps_text(text, segment(text, Rules(0, 100))) == ["One.\n\n", "Two\nlines.\n \n", "Three."]


def test_reflection_opens_a_step_only_at_the_beginning_of_a_sentence() -> None:
    text = "So x = 5. Wait, that is wrong. I wait, however long. It is 6.\nhmm, let me check: 6.\n**Alternatively** 6."
    assert steps_text(text, segment(text)) == [
        "So x = 5. ",
        "Wait, that is wrong. I wait, however long. It is 6.\n",
        "hmm, let me check: 6.\n",
        "**Alternatively** 6.",
    ]
    assert steps_text(text, segment(text, Rules(reflection=()))) == [text]
    assert len(segment(text, Rules(reflection=("so",)))) == 1  # it opens the first step, which begins there anyway
    assert len(segment("Waiting helps. Waiter, please.")) == 1


def test_long_paragraphs_are_cut_at_lines_then_at_sentences() -> None:
    lines = "\n".join(["word " * 20] * 6)
    assert all(step.end - step.start <= 250 for step in segment(lines, Rules(100, 250)))
    sentence = "This is i. e. the number 3.5 of x. "
    text = sentence * 20
    for piece in steps_text(text, segment(text, Rules(50, 120))):
        assert piece.startswith("This") and piece.rstrip().endswith("x.")


@pytest.mark.parametrize(
    "block",
    [
        "$$\nx = 1\n\nWait, y = 2\n$$",
        "\\[\nx\n\n= 1\n\\]",
        "```python\na = 1\n\n\nHowever = 2\n```",
        "\\begin{align*}\na &= 1\n\n\\\\ b &= 2\n\\end{align*}",
    ],
)
def test_blocks_stay_whole(block: str) -> None:
    text = f"Before.\n\n{block}\n\nAfter."
    assert any(block in piece for piece in steps_text(text, segment(text, Rules(0, 10))))


def test_a_block_that_never_ends_holds_nothing_together() -> None:
    assert len(segment("A $$ b.\n\nC.\n\nD.", Rules(0, 100))) == 3


def test_degenerate_texts_take_no_longer() -> None:
    for unit in ("\\[", "```a", "$$ ", "\\begin{a}", "wait", "\n", " ", ". ", "Wait. "):
        text = unit * 40_000
        began = time.process_time()
        assert partition_fault(text, segment(text)) is None
        assert time.process_time() - began < 3, unit


def test_pieces_of_a_splitter_are_aligned_with_the_text() -> None:
    text = " One.  Two!\n\nThree "
    spans = aligned(text, ["One.", "Two! ", "", "Three"])
    assert [text[a:b] for a, b in spans] == [" One.  ", "Two!\n\n", "Three "]
    for pieces in (["One.", "Three"], ["One.", "Two!", "Thre"], ["Zwei"]):
        with pytest.raises(DataError, match="segment"):
            aligned(text, pieces)


def test_rules_that_cannot_be_are_refused() -> None:
    with pytest.raises(DataError, match="shortest = 10 and longest = 5"):
        Rules(10, 5)
    with pytest.raises(DataError, match="empty word"):
        Rules(reflection=("",))


def test_sat_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wtpsplit", None)
    with pytest.raises(ReasonRLError, match="pip install wtpsplit"):
        SaTSegmenter()


def test_sentences_of_sat_are_merged_as_the_rules_say(monkeypatch: pytest.MonkeyPatch) -> None:
    class SaT:
        """In the place of the library, which needs weights: it cuts at full stops and loses white space."""

        def __init__(self, model: str) -> None:
            if model != "sat-3l-sm":
                raise OSError(f"no model {model}")

        def split(self, text: str, **options: Any) -> list[str]:
            return [f"{part.strip()}." for part in text.split(".") if part.strip()]

    module = types.ModuleType("wtpsplit")
    module.SaT = SaT  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wtpsplit", module)
    text = "One is here. Two is there.  Wait. Three."
    assert steps_text(text, SaTSegmenter(rules=Rules(0, 100))(text)) == [
        "One is here. ",
        "Two is there.  ",
        "Wait. ",
        "Three.",
    ]
    assert len(SaTSegmenter(rules=Rules(1000, 2000))(text)) == 2
    with pytest.raises(ReasonRLError, match="name a folder"):
        SaTSegmenter("other")
