"""Steps partition a text exactly, and end at the tokens that a plain search over characters finds."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonrl.errors import DataError
from reasonrl.prm.steps import (
    Step,
    partition_fault,
    spans_of,
    steps_from_pieces,
    steps_from_spans,
    steps_text,
    token_ends,
)

PIECES = st.lists(st.text(st.sampled_from("ab \né∑🙂"), max_size=6), max_size=8)


@given(PIECES)
def test_pieces_spans_and_texts_are_one_and_the_same(pieces):
    text = "".join(pieces)
    steps = steps_from_pieces(pieces)
    assert partition_fault(text, steps) is None
    assert steps_text(text, steps) == [piece for piece in pieces if piece]
    assert steps_from_spans(spans_of(steps)) == steps


@pytest.mark.parametrize(
    ("spans", "fault"),
    [
        ([[1, 5]], "starts at character 1, but the steps before it end at 0"),
        ([[0, 2], [3, 5]], "step 1 starts at character 3, but the steps before it end at 2"),
        ([[0, 3], [2, 5]], "step 1 starts at character 2, but the steps before it end at 3"),
        ([[0, 2], [2, 2], [2, 5]], "step 1 holds no character"),
        ([[0, 2], [2, 4]], "the steps end at character 4, but the text has 5"),
        ([[0, 2], [2, 6]], "the steps end at character 6, but the text has 5"),
        ([], "the steps end at character 0, but the text has 5"),
    ],
)
def test_what_does_not_partition_the_text_is_named(spans, fault):
    with pytest.raises(DataError, match=fault):
        steps_text("hello", steps_from_spans(spans))


@pytest.mark.parametrize("spans", [[[0]], [[0, 1, 2]], ["01"], [[0, 2.5]], [[True, 2]], [7]])
def test_spans_that_are_no_pairs_are_refused(spans):
    with pytest.raises(DataError, match=r"steps\[0\]"):
        steps_from_spans(spans)


def ends_by_search(steps, offsets, size):
    """For every character its token, for every token the step of its first character; no sweep."""
    ends = []
    for number, step in enumerate(steps):
        own = [t for t, (a, b) in enumerate(offsets) if b > a and step.start <= a < step.end]
        covered = size == 0 or any(b >= step.end for a, b in offsets if b > a)
        ends.append(-1 if not covered else own[-1] if own else (ends[-1] if number else -1))
    return ends


@given(st.data())
def test_token_ends_equal_a_search_over_characters(data):
    pieces = [piece for piece in data.draw(PIECES) if piece]
    text = "".join(pieces)
    steps = steps_from_pieces(pieces)
    cuts = data.draw(st.lists(st.integers(0, len(text)), unique=True).map(sorted))
    edges = sorted({0, *cuts, len(text)})
    offsets = list(itertools.pairwise(edges))
    # Characters of several bytes are several tokens on one span; special tokens have none.
    offsets = [pair for pair in offsets for _ in range(data.draw(st.integers(1, 2)))]
    for place in data.draw(st.lists(st.integers(0, len(offsets)), max_size=3)):
        offsets.insert(place, (0, 0))
    whole = token_ends(steps, offsets)
    assert whole == ends_by_search(steps, offsets, len(text))
    assert all(a <= b for a, b in itertools.pairwise(whole))
    # Truncated at any token: the steps that are still whole keep their ends, the others have none.
    kept = data.draw(st.integers(0, len(offsets)))
    cut = token_ends(steps, offsets[:kept])
    reached = max((end for start, end in offsets[:kept] if end > start), default=0)
    assert [end >= 0 for end in cut] == [step.end <= reached for step in steps]
    assert cut == ends_by_search(steps, offsets[:kept], len(text))


def test_a_token_over_a_boundary_goes_to_the_earlier_step():
    steps = [Step(0, 3), Step(3, 4), Step(4, 8)]
    assert token_ends(steps, [(0, 2), (2, 5), (5, 8)]) == [1, 1, 2]


def test_white_space_that_offsets_leave_out_is_no_cut_when_the_text_is_given():
    text = "one two\n\nthree \n"
    steps = [Step(0, 9), Step(9, 16)]
    offsets = [(0, 3), (4, 7), (9, 14)]
    assert token_ends(steps, offsets) == [1, -1]
    assert token_ends(steps, offsets, text) == [1, 2]
    assert token_ends(steps, offsets[:2], text) == [1, -1], "a cut before the second step"
    assert token_ends(steps, offsets[:1], text) == [-1, -1], "a cut within the first"
