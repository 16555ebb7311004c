"""Rewards of length and repetition: numbers against formulas written out here, languages, cost."""

from __future__ import annotations

import math
import random
import time
from typing import Any

import pytest

from reasonrl.errors import RewardError
from reasonrl.rewards import get_reward
from reasonrl.rewards.repetition import ngram_ranks, words_of


def band(text: str, tokens: int = 0, **args: Any) -> float:
    scores = get_reward({"name": "length_band", "args": args})(completions=[text], completion_ids=[[7] * tokens])
    return float(scores[0])


def test_overlong_is_length() -> None:
    args = {"max_tokens": 10, "buffer_tokens": 4}
    ids = [[0] * count for count in (5, 7, 12)]
    scores = [
        get_reward({"name": name, "args": args})(completions=["x"] * 3, completion_ids=ids)
        for name in ("length", "overlong")
    ]
    assert scores[0] == scores[1] == [0.0, -0.25, -1.0]


@pytest.mark.parametrize(
    ("tokens", "hard", "soft"), [(0, 0, 0.5), (2, 0, 0.75), (4, 1, 1), (8, 1, 1), (9, 0, 0.875), (20, 0, 0)]
)
def test_a_band_of_the_whole_response(tokens: int, hard: float, soft: float) -> None:
    assert band("x", tokens, min_tokens=4, max_tokens=8) == hard
    assert band("x", tokens, min_tokens=4, max_tokens=8, ramp_tokens=8) == soft


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think>one two</think> five", 1),
        ("<think>one two three four</think> five", 0),
        ("<think> \n</think> five", 0),
        ("<think>one two", 0),
        ("five", 0),
        ("one two</think> five", 1),  # the template has opened the block
        ("<think>one</think> then <think>two words</think> five", 0),  # all up to the last end counts
    ],
)
def test_thinking_neither_empty_nor_too_long(text: str, score: float) -> None:
    assert band(text, part="think", max_tokens=3, unit="words") == score


def test_tokens_of_the_thinking() -> None:
    reward = get_reward({"name": "length_band", "args": {"part": "think", "max_tokens": 3, "end_ids": [8, 9]}})
    text = "<think>a</think> and a long answer"
    assert reward(completions=[text] * 2, completion_ids=[[1, 2, 3, 8, 9, 5, 5], [1, 2, 3, 4, 8, 9]]) == [1.0, 0.0]
    half = "<think>" + "a" * 15 + "</think>" + "b" * 10  # 15 of 40 characters
    assert band(half, 8, part="think", max_tokens=3) == 1 and band(half, 9, part="think", max_tokens=3) == 0
    with pytest.raises(RewardError, match="no completion_ids"):
        get_reward({"name": "length_band", "args": {"max_tokens": 3}})(completions=["x"])


def test_cosine_is_the_papers_formula() -> None:
    def formula(right: bool, t: int, top: int) -> float:
        low, high = (1.0, 2.0) if right else (0.0, -10.0)
        return low + 0.5 * (high - low) * (1 + math.cos(t * math.pi / top))

    reward = get_reward({"name": "cosine", "args": {"max_tokens": 20}})
    lengths = [0, 1, 7, 19, 20, 30]
    batch = {"completion_ids": [[0] * n for n in lengths], "answer": ["5"] * 6}
    assert (
        reward(completions=[r"\boxed{5}"] * 6, **batch)
        == [pytest.approx(formula(True, t, 20)) for t in lengths[:4]] + [-10.0] * 2
    )
    assert (
        reward(completions=[r"\boxed{6}"] * 6, **batch)
        == [pytest.approx(formula(False, t, 20)) for t in lengths[:4]] + [-10.0] * 2
    )
    assert reward(completions=["x"], completion_ids=[[1]], answer=[""]) == [None]
    own = {
        "max_tokens": 10,
        "correct": [1, 0.5],
        "wrong": [-1, -0.5],
        "exceed": -2,
        "reward": {"name": "format", "args": {"style": "boxed"}},
        "unit": "characters",
    }
    scores = get_reward({"name": "cosine", "args": own})(completions=[r"\boxed{5}", "12345", "x" * 11])
    assert scores == [pytest.approx(0.5 + 0.25 * (1 + math.cos(0.9 * math.pi))), pytest.approx(-0.75), -2.0]
    for args in ({"max_tokens": 0}, {"max_tokens": 5, "wrong": [1]}, {"max_tokens": 5, "reward": "mth"}):
        with pytest.raises(RewardError):
            get_reward({"name": "cosine", "args": args})


def test_cosine_logs_what_its_correctness_logs() -> None:
    extra: dict[str, Any] = {}
    metrics: dict[str, Any] = {}
    reward = get_reward({"name": "cosine", "args": {"max_tokens": 20}})
    logs = {"log_extra": extra.__setitem__, "log_metric": metrics.__setitem__}
    reward(
        completions=[r"\boxed{5}", r"\boxed{6}"],
        completion_ids=[[1]] * 2,
        answer=["5", "5"],
        **logs,
    )
    assert extra["verdict"] == ["correct", "wrong"] and metrics["verdict/correct"] == 0.5


def by_hand(units: list[Any], size: int, most: float) -> float:
    grams = [tuple(units[start : start + size]) for start in range(len(units) - size + 1)]
    return most * (1 - len(set(grams)) / len(grams)) if grams else 0.0


def test_repetition_is_the_share_of_ngrams_seen_before() -> None:
    rng = random.Random(1)
    for size in (1, 2, 3, 5, 8, 40):
        reward = get_reward({"name": "repetition", "args": {"ngram_size": size, "max_penalty": -0.5}})
        on_tokens = get_reward({"name": "repetition", "args": {"ngram_size": size, "unit": "tokens"}})
        for _ in range(20):
            words = [rng.choice("ab") for _ in range(rng.randint(0, 60))]
            assert reward(completions=[" ".join(words)]) == [pytest.approx(by_hand(words, size, -0.5))]
            ids = [[ord(word) for word in words]]
            assert on_tokens(completions=["x"], completion_ids=ids) == [pytest.approx(by_hand(words, size, -1.0))]
    assert reward(completions=["one two three", ""]) == [0.0, 0.0]
    again = get_reward("repetition")
    assert (
        again(completions=["Yes no maybe. " * 30])[0] < -0.8
        and again(completions=["我们先看第一个问题然后再看第二个"])[0] > -0.1
    )
    assert again(completions=["我们先看" * 30])[0] < -0.9 and again(completions=["1+1+1+1+1+1+1+1+1+1"])[0] < -0.7


def test_words_of_any_language() -> None:
    assert words_of("It's 3.5x, café!") == ["it", "'", "s", "3", ".", "5x", ",", "café", "!"]
    assert words_of("我们 看see") == ["我", "们", "看", "see"] and words_of("Привет МИР") == ["привет", "мир"]
    assert len(words_of("สวัสดี")) == 6 and words_of("かな") == ["か", "な"] and words_of(" \n") == []


def test_repetition_of_tokens_paints_every_repeated_one() -> None:
    reward = get_reward(
        {"name": "repetition", "args": {"ngram_size": 2, "max_penalty": -0.05, "unit": "tokens", "per_token": True}}
    )
    assert reward.token_level
    ids = [[1, 2, 3, 1, 2, 1, 2, 9], [1, 2], [5, 5, 5, 5], []]
    p = -0.05
    assert reward(completions=["x"] * 4, completion_ids=ids) == [[0, 0, 0, p, p, p, p, 0], [0, 0], [0, p, p, p], []]
    for args, message in (
        ({"max_penalty": 1}, "0 or less"),
        ({"ngram_size": 0}, "1 or more"),
        ({"per_token": True}, "set unit: tokens"),
    ):
        with pytest.raises(RewardError, match=message):
            get_reward({"name": "repetition", "args": args})


def test_ngram_numbers_are_those_of_tuples() -> None:
    rng = random.Random(2)
    for _ in range(50):
        units, size = [rng.randint(0, 2) for _ in range(rng.randint(0, 40))], rng.randint(1, 12)
        ranks = ngram_ranks(units, size)
        grams = [tuple(units[start : start + size]) for start in range(len(units) - size + 1)]
        assert [[a == b for b in ranks] for a in ranks] == [[a == b for b in grams] for a in grams]


def test_long_responses_take_no_long_time() -> None:
    started = time.process_time()
    get_reward({"name": "repetition", "args": {"ngram_size": 512}})(completions=["a b " * 50_000])
    for style in ("think", "think_answer", "boxed"):
        reward = get_reward({"name": "format", "args": {"style": style}})
        for text in (
            "<think> " + "a " * 50_000 + "</think>" + " " * 20_000,
            "<think>" * 20_000,
            "<think>x</think><answer>" * 9_000,
        ):
            assert reward(completions=[text]) == [0.0]
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("overlong", {"max_tokens": "x", "buffer_tokens": 4}, "max_tokens='x' must be a whole number"),
        ("length", {"max_tokens": 8, "buffer_tokens": None}, "buffer_tokens=None must be a whole number"),
        ("length_band", {"max_tokens": 8.5}, "max_tokens=8.5 must be a whole number"),
        ("length_band", {"max_tokens": 8, "min_tokens": "1"}, "min_tokens='1' must be a whole number"),
        ("length_band", {"max_tokens": 8, "ramp_tokens": True}, "ramp_tokens=True must be a whole number"),
        ("cosine", {"max_tokens": [8]}, r"max_tokens=\[8\] must be a whole number"),
    ],
)
def test_an_argument_that_is_no_whole_number_is_named(name: str, args: dict[str, Any], said: str) -> None:
    with pytest.raises(RewardError, match=said):
        get_reward({"name": name, "args": args})
