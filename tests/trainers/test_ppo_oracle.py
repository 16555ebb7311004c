"""The PPO trainer against a plain script, and planted faults that the comparison must catch."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from helpers import TINY, make_run, movement_gap

from reasonrl.models import ScalarHeadModel, load_policy, tiny_path
from reasonrl.trainers import drawing as drawing_module
from reasonrl.trainers import passes as passes_module
from reasonrl.trainers import targets as targets_module
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
    if run.trainer.args.max_staleness:
        exact_logprobs(run.trainer.engine)
    batches = []
    original = run.trainer.update.targets

    def keep_batch(model, batch, *rest):
        batches.append(batch)
        return original(model, batch, *rest)

    run.trainer.update.targets = keep_batch
    run.trainer.train()
    return run, batches


def exact_logprobs(engine):
    """Log-probabilities of the drawn tokens in double precision, by the weights that drew them."""
    original = engine.stream

    def exact(requests, params):
        for sample in original(requests, params):
            prompt, response = list(sample.request.prompt_ids), list(sample.token_ids)
            with torch.no_grad():
                logits = engine.model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
            logprobs = torch.log_softmax(logits, dim=-1)[range(len(response)), response].tolist()
            assert max(abs(a - b) for a, b in zip(logprobs, sample.logprobs_sampled, strict=True)) < 1e-5
            yield dataclasses.replace(sample, logprobs_sampled=tuple(logprobs))

    engine.stream = exact


def episodes_of(oracle, batches):
    return [
        [
            oracle.Episode(ids[:prompt].tolist(), ids[prompt:].tolist(), score)
            for ids, prompt, score in zip(batch.sequences, batch.prompt_lengths, batch.scores.tolist(), strict=True)
        ]
        for batch in batches
    ]


def bounds_of(args):
    if not args.vllm_importance_sampling_correction:
        return None
    return args.vllm_importance_sampling_clip_min or 0.0, args.vllm_importance_sampling_clip_max


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
        staleness=args.max_staleness,
        bounds=bounds_of(args),
        masked=args.vllm_importance_sampling_mode == "token_mask",
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
    monkeypatch.setattr(update_module.PPOUpdate, "values", lambda self, *rest: original(self, *rest).roll(-1, dims=1))


def missing_mask(monkeypatch):
    original = targets_module.masked_moments
    monkeypatch.setattr(targets_module, "masked_moments", lambda x, mask: original(x, torch.ones_like(mask)))


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
    original = passes_module.make_packed_micro_batch

    def shifted(batch, rows):
        micro = original(batch, rows)
        object.__setattr__(micro, "positions", (micro.positions - 1).clamp(min=0))
        return micro

    monkeypatch.setattr(passes_module, "make_packed_micro_batch", shifted)


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
    policy_gap, critic_gap, _ = gaps(*train(tmp_path, max_logprob_gap=100.0))  # not stopped by the watch on samples
    assert max(policy_gap, critic_gap) > 1e-6


AHEAD = {"max_staleness": 1, "own_copy": True, "max_steps": 4, "vllm_importance_sampling_clip_max": 1.05}
MASKED = {**AHEAD, "vllm_importance_sampling_mode": "token_mask", "vllm_importance_sampling_clip_min": 0.95}


@pytest.mark.parametrize(
    "settings",
    [AHEAD, MASKED, {**AHEAD, "vllm_importance_sampling_correction": False}],
    ids=["truncated", "masked", "no"],
)
def test_a_step_of_staleness_walks_the_oracles_path(tmp_path, settings):
    run, batches = train(tmp_path, **settings)
    policy_gap, critic_gap, _ = gaps(run, batches)
    assert [line["rollout/staleness_mean"] for line in run.metrics] == [0, 1, 1, 1]
    if settings.get("vllm_importance_sampling_correction", True):
        kind = "dropped" if settings is MASKED else "truncated"
        outside = [line[f"sampling/importance_{kind}_fraction"] for line in run.metrics]
        assert outside[0] == 0 and all(0.05 < share < 0.95 for share in outside[1:]), outside
        assert [line["sampling/importance_ratio_max"] > 1.05 for line in run.metrics] == [False, True, True, True]
    assert policy_gap <= 1e-9
    assert critic_gap <= 1e-9


def behaviour_of_the_new_policy(monkeypatch):
    """The log-probabilities of the engine are taken to be those of the policy that is trained."""
    original = targets_module.importance_weights
    monkeypatch.setattr(
        targets_module, "importance_weights", lambda new, old, mask, **rest: original(new, new, mask, **rest)
    )


def drawn_anew(monkeypatch):
    """What was drawn ahead is not used: every step draws by its own weights."""
    original = drawing_module.Drawing.ahead

    def forgetful(self, order, step, steps, rows):
        self._ready = None
        original(self, order, step, steps, rows)

    monkeypatch.setattr(drawing_module.Drawing, "ahead", forgetful)


def behaviour_in_ppos_ratio(monkeypatch):
    """PPO's clipped ratio is taken against the engine's policy, on top of the correction."""
    original = update_module.PPOUpdate.raw_targets

    def swapped(self, batch, values, logprobs, *rest):
        targets = original(self, batch, values, logprobs, *rest)
        return dataclasses.replace(targets, logprobs=batch.sampled_logprobs.double())

    monkeypatch.setattr(update_module.PPOUpdate, "raw_targets", swapped)


def unbounded(monkeypatch):
    original = targets_module.importance_weights
    monkeypatch.setattr(
        targets_module, "importance_weights", lambda *tensors, **rest: original(*tensors, **{**rest, "clip_max": 99.0})
    )


def rescaled_weights(monkeypatch):
    """The corrections are divided by their mean over the batch."""
    original = targets_module.importance_weights

    def rescaled(*tensors, **rest):
        found = original(*tensors, **rest)
        return dataclasses.replace(found, weights=found.weights / found.weights[tensors[2] > 0].mean())

    monkeypatch.setattr(targets_module, "importance_weights", rescaled)


@pytest.mark.parametrize(
    "fault", [behaviour_of_the_new_policy, drawn_anew, behaviour_in_ppos_ratio, unbounded, rescaled_weights]
)
def test_a_planted_fault_of_staleness_is_caught(tmp_path, monkeypatch, fault):
    fault(monkeypatch)
    policy_gap, _, _ = gaps(*train(tmp_path, **AHEAD))
    assert policy_gap > 1e-6


def test_the_split_into_micro_batches_changes_nothing(tmp_path):
    runs = [train(tmp_path / str(budget), tokens_per_microbatch=budget)[0] for budget in (40, 150, 100_000)]
    for other in runs[1:]:
        assert movement_gap(other.start, other.policy.state_dict(), runs[0].policy.state_dict()) <= 1e-9
        assert movement_gap(other.critic_start, other.critic.state_dict(), runs[0].critic.state_dict()) <= 1e-9
