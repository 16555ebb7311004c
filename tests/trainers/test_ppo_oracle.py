"""The PPO trainer against a plain script, and planted faults that the comparison must catch."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset

from reasonrl.models import ScalarHeadModel, load_policy, tiny_path
from reasonrl.trainers import batch as batch_module
from reasonrl.trainers import update as update_module
from reasonrl.trainers.ppo import PPOTrainer
from reasonrl.trainers.ppo_config import PPOConfig

TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=2"
STEPS, PROMPTS, SAMPLES = 3, 4, 4
CLIP_VALUE = 0.02


def load_oracle():
    spec = importlib.util.spec_from_file_location("ppo_oracle", Path(__file__).parents[1] / "oracles" / "ppo.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["ppo_oracle"] = module
    spec.loader.exec_module(module)
    return module


def even_share(completions, completion_ids, **columns):
    """A reward that differs between samples and is exact in float32: eighths."""
    return [round(8 * sum(token % 2 == 0 for token in ids) / len(ids)) / 8 for ids in completion_ids]


class Recorder:
    def __init__(self):
        self.rollouts = []
        self.metrics = []


def run_trainer(tmp_path, recorder, **changes):
    """Train on ragged prompts and responses in float64; returns (start, end) weights of policy and critic."""
    policy, tokenizer = load_policy(TINY, dtype=torch.float64)
    critic = ScalarHeadModel.from_pretrained(tiny_path(TINY), dtype=torch.float64, seed=3)
    start = (copy.deepcopy(policy.state_dict()), copy.deepcopy(critic.state_dict()))
    rows = [{"id": str(i), "prompt": [{"role": "user", "content": "?" * (1 + 3 * i)}], "answer": "0"} for i in range(8)]
    settings = {
        "prompts_per_step": PROMPTS,
        "num_generations": SAMPLES,
        "max_steps": STEPS,
        "max_completion_length": 12,
        "actor_steps": 2,
        "num_iterations": 2,
        "critic_steps": 4,
        "gamma": 0.97,
        "lam": 0.9,
        "cliprange_value": CLIP_VALUE,
        "learning_rate": 3e-3,
        "critic_learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "adam_beta2": 0.95,
        "tokens_per_microbatch": 150,
        "reward_requires_stop": False,
        **changes,
    }
    args = PPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **settings,
    )

    def record(step, samples):
        recorder.rollouts.append(samples)

    trainer = PPOTrainer(
        policy,
        args,
        Dataset.from_list(rows),
        [even_share],
        prompt_ids=lambda messages: tokenizer(tokenizer.apply_chat_template(messages, tokenize=False))["input_ids"],
        critic=critic,
        engine=RaggedEngine(policy, tokenizer),
        processing_class=tokenizer,
        on_metrics=recorder.metrics.append,
        on_completions=record,
    )
    recorder.trainer = trainer
    recorder.batches = []
    original = trainer.update.targets

    def keep_batch(model, batch, *rest):
        recorder.batches.append(batch)
        return original(model, batch, *rest)

    trainer.update.targets = keep_batch
    trainer.train()
    return start, (policy.state_dict(), critic.state_dict()), args


class RaggedEngine:
    """The real engine, with a stop set of a sixth of the vocabulary, so that a random model's lengths are ragged."""

    def __new__(cls, policy, tokenizer):
        from reasonrl.rollout import build_engine

        engine = build_engine("transformers", policy, tokenizer)
        engine.stop_ids = frozenset(range(0, len(tokenizer), 6)) | engine.stop_ids
        return engine


def episodes_of(oracle, recorder):
    rollouts = []
    for batch in recorder.batches:
        episodes = []
        for ids, prompt, score in zip(batch.sequences, batch.prompt_lengths, batch.scores.tolist(), strict=True):
            episodes.append(oracle.Episode(ids[:prompt].tolist(), ids[prompt:].tolist(), score))
        rollouts.append(episodes)
    return rollouts


def run_oracle(recorder, start, args):
    oracle = load_oracle()
    policy, _ = load_policy(TINY, dtype=torch.float64)
    critic = ScalarHeadModel.from_pretrained(tiny_path(TINY), dtype=torch.float64, seed=3)
    policy.load_state_dict(start[0])
    critic.load_state_dict(start[1])
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
    clipped = oracle.train(policy, critic, episodes_of(oracle, recorder), settings)
    return policy.state_dict(), critic.state_dict(), clipped


def movement_gap(start, ours, theirs):
    """||a - b|| / ||b - start|| over all parameters."""
    gap = sum(float((ours[name] - theirs[name]).square().sum()) for name in start)
    moved = sum(float((theirs[name] - start[name]).square().sum()) for name in start)
    return (gap / moved) ** 0.5


def gaps(tmp_path, recorder):
    start, end, args = run_trainer(tmp_path, recorder)
    policy, critic, clipped = run_oracle(recorder, start, args)
    return movement_gap(start[0], end[0], policy), movement_gap(start[1], end[1], critic), clipped


def test_the_trainer_walks_the_oracles_path(tmp_path):
    recorder = Recorder()
    policy_gap, critic_gap, clipped = gaps(tmp_path, recorder)
    lengths = {len(ids) - p for b in recorder.batches for ids, p in zip(b.sequences, b.prompt_lengths, strict=True)}
    assert len(lengths) >= 5, "the responses must be ragged"
    assert clipped >= 0.05, "the value clip must be active, or it is not tested"
    assert any(line["clip_fraction"] > 0 for line in recorder.metrics), "the policy clip must be active"
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
    policy_gap, critic_gap, _ = gaps(tmp_path, Recorder())
    assert max(policy_gap, critic_gap) > 1e-6


def test_the_split_into_micro_batches_changes_nothing(tmp_path):
    ends = []
    for budget in (40, 150, 100_000):
        start, end, _ = run_trainer(tmp_path, Recorder(), tokens_per_microbatch=budget)
        ends.append(end)
    for other in ends[1:]:
        assert movement_gap(start[0], other[0], ends[0][0]) <= 1e-9
        assert movement_gap(start[1], other[1], ends[0][1]) <= 1e-9
