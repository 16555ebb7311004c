"""What a reward may give, and what becomes of it."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import even_share, make_run

from reasonrl.errors import RewardError
from reasonrl.rewards import get_reward
from reasonrl.trainers.validation import Judged, summarize


def test_a_sample_cut_by_its_length_scores_nothing(tmp_path):
    def one(completions, **columns):
        return [1.0] * len(completions)

    run = make_run(tmp_path, rewards=[one], reward_requires_stop=True, prompts_per_step=8, max_steps=1)
    run.trainer.train()
    samples = run.samples[1]
    assert {sample["finish_reason"] for sample in samples} == {"stop", "length"}
    assert all(sample["reward"] == (1.0 if sample["finish_reason"] == "stop" else 0.0) for sample in samples)
    cut = sum(sample["finish_reason"] == "length" for sample in samples)
    assert run.metrics[0]["completions/truncated_fraction"] == pytest.approx(cut / len(samples))
    assert run.metrics[0]["reward"] == pytest.approx(1 - cut / len(samples))


def test_an_unscored_sample_moves_nothing(tmp_path):
    """The gradient with an unscored sample is the gradient of a batch that lacks it."""

    def some(completions, completion_ids, **columns):
        scores = even_share(completions, completion_ids)
        return [None if place == 3 else score for place, score in enumerate(scores)]

    run = make_run(tmp_path, rewards=[some], dtype=torch.float64, max_steps=1)
    batches = []
    original = run.trainer.update.targets

    def keep(model, batch, *rest):
        targets = original(model, batch, *rest)
        batches.append((batch, targets))
        return targets

    run.trainer.update.targets = keep
    run.trainer.train()
    batch, targets = batches[0]
    assert torch.isnan(batch.scores[3]) and batch.mask[3].sum() > 0
    assert targets.mask[3].sum() == 0 and targets.advantages[3].abs().sum() == 0
    counting = targets.advantages[targets.mask.bool()]
    assert float(counting.mean()) == pytest.approx(0, abs=1e-9)
    assert float(counting.std(unbiased=False)) == pytest.approx(1, abs=1e-9)
    assert run.metrics[0]["unscored"] == 1
    assert run.samples[1][3]["reward"] is None
    scored = [sample["reward"] for sample in run.samples[1] if sample["reward"] is not None]
    assert run.metrics[0]["reward"] == pytest.approx(sum(scored) / len(scored))


def test_a_batch_without_any_score_is_refused(tmp_path):
    run = make_run(tmp_path, rewards=[lambda completions, **columns: [None] * len(completions)])
    with pytest.raises(RewardError, match="step 1: none of the 8 responses could be scored"):
        run.trainer.train()
    assert all(distance == 0 for distance in run.moved().values())


def token_rewards(completion_ids, **columns):
    """A quarter for every third token."""
    return [[0.25 * (place % 3 == 0) for place in range(len(ids))] for ids in completion_ids]


token_rewards.token_level = True


def test_token_rewards_reach_the_returns(tmp_path):
    run = make_run(tmp_path, rewards=[even_share, token_rewards], gamma=1.0, lam=1.0, max_steps=1)
    kept = []
    original = run.trainer.update.targets
    run.trainer.update.targets = lambda *inputs: kept.append((inputs[1], original(*inputs))) or kept[-1][1]
    run.trainer.train()
    batch, targets = kept[0]
    for row, score in enumerate(batch.scores.tolist()):
        length = int(batch.mask[row].sum())
        # With gamma = lambda = 1 a token's return is the sum of what comes from it on.
        expected = [score + 0.25 * sum(place % 3 == 0 for place in range(t, length)) for t in range(length)]
        assert targets.returns[row, :length].tolist() == pytest.approx(expected, abs=1e-5)


def test_token_rewards_alone_are_enough(tmp_path):
    run = make_run(tmp_path, rewards=[token_rewards], max_steps=1)
    run.trainer.train()
    assert run.metrics[0]["reward"] == 0
    per_sample = [sum(token_rewards([range(sample["length"])])[0]) for sample in run.samples[1]]
    assert run.metrics[0]["token_reward"] == pytest.approx(sum(per_sample) / len(per_sample))
    assert run.metrics[0]["critic_grad_norm"] > 0


def test_token_rewards_of_another_length_are_refused(tmp_path):
    def short(completion_ids, **columns):
        return [[0.0] * (len(ids) - 1) for ids in completion_ids]

    short.token_level = True
    with pytest.raises(RewardError, match=r"reward short: \d+ rewards for sample 0 of \d+ tokens"):
        make_run(tmp_path, rewards=[short]).trainer.train()


def test_kl_enters_the_reward(tmp_path):
    plain = make_run(tmp_path / "a", max_steps=3, dtype=torch.float64, learning_rate=1e-2)
    held = make_run(tmp_path / "b", max_steps=3, dtype=torch.float64, learning_rate=1e-2, beta=5.0)
    plain.trainer.train()
    held.trainer.train()
    assert "kl" not in plain.metrics[0]
    assert held.metrics[0]["kl"] == pytest.approx(0, abs=1e-12)
    assert held.metrics[1]["kl"] != 0
    distance = [math.fsum(run.moved().values()) for run in (plain, held)]
    assert distance[0] != distance[1]


def test_kl_is_taken_from_every_token(tmp_path):
    run = make_run(tmp_path, max_steps=2, dtype=torch.float64, learning_rate=1e-2, beta=0.5, gamma=1.0, lam=1.0)
    kept = []
    original = run.trainer.update.targets
    run.trainer.update.targets = lambda *inputs: kept.append((inputs, original(*inputs))) or kept[-1][1]
    run.trainer.train()
    (_, batch, reference, _), targets = kept[1]
    for row, score in enumerate(batch.scores.tolist()):
        length = int(batch.mask[row].sum())
        penalties = (0.5 * (targets.logprobs[row] - reference[row]))[:length].tolist()
        expected = [score - sum(penalties[t:]) for t in range(length)]
        assert targets.returns[row, :length].tolist() == pytest.approx(expected, abs=1e-9)


def test_a_missing_reward_counts_nothing_in_training_and_validation(tmp_path):
    def sometimes(completions, completion_ids, **columns):
        return [None if place % 2 else 1.0 for place in range(len(completion_ids))]

    run = make_run(tmp_path, rewards=[even_share, sometimes], eval_rows=4, max_steps=1)
    run.trainer.train()
    assert run.metrics[0]["unscored"] == 0
    halves = [sample["reward"] >= 1 for sample in run.samples[1]]
    assert halves == [place % 2 == 0 or sample["reward"] == 1 for place, sample in enumerate(run.samples[1])]
    assert 0.5 <= run.trainer.evaluate()["eval_reward"] <= 1.5


def test_a_cut_sample_without_a_gold_stays_unscored(tmp_path):
    run = make_run(
        tmp_path,
        rewards=[lambda completions, **columns: [None, *[1.0] * (len(completions) - 1)]],
        reward_requires_stop=True,
        max_steps=1,
        max_completion_length=1,
    )
    run.trainer.train()
    assert run.samples[1][0]["reward"] is None
    assert run.metrics[0]["unscored"] == 1


def test_a_sample_without_token_rewards_is_left_out(tmp_path):
    def some(completion_ids, **columns):
        return [None if place == 2 else [0.5] * len(ids) for place, ids in enumerate(completion_ids)]

    some.token_level = True
    run = make_run(tmp_path, rewards=[even_share, some], max_steps=1)
    run.trainer.train()
    assert run.metrics[0]["unscored"] == 1
    assert run.samples[1][2]["reward"] is None and run.samples[1][2]["advantage"] == 0


def test_a_column_logged_twice_is_refused(tmp_path):
    def twice(completions, log_extra, **columns):
        for _ in range(2):
            log_extra("verdict", ["correct"] * len(completions))
        return [1.0] * len(completions)

    with pytest.raises(RewardError, match="'verdict' was logged with 16 values for 8 samples"):
        make_run(tmp_path, rewards=[twice]).trainer.train()


def test_validation_leaves_out_what_it_cannot_score():
    def judged(reward, verdict, stopped=True):
        return Judged(reward, verdict, stopped, 5)

    nan = float("nan")
    found = summarize(
        [judged(1, "correct"), judged(nan, "bad_gold"), judged(1, "correct", stopped=False), judged(0, "wrong")],
        2,
        requires_stop=True,
    )
    assert found["eval_unscored"] == 1
    assert found["eval_accuracy"] == pytest.approx((1 / 1 + 0 / 2) / 2)
    assert found["eval_reward"] == pytest.approx(1 / 3)
    with pytest.raises(RewardError, match="none of the 1 samples"):
        summarize([judged(nan, "bad_gold")], 1, requires_stop=True)


def test_rewards_learn_how_a_response_ended_in_training_and_in_validation(tmp_path):
    settings = {"reward_requires_stop": False, "prompts_per_step": 8, "max_steps": 1, "max_completion_length": 4}
    run = make_run(tmp_path, rewards=[get_reward("stop")], eval_rows=40, **settings)
    run.trainer.train()
    samples = run.samples[1]
    assert {sample["finish_reason"] for sample in samples} == {"stop", "length"}
    assert all(sample["reward"] == (sample["finish_reason"] == "stop") for sample in samples)
    validated = run.trainer.evaluate()
    assert validated["eval_reward"] == pytest.approx(1 - validated["eval_truncated_fraction"])
    assert 0 < validated["eval_truncated_fraction"] < 1
