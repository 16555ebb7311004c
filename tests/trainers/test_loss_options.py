"""Every option of the policy's loss, alone and with every other, in a real update: the gradient is the one that scalar
formulas give, or the pair is refused with a message that names both.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from helpers import make_run

from reasonrl.algorithms import losses
from reasonrl.recipe import option_rules
from reasonrl.recipe.ppo_stage import PPOStage
from reasonrl.trainers import loss_terms
from reasonrl.trainers import update as update_module
from reasonrl.trainers.batch import RolloutBatch
from reasonrl.trainers.meter import Meter
from reasonrl.trainers.ppo_config import PPOConfig
from reasonrl.trainers.update import PPOUpdate

BASE = {"num_iterations": 2, "normalize_advantages": False, "max_completion_length": 9}
CORRECT = "vllm_importance_sampling_"
KL = {"beta": 0.3, "kl_in": "loss"}
OPTIONS = {
    "epsilon_high": {"epsilon_high": 0.5},
    "delta": {"delta": 1.6},
    "sequence": {"importance_sampling_level": "sequence"},
    "sequence_token": {"importance_sampling_level": "sequence_token"},
    "bnpo": {"loss_type": "bnpo"},
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.1},
    "sapo": {"loss_type": "sapo", "sapo_temperature_pos": 2.0},
    "none": {"ratio": "none"},
    "token_band": {"token_ratio_band": [0.7, 1.3]},
    "sequence_band": {"sequence_ratio_band": [0.79, 1.105]},
    "truncate": {CORRECT + "correction": True, CORRECT + "clip_max": 1.2},
    "icepop": {
        CORRECT + "correction": True,
        CORRECT + "mode": "token_mask",
        CORRECT + "clip_max": 1.3,
        CORRECT + "clip_min": 0.8,
    },
    "k1": {**KL, "kl_estimator": "k1"},
    "k2": {**KL, "kl_estimator": "k2"},
    "k3": {**KL, "kl_estimator": "k3"},
    "k2 plain": {**KL, "kl_estimator": "k2", "use_bias_correction_kl": False},
    "k3 plain": {**KL, "kl_estimator": "k3", "use_bias_correction_kl": False},
    "entropy_coef": {"entropy_coef": 0.05},
    "top_entropy": {"top_entropy_quantile": 0.4},
    "positive_weight": {"positive_weight": 0.1},
    "positive_nll": {"positive_nll_coef": 0.1},
}
SAME_AS_PLAIN = {"bnpo"}
"""Options that are another name of the default."""


def load_oracle():
    path = Path(__file__).parents[1] / "oracles" / "policy_losses.py"
    spec = importlib.util.spec_from_file_location("policy_losses_oracle", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["policy_losses_oracle"] = module
    spec.loader.exec_module(module)
    return module


class Jolt:
    """In the place of an optimizer: every step moves the policy by the same noise, so that ratios are not 1."""

    def __init__(self, parameters, size):
        self.parameters = list(parameters)
        generator = torch.Generator().manual_seed(70)
        self.noise = [size * torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in self.parameters]

    def step(self):
        with torch.no_grad():
            for parameter, noise in zip(self.parameters, self.noise, strict=True):
                parameter.add_(noise)

    def zero_grad(self):
        for parameter in self.parameters:
            parameter.grad = None


def scores_of(policy, ids, prompt):
    """Log-probability and entropy of each response token: one sequence, unpadded, plain."""
    logits = policy(input_ids=ids.unsqueeze(0)).logits[0, prompt - 1 : -1]
    logprobs = torch.log_softmax(logits, dim=-1)
    return logprobs.gather(1, ids[prompt:].unsqueeze(1)).squeeze(1), -(logprobs.exp() * logprobs).sum(dim=-1)


class World:
    """A policy, a critic and one rollout batch whose engine, reference and policy all disagree."""

    def __init__(self, folder):
        self.folder = str(folder)
        self.run = make_run(folder, dtype=torch.float64, **BASE)
        self.policy = self.run.policy
        with torch.no_grad():
            generator = torch.Generator().manual_seed(1)
            for parameter in self.policy.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        self.start = {name: tensor.clone() for name, tensor in self.policy.state_dict().items()}
        self.jolt = Jolt(self.policy.parameters(), 0.03)
        self.batch, self.ref = self.make_batch()
        # Rewards of tokens, so that advantages of both signs meet ratios of all sizes.
        noise = torch.randn(8, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        self.rewards = 2 * noise * self.batch.mask
        with torch.no_grad():
            self.before = [scores_of(self.policy, *one) for one in self.samples()]
            self.jolt.step()
            self.after = [scores_of(self.policy, *one) for one in self.samples()]
        self.oracle = load_oracle()
        self.known = {}

    def samples(self):
        return list(zip(self.batch.sequences, self.batch.prompt_lengths, strict=True))

    def make_batch(self):
        generator = torch.Generator().manual_seed(2)
        lengths, prompts = [9, 3, 6, 1, 7, 4, 9, 5], [4, 4, 2, 2, 5, 5, 3, 3]
        ids = [
            torch.randint(0, 250, (prompt + length,), generator=generator)
            for prompt, length in zip(prompts, lengths, strict=True)
        ]
        mask = torch.tensor([[int(t < length) for t in range(9)] for length in lengths])
        engine, ref = torch.zeros(8, 9, dtype=torch.float64), torch.zeros(8, 9, dtype=torch.float64)
        with torch.no_grad():
            for row, (sequence, prompt) in enumerate(zip(ids, prompts, strict=True)):
                old, _ = scores_of(self.policy, sequence, prompt)
                for tensor, size in ((engine, 0.3), (ref, 0.5)):
                    noise = size * torch.randn(len(old), generator=generator, dtype=torch.float64)
                    tensor[row, : len(old)] = old + noise
        scores = torch.tensor([1.0, 0.0, 0.0, 1.0, torch.nan, 1.0, 0.0, 0.25])
        return RolloutBatch(ids, prompts, mask, scores, torch.ones(8, dtype=torch.bool), engine), ref

    def config(self, options):
        return PPOConfig(
            output_dir=self.folder,
            use_cpu=True,
            bf16=False,
            report_to=[],
            prompts_per_step=4,
            **{"num_generations": 2, "tokens_per_microbatch": 40, **BASE, **options},
        )

    def gradient(self, options, packed=False):
        """The gradient of the second pass over the batch, and the targets: the real update."""
        args = self.config(options)
        trainer = self.run.trainer
        accelerator = Accelerator(cpu=True)  # making the settings has taken the state from the trainer's own
        pad = trainer.processing_class.pad_token_id
        update = PPOUpdate(args, accelerator, trainer.critic, trainer.forward_logprobs, Meter(accelerator), pad)
        self.policy.load_state_dict(self.start)
        self.jolt.zero_grad()
        if packed:
            update.choose_rows(self.policy, None, trainer.processing_class)
            assert update.packed
        targets = update.targets(self.policy, self.batch, self.ref if args.beta else None, self.rewards)
        update.train_policy(self.policy, self.jolt, self.batch, targets, 0)
        return flat(self.policy), targets, args

    def expected(self, targets, args):
        """The gradient that the scalar formulas give."""
        names = {field.name for field in dataclasses.fields(self.oracle.Options)} - {"max_tokens"}
        options = self.oracle.Options(**{n: getattr(args, n) for n in names}, max_tokens=args.max_completion_length)
        used, rows = [], []
        for place, (ids, prompt) in enumerate(self.samples()):
            if self.batch.scores[place].isnan():
                continue
            n = len(ids) - prompt
            used.append((ids, prompt))
            rows.append(
                self.oracle.Row(
                    now=self.after[place][0].tolist(),
                    old=self.before[place][0].tolist(),
                    engine=self.batch.sampled_logprobs[place, :n].tolist(),
                    ref=self.ref[place, :n].tolist(),
                    advantage=targets.advantages[place, :n].tolist(),
                    entropy=self.before[place][1].tolist(),
                    score=float(self.batch.scores[place]),
                )
            )
        slopes = self.oracle.gradients(rows, options)
        self.jolt.zero_grad()
        for (ids, prompt), of_row in zip(used, slopes, strict=True):
            logprobs, entropies = scores_of(self.policy, ids, prompt)
            by_logp, by_entropy = (torch.tensor(x, dtype=torch.float64) for x in zip(*of_row, strict=True))
            ((by_logp * logprobs).sum() + (by_entropy * entropies).sum()).backward()
        return flat(self.policy)

    def alone(self, name):
        if name not in self.known:
            self.known[name] = self.gradient(OPTIONS.get(name, {}))[0]
        return self.known[name]


def flat(policy):
    return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None]).clone()


def gap(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("losses"))


def test_the_batch_has_what_the_options_are_about(world):
    advantages = world.gradient({})[1].advantages
    places = [(row, t) for row, (now, _) in enumerate(world.after) for t in range(len(now))]
    found = []
    for row, t in places:
        ratio = float((world.after[row][0][t] - world.before[row][0][t]).exp())
        found.append((ratio, float(advantages[row, t])))
    for low, high, sign in ((0, 0.8, -1), (0, 0.8, 1), (1.2, 1.5, 1), (1.5, 9, 1), (1.2, 1.6, -1), (1.6, 9, -1)):
        assert any(low < ratio < high and advantage * sign > 0 for ratio, advantage in found), (low, high, sign, found)


@pytest.mark.parametrize("name", ["plain", *OPTIONS])
def test_an_option_alone_is_its_formula_and_changes_the_gradient(world, name):
    ours, targets, args = world.gradient(OPTIONS.get(name, {}))
    assert gap(ours, world.expected(targets, args)) <= 1e-9
    if name != "plain":
        assert (gap(ours, world.alone("plain")) > 1e-4) is (name not in SAME_AS_PLAIN)


def together(first, second):
    """Both options' settings, or None where they give one key two values."""
    a, b = OPTIONS[first], OPTIONS[second]
    return None if any(a[key] != b[key] for key in a.keys() & b.keys()) else {**a, **b}


PAIRS = [pair for pair in itertools.combinations(OPTIONS, 2) if together(*pair) is not None]
VARIANTS = {"bnpo", "dr_grpo", "icepop", "k1", "k2", "k2 plain", "k3 plain"}
"""Options that differ little from others: their pairs are among the slow tests."""


def pairs_of(first):
    return [pair for pair in PAIRS if pair[0] == first and not VARIANTS & set(pair)]


@pytest.mark.parametrize("first", [name for name in OPTIONS if pairs_of(name)])
def test_two_options_compose_or_are_refused_by_name(world, first):
    for pair in pairs_of(first):
        check_pair(world, pair)


@pytest.mark.slow
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_a_variant_composes_too_or_is_refused_by_name(world, variant):
    for pair in PAIRS:
        if variant in pair:
            check_pair(world, pair)


def check_pair(world, pair):
    options = together(*pair)
    try:
        world.config(options)
    except ValueError as error:
        for name in pair:
            assert any(key in str(error) for key in OPTIONS[name]), (pair, str(error))
        assert pair in REFUSED, (pair, str(error))
        return
    assert pair not in REFUSED, pair
    ours, targets, args = world.gradient(options)
    assert ours.isfinite().all()
    assert gap(ours, world.expected(targets, args)) <= 1e-9, pair
    for name in pair:
        other = pair[1] if name == pair[0] else pair[0]
        if other not in SAME_AS_PLAIN and options != OPTIONS[name]:
            assert gap(ours, world.alone(name)) > 1e-6, f"{pair} does what {name} does"


REFUSED = {
    ("epsilon_high", "sapo"),
    ("epsilon_high", "none"),
    ("delta", "cispo"),
    ("delta", "sapo"),
    ("delta", "none"),
    ("sequence", "none"),
    ("sequence_token", "none"),
    ("sequence_token", "cispo"),
    ("sequence", "token_band"),
    ("sequence", "top_entropy"),
    ("cispo", "none"),
    ("sapo", "none"),
}


def test_stage_config_and_rules_agree_on_defaults(world):
    config = world.config({"num_iterations": 1})
    for name, default in option_rules._DEFAULTS.items():
        assert PPOStage.model_fields[name].default == getattr(config, name) == default, name


@pytest.mark.parametrize("name", ["plain", *OPTIONS])
def test_the_split_into_micro_batches_does_not_change_the_gradient(world, name):
    whole = world.gradient({**OPTIONS.get(name, {}), "tokens_per_microbatch": 1000})[0]
    parts = world.gradient({**OPTIONS.get(name, {}), "tokens_per_microbatch": 30})[0]
    assert gap(parts, whole) <= 1e-9


@pytest.mark.parametrize("name", ["sequence", "sequence_token", "sequence_band", "top_entropy", "entropy_coef", "k3"])
def test_packed_rows_give_the_same_gradient(world, name):
    """What is made of whole responses, or of entropies, finds them in packed rows too."""
    packed = world.gradient(OPTIONS[name], packed=True)[0]
    assert gap(packed, world.alone(name)) <= 1e-9


def rejected_tokens_in_the_denominator(monkeypatch):
    original = update_module.local_counts

    def of_all(targets, rows=None):
        return original(dataclasses.replace(targets, kept=None), rows)

    monkeypatch.setattr(update_module, "local_counts", of_all)


def mean_over_the_padded_width(monkeypatch):
    def padded(log_ratio, counts, level):
        return log_ratio.mean(dim=1, keepdim=True).expand_as(log_ratio)

    monkeypatch.setattr(losses, "level_log_ratios", padded)


def bonus_without_gradient(monkeypatch):
    original = loss_terms.weighted_sum
    monkeypatch.setattr(loss_terms, "weighted_sum", lambda values, weights: original(values.detach(), weights))


def correction_forgotten(monkeypatch):
    original = loss_terms.policy_loss
    monkeypatch.setattr(loss_terms, "policy_loss", lambda *tensors, scale, **rest: original(*tensors, **rest))


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (rejected_tokens_in_the_denominator, "token_band"),
        (mean_over_the_padded_width, "sequence"),
        (bonus_without_gradient, "entropy_coef"),
        (correction_forgotten, "truncate"),
    ],
)
def test_a_planted_fault_is_caught(world, monkeypatch, fault, name):
    fault(monkeypatch)
    ours, targets, args = world.gradient(OPTIONS[name])
    assert gap(ours, world.expected(targets, args)) > 1e-4
