"""The reward `exact`: what a pattern finds last, against the gold as text."""

from __future__ import annotations

import pytest

from reasonrl.errors import RewardError
from reasonrl.rewards import get_reward

LAST_LINE = {"name": "exact", "args": {"pattern": r"^#(\d)\Z"}}


def told(spec, texts, **columns):
    logged = {}
    scores = get_reward(spec)(completions=texts, log_extra=logged.__setitem__, **columns)
    return scores, logged["verdict"], logged["extracted"]


def test_the_last_match_counts_and_only_where_the_pattern_allows_it():
    texts = ["a1+1=2\n#2", "a1+1=2\n#3", "a1+1=2", "#2\nb2+1=3", "#3\n#2"]
    scores, verdicts, extracted = told(LAST_LINE, texts, answer=["2"] * 5)
    assert scores == [1.0, 0.0, 0.0, 0.0, 1.0]
    assert verdicts == ["correct", "wrong", "no_answer", "no_answer", "correct"]
    assert extracted == ["2", "3", "", "", "2"]


def test_without_a_group_the_whole_match_counts_and_golds_may_be_numbers():
    spec = {"name": "exact", "args": {"pattern": r"\w+", "gold": "word"}}
    scores, verdicts, _ = told(spec, ["say red", "say blue.", "7", "x"], word=["red", " blue ", 7, None])
    assert scores == [1.0, 1.0, 1.0, None] and verdicts[-1] == "bad_gold"


def test_a_group_that_took_no_part_is_an_empty_answer():
    scores, verdicts, extracted = told({"name": "exact", "args": {"pattern": "(a)?b"}}, ["b"], answer=["a"])
    assert (scores, verdicts, extracted) == ([0.0], ["wrong"], [""])


@pytest.mark.parametrize("pattern", ["(", 3])
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(RewardError, match=r"reward 'exact': pattern .* is none: .* -> write a regular expression"):
        get_reward({"name": "exact", "args": {"pattern": pattern}})


def test_all_groups_together_are_the_answer_where_that_is_asked_for():
    args = {"pattern": r"#[Aa](\d)[Bb](\d)(x)?\Z", "groups": "all"}
    scores, _, extracted = told({"name": "exact", "args": args}, ["#A0b5", "#a0B6", "#a5b0x"], answer=["05"] * 3)
    assert (scores, extracted) == ([1.0, 0.0, 0.0], ["05", "06", "50x"])
    with pytest.raises(RewardError, match="groups = 'some'; allowed: all, first"):
        get_reward({"name": "exact", "args": {**args, "groups": "some"}})
