"""The length predictor: averages by hand, drift, unseen prompts, its own switch, exact resume, order of arrival."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reasonrl.rollout.length_ranker import FEATURES, LengthRanker, prompt_features
from reasonrl.rollout.lengths import LengthPredictor, Outcome, PredictorSettings, PromptKey
from reasonrl.rollout.ranking import recall_of_longest, spearman


def step(lengths: dict[str, list[int]]) -> list[Outcome]:
    return [Outcome(PromptKey(name), length) for name, values in lengths.items() for length in values]


def world(
    seed: int, steps: int, *, drift: float = 0.0, within: float = 0.3, visible: bool = True
) -> list[list[Outcome]]:
    """Prompts of lasting difficulty, each epoch in a new order; the text shows the difficulty if `visible`."""
    generator = np.random.default_rng(seed)
    base = generator.normal(6, 0.6, 256)
    order = np.concatenate([generator.permutation(256) for _ in range(steps)])
    found = []
    for number in range(steps):
        outcomes = []
        for prompt in order[number * 32 : (number + 1) * 32].tolist():
            terms = int(6 * (base[prompt] - 3)) if visible else 8
            key = PromptKey(f"p{prompt}", "compute " + "+ 17 " * terms, 10 + 2 * terms)
            for noise in generator.normal(0, within, 8):
                outcomes.append(Outcome(key, max(1, int(math.exp(base[prompt] + drift * number + noise)))))
        found.append(outcomes)
    return found


def test_recall_by_hand():
    actual = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
    assert recall_of_longest(actual, actual) == pytest.approx(1)
    assert recall_of_longest([-value for value in actual], actual) == 0.0
    assert recall_of_longest([0, 0, 0, 0, 0, 0, 0, 0, 2, 0], actual) == pytest.approx((1 + 1 / 9) / 2)
    assert recall_of_longest([5.0] * 10, actual) == pytest.approx(0.2)
    # All are equally long: none is the longest, whatever is predicted.
    assert recall_of_longest(actual, [22] * 10) == recall_of_longest([5.0] * 10, [22] * 10) == pytest.approx(0.2)
    # Five samples were cut at the limit: any two of them are the longest, and a guess has the chance it always has.
    assert recall_of_longest([5.0] * 10, [1, 2, 3, 4, 5, 64, 64, 64, 64, 64]) == pytest.approx(0.2)
    assert recall_of_longest([0, 0, 0, 0, 0, 9, 8, 0, 0, 0], [1, 2, 3, 4, 5, 64, 64, 64, 64, 64]) == pytest.approx(1)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=1, max_size=12), st.floats(0.05, 1.0))
def test_recall_is_the_mean_over_all_ways_to_break_ties(pairs, fraction):
    """Against random picks: orders of equal predictions and of equal lengths are drawn, many times; then the scale."""
    predicted, actual = [float(p) for p, _ in pairs], [a for _, a in pairs]
    k = math.ceil(fraction * len(pairs) - 1e-9)
    generator = np.random.default_rng(0)

    def longest(values):
        return set(sorted(range(len(pairs)), key=lambda place: (-values[place], generator.random()))[:k])

    def mean_share(values):
        return float(np.mean([len(longest(values) & longest(actual)) / k for _ in range(400)]))

    chance, best = k / len(pairs), float(np.mean([mean_share(actual) for _ in range(3)]))
    if len(set(actual)) == 1 or k == len(pairs):
        assert recall_of_longest(predicted, actual, fraction) == pytest.approx(chance)
    else:
        stretched = max(0.0, chance + (1 - chance) * (mean_share(predicted) - chance) / (best - chance))
        tolerance = 0.12 * (1 - chance) / (best - chance)
        assert recall_of_longest(predicted, actual, fraction) == pytest.approx(stretched, abs=tolerance)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=2, max_size=40))
def test_spearman_is_scipys(pairs):
    predicted, actual = [float(p) for p, _ in pairs], [float(a) for _, a in pairs]
    if len(set(predicted)) == 1 or len(set(actual)) == 1:
        assert math.isnan(spearman(predicted, actual))
    else:
        assert spearman(predicted, actual) == pytest.approx(stats.spearmanr(predicted, actual).statistic)


def test_the_average_of_a_prompt_by_hand():
    predictor = LengthPredictor(PredictorSettings(decay=0.75, level_decay=0.5))
    assert predictor.predict([PromptKey("a")]) == [1.0]
    predictor.observe(step({"a": [100, 400], "b": [50, 50]}))
    # Log-means: a log 200, b log 50; the level is log 100; a prompt seen once is predicted by its own mean.
    assert predictor.predict([PromptKey("a"), PromptKey("b")]) == pytest.approx([200, 50])
    predictor.observe(step({"a": [800]}))
    # Level: half way (in logs) from 100 to 800; a's average: 3/4 of log 2 and 1/4 of log(800 / level).
    level = math.sqrt(100 * 800)
    assert predictor.predict([PromptKey("a")])[0] == pytest.approx(level * 2**0.75 * (800 / level) ** 0.25)
    assert predictor.predict([PromptKey("b")])[0] == pytest.approx(level / 2)


def test_seen_prompts_are_ranked_although_lengths_grow():
    outcomes = world(0, 24, drift=0.1, visible=False)
    predictor = LengthPredictor()
    qualities = [predictor.observe(one) for one in outcomes]
    assert np.mean([quality.recall for quality in qualities[8:]]) > 0.65
    # The same averages without a level: how long each prompt was when it was last seen.
    stale, recalls = {}, []
    for number, one in enumerate(outcomes):
        if number >= 8:
            guess = [stale[outcome.prompt.id] for outcome in one]
            recalls.append(recall_of_longest(guess, [outcome.length for outcome in one]))
        lengths: dict[str, list[float]] = {}
        for outcome in one:
            lengths.setdefault(outcome.prompt.id, []).append(math.log(outcome.length))
        for name, values in lengths.items():
            stale[name] = 0.5 * stale.get(name, np.mean(values)) + 0.5 * np.mean(values)
    assert np.mean([quality.recall for quality in qualities[8:]]) > np.mean(recalls) + 0.02


def test_unseen_prompts_are_ranked_by_what_they_show():
    shown, hidden = LengthPredictor(), LengthPredictor()
    first = [shown.observe(one).recall for one in world(1, 8)][2:]  # one epoch: every prompt is new
    blind = [hidden.observe(one).recall for one in world(1, 8, visible=False)][2:]
    assert np.mean(first) > 0.6 and shown.enabled
    assert np.mean(blind) < 0.4 and not hidden.enabled
    assert shown.metrics()["lengths/seen_fraction"] == 0.0


def test_the_policy_goes_off_and_on_again_and_says_so():
    predictor = LengthPredictor(PredictorSettings(recall_decay=0.0))
    rising = {f"p{place}": [10 * (place + 1)] for place in range(10)}
    assert not predictor.enabled and predictor.metrics() == {}
    predictor.observe(step(rising))
    assert not predictor.enabled  # nothing has been predicted yet
    predictor.observe(step(rising))
    assert predictor.enabled and predictor.metrics()["lengths/dispatch_on"] == 1.0
    predictor.observe(step({name: [110 - values[0]] for name, values in rising.items()}))
    assert not predictor.enabled and predictor.metrics()["lengths/dispatch_on"] == 0.0
    assert predictor.metrics()["lengths/recall"] == 0.0 and predictor.metrics()["lengths/spearman"] < -0.99
    for _ in range(4):
        predictor.observe(step({name: [110 - values[0]] for name, values in rising.items()}))
    assert predictor.enabled


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.randoms(use_true_random=False))
def test_resumed_from_json_it_goes_on_to_the_last_bit_in_any_order_of_arrival(cut, shuffler):
    outcomes = world(2, 7)
    whole, first = LengthPredictor(), LengthPredictor()
    for one in outcomes:
        whole.observe(one)
    for one in outcomes[:cut]:
        first.observe(one)
    resumed = LengthPredictor.from_state(json.loads(json.dumps(first.state(), allow_nan=False)))
    assert repr(resumed.metrics()) == repr(first.metrics())  # NaN after one step, where nothing was predicted
    for one in outcomes[cut:]:
        arrived = list(one)
        shuffler.shuffle(arrived)
        resumed.observe(arrived)
    prompts = [outcome.prompt for one in outcomes for outcome in one] + [PromptKey("new", "solve 12 + 3", 9)]
    assert resumed.predict(prompts) == whole.predict(prompts)
    assert resumed.state() == whole.state() and resumed.metrics() == whole.metrics()


def test_the_ranker_is_ridge_regression():
    generator = np.random.default_rng(3)
    features = generator.normal(size=(80, FEATURES))
    features[:, 0] = 1
    targets = generator.normal(size=80)
    ranker = LengthRanker(fading=1.0, penalty=2.0)
    ranker.learn(features[:30], targets[:30].tolist())
    ranker.learn(features[30:], targets[30:].tolist())
    # As least squares over rows that are added for the penalty; the constant is not penalised.
    extra = math.sqrt(2.0) * np.eye(FEATURES)[1:]
    weights = np.linalg.lstsq(np.vstack([features, extra]), np.concatenate([targets, np.zeros(len(extra))]))[0]
    assert ranker.predict(features) == pytest.approx(features @ weights, abs=1e-6)


def test_features_are_the_same_in_every_process():
    found = prompt_features("Find \\frac{1}{2} + 3x = 7?\nShow it.", 12)
    assert found.shape == (FEATURES,) and found[0] == 1
    # tokens; words find frac x show it; numbers 1 2 3 7; digits; operators + =; one command; braces; ?; line break; $
    assert np.expm1(found[1:11]) == pytest.approx([12, 5, 4, 4, 2, 1, 4, 1, 1, 0])
    assert float(found[11:] @ found[11:]) == pytest.approx(1)
    assert prompt_features("", 0)[1:].tolist() == [0.0] * (FEATURES - 1)
    program = (
        "from reasonrl.rollout.length_ranker import prompt_features;"
        "print(prompt_features('one train leaves at noon', 5).tolist())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {f"{prompt_features('one train leaves at noon', 5).tolist()}\n"}


def test_errors_say_what_is_wrong():
    predictor = LengthPredictor()
    with pytest.raises(ValueError, match=r"'a'.*0 tokens"):
        predictor.observe(step({"a": [0]}))
    with pytest.raises(ValueError, match="without samples"):
        predictor.observe([])
    with pytest.raises(ValueError, match="version 99"):
        LengthPredictor.from_state({"version": 99})
    with pytest.raises(ValueError, match="decay = 1"):
        PredictorSettings(decay=1.0)
