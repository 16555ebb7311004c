"""Every option that makes advantages and value targets, in a real update: it changes the gradient, and the trainer
walks the path of the plain scripts (tests/oracles/targets.py, tests/oracles/ppo.py). Planted faults must be caught.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch
from helpers import TINY, even_share, make_run, movement_gap
from test_ppo_oracle import load_oracle
from test_ppo_ranks import run_on
from test_ppo_streaming import whole_float64  # noqa: F401

from reasonrl.algorithms import advantages as advantages_module
from reasonrl.models import ScalarHeadModel, load_policy, tiny_path
from reasonrl.trainers import targets as targets_module
from reasonrl.trainers.passes import Passes
from reasonrl.trainers.ppo_config import PPOConfig

SETTINGS = {
    "prompts_per_step": 4,
    "num_generations": 4,
    "max_steps": 2,
    "max_completion_length": 7,
    "reward_requires_stop": True,
    "learning_rate": 0.05,
    "critic_learning_rate": 0.05,
    "cliprange_value": 0.5,
    "tokens_per_microbatch": 150,
    # Adam and the clip of the gradient would take the scale of advantages away again.
    "adam_epsilon": 1.0,
    "max_grad_norm": 100.0,
}

OPTIONS = {
    "decoupled": {"lam": 0.7, "lam_value": 1.0, "gamma": 0.97},
    "horizon": {"lam_horizon_fraction": 0.45, "lam_value": 0.9},
    "bootstrap": {"truncation_bootstrap": True, "gamma": 0.95, "lam": 0.9, "critic_steps": 2},
    "decoupled bootstrap": {"truncation_bootstrap": True, "lam": 0.8, "lam_value": 1.0, "actor_steps": 2},
    "overlong mask": {"mask_truncated_completions": True, "lam": 0.9},
    "kl k3": {"beta": 0.5, "kl_estimator": "k3", "lam": 0.9},
    "scale none": {"advantage": "group", "scale_rewards": "none"},
    "scale batch": {"advantage": "group", "scale_rewards": "batch"},
    "group overlong mask": {"advantage": "group", "mask_truncated_completions": True},
    "reinforce_pp": {"advantage": "reinforce_pp", "beta": 0.5, "gamma": 0.9},
    "reinforce_pp_baseline": {"advantage": "reinforce_pp_baseline", "beta": 0.5, "kl_estimator": "k2"},
}
PLAIN = {"advantage": "gae", "scale_rewards": "group", "lam": 1.0, "gamma": 1.0}


def targets_oracle():
    path = Path(__file__).parents[1] / "oracles" / "targets.py"
    spec = importlib.util.spec_from_file_location("targets_oracle", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["targets_oracle"] = module
    spec.loader.exec_module(module)
    return module


def some(completions, completion_ids, **columns):
    """Scores of which a few are missing."""
    scores = even_share(completions, completion_ids)
    return [None if ids[0] % 7 == 0 else score for ids, score in zip(completion_ids, scores, strict=True)]


def train(tmp_path, rewards=(some,), **changes):
    """A trained run in float64, with the rollout batches and the targets of each step."""
    run = make_run(tmp_path, rewards=rewards, dtype=torch.float64, **{**SETTINGS, **changes})
    seen = []
    original = run.trainer.update.targets

    def keep(model, batch, *rest):
        seen.append((batch, original(model, batch, *rest)))
        return seen[-1][1]

    run.trainer.update.targets = keep
    run.trainer.train()
    return run, seen


def run_oracle(run, batches, token_rewards=None):
    """Policy and critic of the plain scripts after the same rollouts; `token_rewards` gives each batch's."""
    ppo, plain, args = load_oracle(), targets_oracle(), run.trainer.args
    names = plain.Options.__dataclass_fields__
    options = plain.Options(**{name: getattr(args, name) for name in names})
    policy, critic = load_policy(TINY, dtype=torch.float64)[0], None
    policy.load_state_dict(run.start)
    if run.critic is not None:
        critic = ScalarHeadModel.from_pretrained(tiny_path(TINY), dtype=torch.float64, seed=3)
        critic.load_state_dict(run.critic_start)
    rollouts = [
        [
            ppo.Episode(ids[:prompt].tolist(), ids[prompt:].tolist(), None if math.isnan(score) else score, stopped)
            for ids, prompt, score, stopped in zip(
                batch.sequences, batch.prompt_lengths, batch.scores.tolist(), batch.finished.tolist(), strict=True
            )
        ]
        for batch in batches
    ]
    settings = ppo.Settings(
        seed=args.seed,
        stage=args.stage_name,
        actor_steps=args.actor_steps,
        critic_steps=args.critic_steps,
        epochs=args.num_iterations,
        gamma=args.gamma,
        lam=args.lam,
        epsilon=args.epsilon,
        cliprange_value=args.cliprange_value,
        learning_rate=args.learning_rate,
        critic_learning_rate=args.critic_learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        adam_epsilon=args.adam_epsilon,
        max_grad_norm=args.max_grad_norm,
        targets=lambda *given: plain.targets_of(
            *given, o=options, token_rewards=next(token_rewards) if token_rewards is not None else None
        ),
    )
    ppo.train(policy, critic, rollouts, settings)
    return policy.state_dict(), critic.state_dict() if critic is not None else {}


def gaps(run, seen):
    policy, critic = run_oracle(run, [batch for batch, _ in seen])
    of_critic = movement_gap(run.critic_start, run.critic.state_dict(), critic) if critic else 0.0
    return movement_gap(run.start, run.policy.state_dict(), policy), of_critic


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of each option, trained once for all tests that look at it."""
    return functools.cache(lambda name: train(tmp_path_factory.mktemp("run"), **OPTIONS[name]))


@pytest.mark.parametrize("name", OPTIONS)
def test_the_trainer_walks_the_oracles_path(trained, name):
    run, seen = trained(name)
    cut = [line["completions/truncated_fraction"] for line in run.metrics]
    assert all(0.05 < share < 0.6 for share in cut), "some responses must be cut"
    assert all(line["unscored"] > 0 for line in run.metrics), "some must be unscored"
    if "beta" in OPTIONS[name]:
        assert abs(run.metrics[1]["kl"]) > 1e-4, "the policy must have left the reference"
    policy_gap, critic_gap = gaps(run, seen)
    assert policy_gap <= 1e-9 and critic_gap <= 1e-9


@pytest.mark.parametrize("name", OPTIONS)
def test_the_option_changes_what_is_trained_towards(trained, name):
    """The same batch without the option: other advantages, or for the critic other returns, so another gradient."""
    run, seen = trained(name)
    batch, made = seen[0] if "beta" not in OPTIONS[name] else seen[1]
    args = run.trainer.args
    for option in OPTIONS[name]:
        if option in ("advantage", "critic_steps", "actor_steps", "kl_estimator"):
            continue
        before = getattr(args, option)
        default = PLAIN.get(option, PPOConfig.__dataclass_fields__[option].default)
        assert before != default
        setattr(args, option, default)
        try:
            run.trainer.meter.clear()
            other = run.trainer.update.raw_targets(
                batch,
                made.values,
                made.logprobs,
                made.ref_logprobs,
                None,
                run.trainer.update.baseline,
                run.trainer.update.read_values(batch)[1] if option != "truncation_bootstrap" else None,
            )
            same = run.trainer.update.spread(other)
        finally:
            setattr(args, option, before)
        moved = [(made.advantages * made.mask - same.advantages * same.mask).abs().max()]
        if made.returns is not None:
            moved.append((made.returns * made.mask - same.returns * same.mask).abs().max())
        assert max(moved) > 1e-3, option


# --- planted faults


def lambdas_exchanged(monkeypatch):
    original = targets_module.decoupled_gae

    def exchanged(*tensors, lam, lam_value, **rest):
        return original(*tensors, lam=lam_value, lam_value=lam, **rest)

    monkeypatch.setattr(targets_module, "decoupled_gae", exchanged)


def value_before_the_last_token(monkeypatch):
    """The value after a cut is taken to be that of the state before its last token."""
    original = Passes.values

    def values(self, batch, together=True, ends=None):
        out = original(self, batch, together, ends)
        if ends is not None:
            lasts = [len(s) - p - 1 for s, p in zip(batch.sequences, batch.prompt_lengths, strict=True)]
            ends[:] = out[range(len(lasts)), lasts]
        return out

    monkeypatch.setattr(Passes, "values", values)


def bootstrap_of_all(monkeypatch):
    """Responses that ended by themselves are bootstrapped too."""
    original = targets_module.TargetMaker.read_values

    def of_all(self, batch, together=True):
        stopped, batch.finished[:] = batch.finished.clone(), False
        found = original(self, batch, together)
        batch.finished[:] = stopped
        return found

    monkeypatch.setattr(targets_module.TargetMaker, "read_values", of_all)


def one_lambda_for_all(monkeypatch):
    original = targets_module.length_adaptive_lambda

    def of_the_mean(mask, fraction):
        return torch.full_like(original(mask, fraction), float(original(mask, fraction).mean()))

    monkeypatch.setattr(targets_module, "length_adaptive_lambda", of_the_mean)


def deviation_of_centred(monkeypatch):
    """The batch's deviation is that of scores less their group's mean, as if groups did not differ."""
    original = advantages_module._deviation

    def centred(scores):
        groups = scores.view(-1, 4)
        return original((groups - groups.nanmean(dim=1, keepdim=True)).flatten())

    monkeypatch.setattr(advantages_module, "_deviation", centred)


def cut_ones_leave_the_baseline(monkeypatch):
    """Masked responses do not count in their group's mean either."""
    original = targets_module.TargetMaker.raw_targets

    def without(self, batch, *rest):
        kept = batch.scores.clone()
        batch.scores[~batch.finished] = torch.nan
        made = original(self, batch, *rest)
        batch.scores[:] = kept
        return made

    monkeypatch.setattr(targets_module.TargetMaker, "raw_targets", without)


def kl_of_the_other_kind(monkeypatch):
    original = targets_module.kl_shaped_rewards
    monkeypatch.setattr(targets_module, "kl_shaped_rewards", lambda *given: original(*given[:5], "k1"))


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (lambdas_exchanged, "decoupled"),
        (value_before_the_last_token, "bootstrap"),
        (bootstrap_of_all, "bootstrap"),
        (one_lambda_for_all, "horizon"),
        (deviation_of_centred, "scale batch"),
        (cut_ones_leave_the_baseline, "group overlong mask"),
        (kl_of_the_other_kind, "kl k3"),
    ],
)
def test_a_planted_fault_is_caught(tmp_path, monkeypatch, fault, name):
    fault(monkeypatch)
    assert max(gaps(*train(tmp_path, **OPTIONS[name]))) > 1e-6


# --- invariance


def test_the_split_into_micro_batches_changes_nothing(trained, tmp_path):
    name = "decoupled bootstrap"
    run, _ = trained(name)
    other, _ = train(tmp_path, **OPTIONS[name], **{"tokens_per_microbatch": 40})
    assert movement_gap(run.start, other.policy.state_dict(), run.policy.state_dict()) <= 1e-9
    assert movement_gap(run.critic_start, other.critic.state_dict(), run.critic.state_dict()) <= 1e-9


STREAMED = {
    "decoupled bootstrap": {"truncation_bootstrap": True, "lam": 0.8, "lam_value": 1.0},
    "horizon overlong mask": {"mask_truncated_completions": True, "lam_horizon_fraction": 0.45},
    "reinforce_pp_baseline": {"advantage": "reinforce_pp_baseline", "beta": 0.5},
}


@pytest.mark.usefixtures("whole_float64")
@pytest.mark.parametrize("name", STREAMED)
def test_training_while_samples_come_walks_the_same_path(tmp_path, name):
    settings = {**STREAMED[name], "normalize_advantages": False, "tokens_per_microbatch": 60}
    plain, _ = train(tmp_path / "plain", **settings)
    run = make_run(
        tmp_path / "streamed",
        rewards=[some],
        dtype=torch.float64,
        **{**SETTINGS, **settings, "train_while_generating": True},
    )
    run.trainer.train()
    assert movement_gap(plain.start, run.policy.state_dict(), plain.policy.state_dict()) <= 1e-9
    if plain.critic is not None:
        assert movement_gap(plain.critic_start, run.critic.state_dict(), plain.critic.state_dict()) <= 1e-9
    for ours, theirs in zip(run.metrics, plain.metrics, strict=True):
        for figure in ("advantage_mean", "advantage_std", "masked_fraction", "value_mean", "value_after_cut_mean"):
            assert ours.get(figure) == pytest.approx(theirs.get(figure)), figure


@pytest.mark.parametrize("name", ["decoupled bootstrap", "group overlong mask"])
def test_figures_of_targets(trained, name):
    """Against plain sums over what was trained on."""
    run, seen = trained(name)
    for line, (batch, made) in zip(run.metrics, seen, strict=True):
        drawn, trained_on = int(batch.mask.sum()), int(made.mask.sum())
        assert line["masked_fraction"] == pytest.approx(1 - trained_on / drawn) and line["masked_fraction"] > 0
        groups = [batch.scores[i : i + 4].tolist() for i in range(0, 16, 4)]
        wrong = sum(all(not x > 0.5 for x in group) for group in groups)
        assert line["group/all_wrong_fraction"] == pytest.approx(wrong / 4)
        if made.returns is None:
            assert "value_mean" not in line and "value_after_cut_mean" not in line
            continue
        counted = [
            (v, r)
            for rows in zip(made.values, made.returns, made.mask, strict=True)
            for v, r, m in zip(*rows, strict=True)
            if m
        ]
        assert line["value_mean"] == pytest.approx(sum(float(v) for v, _ in counted) / len(counted))
        assert line["return_mean"] == pytest.approx(sum(float(r) for _, r in counted) / len(counted))
        cut = [
            float(made.returns[i][batch.mask[i] > 0][-1])
            for i in range(16)
            if not batch.finished[i] and made.mask[i].any()
        ]
        # At the last token of a cut response the return of lam_value 1 is the value after it; the first step's critic.
        assert line["value_after_cut_mean"] == pytest.approx(sum(cut) / len(cut))


# --- ranks


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"advantage": "group", "scale_rewards": "batch", "mask_truncated_completions": True},
        {"advantage": "reinforce_pp_baseline", "beta": 0.2, "num_iterations": 2},
        {"truncation_bootstrap": True, "reward_requires_stop": True, "lam": 0.8, "lam_value": 1.0, "critic_steps": 2},
    ],
    ids=["batch scale, mask", "reinforce_pp_baseline", "bootstrap"],
)
def test_two_ranks_equal_one(tmp_path, settings):
    # Three samples a prompt and two prompts: a group lies on both ranks.
    whole = {
        "prompts_per_step": 2,
        "num_generations": 3,
        "max_steps": 3,
        "max_completion_length": 7,
        "learning_rate": 0.05,
    }
    whole |= {"adam_epsilon": 1.0, "max_grad_norm": 100.0, **settings}
    one, lines_of_one = run_on(1, tmp_path / "one", whole)
    two, lines_of_two = run_on(2, tmp_path / "two", whole)
    assert movement_gap(one["start"], two["policy"], one["policy"]) <= 1e-9
    if one["critic"]:
        assert movement_gap(one["critic_start"], two["critic"], one["critic"]) <= 1e-9
    names = ["advantage_mean", "advantage_std", "masked_fraction", "group/all_wrong_fraction", "frac_reward_zero_std"]
    names += ["value_mean", "return_mean", "value_after_cut_mean"] if one["critic"] else []
    for name in names:
        one_rank, two_ranks = ([line[name] for line in lines if name in line] for lines in (lines_of_one, lines_of_two))
        assert one_rank and two_ranks == pytest.approx(one_rank), name
