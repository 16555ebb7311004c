"""The PPO trainer against a plain script, and planted faults that the comparison must catch."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from helpers import TINY, make_run, movement_gap

from reasonrl.models import ScalarHeadModel, load_policy, tiny_path
from reasonrl.trainers import batch as batch_module
from reasonrl.trainers import update as update_module

SETTINGS = {
    "prompts_per_step": 4,
    "num_generations": 4,
    "max_steps": 3,
    "max_completion_length": 12,
    "actor_steps": 2,
    "num_iterations": 2,
    "critic_steps": 4,
    "gamma": 0.97,
    "lam": 0.9,
    "cliprange_value": 0.02,
    "learning_rate": 3e-3,
    "critic_learning_rate": 1e-2,
    "adam_beta2": 0.95,
    "tokens_per_microbatch": 150,
}


def load_oracle():
    spec = importlib.util.spec_from_file_location("ppo_oracle", Path(__file__).parents[1] / "oracles" / "ppo.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["ppo_oracle"] = module
    spec.loader.exec_module(module)
    return module


def train(tmp_path, **changes):
    """A trained run in float64, with the rollout batches it trained on."""
    run = make_run(tmp_path, dtype=torch.float64, **{**SETTINGS, **changes})
    batches = []
    original = run.trainer.update.targets

    def keep_batch(model, batch, *rest):
        batches.append(batch)
        return original(model, batch, *rest)

    run.trainer.update.targets = keep_batch
    run.trainer.train()
    return run, batches


def episodes_of(oracle, batches):
    return [
        [
            oracle.Episode(ids[:prompt].tolist(), ids[prompt:].tolist(), score)
            for ids, prompt, score in zip(batch.sequences, batch.prompt_lengths, batch.scores.tolist(), strict=True)
        ]
        for batch in batches
    ]


def run_oracle(run, batches):
    oracle, args = load_oracle(), run.trainer.args
    policy, _ = load_policy(TINY, dtype=torch.float64)
    critic = ScalarHeadModel.from_pretrained(tiny_path(TINY), dtype=torch.float64, seed=3)
    policy.load_state_dict(run.start)
    critic.load_state_dict(run.critic_start)
    settings = oracle.Settings(
        seed=args.seed,
        stage=args.stage_name,
        actor_steps=args.actor_steps,
        critic_steps=args.critic_steps,
        epochs=2,
        gamma=args.gamma,
        lam=args.lam,
        epsilon=args.epsilon,
        cliprange_value=args.cliprange_value,
        learning_rate=args.learning_rate,
        critic_learning_rate=args.critic_learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        adam_epsilon=args.adam_epsilon,
        max_grad_norm=args.max_grad_norm,
    )
    clipped = oracle.train(policy, critic, episodes_of(oracle, batches), settings)
    return policy.state_dict(), critic.state_dict(), clipped


def gaps(run, batches):
    policy, critic, clipped = run_oracle(run, batches)
    return (
        movement_gap(run.start, run.policy.state_dict(), policy),
        movement_gap(run.critic_start, run.critic.state_dict(), critic),
        clipped,
    )


def test_the_trainer_walks_the_oracles_path(tmp_path):
    run, batches = train(tmp_path)
    policy_gap, critic_gap, clipped = gaps(run, batches)
    lengths = {len(ids) - p for b in batches for ids, p in zip(b.sequences, b.prompt_lengths, strict=True)}
    assert len(lengths) >= 5, "the responses must be ragged"
    assert clipped >= 0.05, "the value clip must be active, or it is not tested"
    assert any(line["clip_fraction"] > 0 for line in run.metrics), "the policy clip must be active"
    assert policy_gap <= 1e-9
    assert critic_gap <= 1e-9


def off_by_one_values(monkeypatch):
    original = update_module.PPOUpdate.values
    monkeypatch.setattr(update_module.PPOUpdate, "values", lambda self, batch: original(self, batch).roll(-1, dims=1))


def missing_mask(monkeypatch):
    original = update_module.masked_moments
    monkeypatch.setattr(update_module, "masked_moments", lambda x, mask: original(x, torch.ones_like(mask)))


def wrong_denominator(monkeypatch):
    original = update_module.token_weights

    def per_row_count(mask, **settings):
        return original(mask, **{**settings, "total_tokens": float(mask.numel())})

    monkeypatch.setattr(update_module, "token_weights", per_row_count)


def unclipped_value(monkeypatch):
    original = update_module.value_loss
    monkeypatch.setattr(
        update_module, "value_loss", lambda *tensors, cliprange_value: original(*tensors, cliprange_value=None)
    )


def stale_logprobs(monkeypatch):
    """The old log-probabilities are the start policy's at every step: the ratio is against a policy that is steps
    old.
    """
    start = {}
    original = update_module.PPOUpdate.logprobs

    def of_the_start(self, model, batch):
        current = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        start.update({} if start else current)
        model.load_state_dict(start)
        logprobs = original(self, model, batch)
        model.load_state_dict(current)
        return logprobs

    monkeypatch.setattr(update_module.PPOUpdate, "logprobs", of_the_start)


def prompt_counts_as_response(monkeypatch):
    original = batch_module.make_micro_batch

    def shifted(batch, rows, pad):
        micro = original(batch, rows, pad)
        object.__setattr__(micro, "positions", (micro.positions - 1).clamp(min=0))
        return micro

    monkeypatch.setattr(update_module, "make_micro_batch", shifted)


@pytest.mark.parametrize(
    "fault",
    [
        off_by_one_values,
        missing_mask,
        wrong_denominator,
        unclipped_value,
        stale_logprobs,
        prompt_counts_as_response,
    ],
)
def test_a_planted_fault_is_caught(tmp_path, monkeypatch, fault):
    fault(monkeypatch)
    policy_gap, critic_gap, _ = gaps(*train(tmp_path))
    assert max(policy_gap, critic_gap) > 1e-6


def test_the_split_into_micro_batches_changes_nothing(tmp_path):
    runs = [train(tmp_path / str(budget), tokens_per_microbatch=budget)[0] for budget in (40, 150, 100_000)]
    for other in runs[1:]:
        assert movement_gap(other.start, other.policy.state_dict(), runs[0].policy.state_dict()) <= 1e-9
        assert movement_gap(other.critic_start, other.critic.state_dict(), runs[0].critic.state_dict()) <= 1e-9
