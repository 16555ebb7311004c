"""Alarms: each raised by a run that deserves it, none by a calm one; gradients that are no numbers are not applied."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import even_share, make_run

from reasonrl.errors import StageFailed
from reasonrl.recipe.sampling_rules import ALARMS
from reasonrl.trainers.health import alarms, finite_gradient

CALM = {
    "ratio_mean": 1.0,
    "grad_norm": 0.3,
    "advantage_std": 0.5,
    "frac_reward_zero_std": 0.4,
    "reward_std": 0.5,
    "policy_loss": -0.01,
    "value_loss": 0.1,
    "critic_grad_norm": 2.0,
    "completions/truncated_fraction": 0.2,
    "sampling/kept_token_fraction": 0.5,
    "sampling/kept_response_fraction": 0.9,
    "explained_variance": math.nan,
}


@pytest.mark.parametrize(
    ("name", "figures", "near"),
    [
        ("ratio", {"ratio_mean": 0.49}, {"ratio_mean": 0.5}),
        ("no_gradient", {"grad_norm": 0.0}, {"grad_norm": 0.0, "advantage_std": 0.0}),
        ("not_finite", {"policy_loss": math.nan}, {"explained_variance": -math.inf}),
        ("not_finite", {"critic_grad_norm": math.inf}, {}),
        ("not_finite", {"skipped_updates": 1}, {}),
        ("truncation", {"completions/truncated_fraction": 0.201}, {}),
        ("acceptance", {"sampling/kept_response_fraction": 0.49}, {}),
        ("acceptance", {"sampling/kept_token_fraction": 0.2}, {}),
    ],
)
def test_each_alarm_has_its_limit(name, figures, near):
    assert name in ALARMS
    assert [alarm.name for alarm in alarms({**CALM, **figures})] == [name]
    assert alarms({**CALM, **near}) == [] == alarms(CALM) == alarms({})
    text = str(alarms({**CALM, **figures})[0])
    assert text.startswith(f"alarm {name}: ") and " -> " in text


def test_equal_groups_are_an_alarm_when_they_last():
    equal, calm = {**CALM, "frac_reward_zero_std": 1.0}, CALM
    for lines, rings in [
        ([equal], False),
        ([equal, equal], False),
        ([equal, equal, equal], True),
        ([calm, equal, equal], False),
        ([equal, equal, equal, calm], False),
        ([equal, calm, equal, equal, equal], True),
    ]:
        assert [alarm.name for alarm in alarms(lines[-1], lines[:-1])] == (["equal_groups"] if rings else [])
    # One sample a prompt: there are no groups, and the batch stands for them.
    alone = {"reward_std": 0.0}
    assert [alarm.name for alarm in alarms(alone, [alone, alone])] == ["equal_groups"]


def test_a_calm_run_raises_none(tmp_path):
    said = []
    run = make_run(tmp_path, max_steps=4, max_completion_length=24, stop_on=["all"])
    run.trainer.health._say = said.append
    run.trainer.train()
    assert len(run.metrics) == 4 and said == []
    assert not [name for line in run.metrics for name in line if name.startswith("alarm/") or "skipped" in name]
    # One policy step a batch: the ratio is 1, and nothing is masked.
    assert [line["ratio_mean"] for line in run.metrics] == pytest.approx([1.0] * 4)
    assert [line["masked_fraction"] for line in run.metrics] == [0.0] * 4


def huge(completion_ids, **columns):
    """Rewards that float32 just holds: a step later it no longer does."""
    return [3e38 * (sum(ids) % 2) for ids in completion_ids]


def test_gradients_that_are_no_numbers_are_thrown_away(tmp_path):
    """A critic that is to learn them gets infinite gradients: it stays as it is, and the line says so."""
    run = make_run(tmp_path, rewards=[huge], normalize_advantages=False, cliprange_value=None, beta=0.0, max_steps=2)
    run.trainer.train()
    for line in run.metrics:
        assert line["alarm/not_finite"] == 1 and line["skipped_critic_updates"] == 1
        assert not math.isfinite(line["value_loss"]) and not math.isfinite(line["critic_grad_norm"])
    assert all(torch.equal(now, run.critic_start[name]) for name, now in run.critic.state_dict().items())


@pytest.mark.parametrize(("bad", "actor_steps"), [(math.nan, 1), (math.inf, 2)])
def test_a_policy_gradient_that_is_no_number_moves_nothing(tmp_path, bad, actor_steps):
    """The gradient of one weight is spoilt in the second step, as an overflow in a kernel would spoil it."""
    run = make_run(tmp_path, max_steps=3, actor_steps=actor_steps, advantage="group", learning_rate=1e-2)
    weight, passes, states = run.policy.model.layers[0].mlp.up_proj.weight, [], []

    def spoil(gradient):
        passes.append(run.trainer.state.global_step)
        return gradient * bad if run.trainer.state.global_step == 1 else gradient

    weight.register_hook(spoil)
    flush = run.metrics.append
    run.trainer.callback_handler.callbacks[-2].on_metrics = lambda line: (
        flush(line),
        states.append({name: tensor.clone() for name, tensor in run.policy.state_dict().items()}),
    )
    run.trainer.train()
    assert [line.get("skipped_updates") for line in run.metrics] == [None, actor_steps, None]
    assert [line.get("alarm/not_finite") for line in run.metrics] == [None, 1, None]
    assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())
    assert all(tensor.isfinite().all() for tensor in states[2].values())
    assert not torch.equal(states[2]["model.norm.weight"], states[1]["model.norm.weight"])
    moments = [value for state in run.trainer.optimizer.state.values() for value in state.values()]
    assert all(torch.as_tensor(value).isfinite().all() for value in moments)


def test_a_run_stops_on_what_it_is_asked_to_stop_on(tmp_path):
    said = []
    run = make_run(tmp_path, max_steps=5, max_completion_length=2, stop_on=["ratio", "truncation"])
    run.trainer.health._say = said.append
    with pytest.raises(StageFailed, match=r"step 1: stopped, as stop_on asks, by alarm truncation: \d+\.\d % of the"):
        run.trainer.train()
    assert len(run.metrics) == 1 and run.metrics[0]["alarm/truncation"] == 1
    assert len(said) == 1 and said[0].startswith("step 1: alarm truncation: ")


def test_an_alarm_is_said_when_it_begins(tmp_path):
    said = []
    run = make_run(tmp_path, max_steps=3, max_completion_length=2)
    run.trainer.health._say = said.append
    run.trainer.train()
    assert [line.get("alarm/truncation") for line in run.metrics] == [1, 1, 1] and len(said) == 1


def test_a_policy_that_runs_away_from_its_samples_is_noticed(tmp_path):
    """Many passes at a huge rate: the mean ratio of the last mini-batch collapses."""
    run = make_run(
        tmp_path,
        rewards=[lambda completion_ids, **_: [-1.0] * len(completion_ids)],
        max_steps=1,
        num_iterations=6,
        normalize_advantages=False,
        advantage="gae",
        epsilon=0.2,
        learning_rate=0.3,
        max_grad_norm=0.0,
    )
    run.trainer.train()
    assert run.metrics[0]["ratio_mean"] < 0.5 and run.metrics[0]["alarm/ratio"] == 1


def test_advantages_without_a_gradient_are_noticed(tmp_path):
    """All the policy's weights that the loss reaches are cut off from it."""
    run = make_run(tmp_path, advantage="group", max_steps=1)
    for parameter in run.policy.parameters():
        parameter.register_hook(lambda gradient: gradient * 0)
    run.trainer.train()
    assert run.metrics[0]["grad_norm"] == 0 and run.metrics[0]["alarm/no_gradient"] == 1


def test_rewards_that_never_differ_are_noticed_after_three_steps(tmp_path):
    run = make_run(tmp_path, rewards=[lambda completion_ids, **_: [0.0] * len(completion_ids)], max_steps=4)
    run.trainer.train()
    assert [line["frac_reward_zero_std"] for line in run.metrics] == [1.0] * 4
    assert [line.get("alarm/equal_groups") for line in run.metrics] == [None, None, 1, 1]


def test_unscored_samples_are_the_masked_fraction(tmp_path):
    def some(completion_ids, **columns):
        return [
            None if ids[0] % 2 else score
            for ids, score in zip(completion_ids, even_share(None, completion_ids), strict=True)
        ]

    run = make_run(tmp_path, rewards=[some], max_steps=1)
    run.trainer.train()
    lengths = [(row["length"], row["reward"] is None) for row in run.samples[1]]
    out = sum(length for length, unscored in lengths if unscored)
    assert run.metrics[0]["masked_fraction"] == pytest.approx(out / sum(length for length, _ in lengths)) and out


def test_one_wrong_number_is_found():
    weights = [torch.nn.Parameter(torch.zeros(3, 4)) for _ in range(3)]
    assert finite_gradient(weights)
    for weight in weights[:2]:
        weight.grad = torch.full((3, 4), 3e38)  # their norm is no finite number, they are
    assert finite_gradient(weights)
    for bad in (math.nan, math.inf, -math.inf):
        weights[1].grad[2, 3] = bad
        assert not finite_gradient(weights)
