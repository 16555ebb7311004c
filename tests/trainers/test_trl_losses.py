"""Where the policy's loss has a mode of TRL's, its gradient is that of TRL's own `_compute_loss` on the same tokens."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import trl
from accelerate import Accelerator
from helpers import TINY, make_run
from trl import GRPOConfig, GRPOTrainer

from reasonrl.models import load_policy
from reasonrl.trainers.batch import RolloutBatch
from reasonrl.trainers.loss_masks import high_entropy_tokens
from reasonrl.trainers.meter import Meter
from reasonrl.trainers.ppo_config import PPOConfig
from reasonrl.trainers.targets import Targets
from reasonrl.trainers.update import PPOUpdate

LENGTHS, PROMPTS, WIDTH = [9, 3, 6, 7], [4, 4, 2, 2], 9
KL = {"beta": 0.2}
MODES = {
    "dapo": {"loss_type": "dapo"},
    "bnpo": {"loss_type": "bnpo"},
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.2},
    "sapo": {"loss_type": "sapo", "sapo_temperature_pos": 1.3, "sapo_temperature_neg": 2.0},
    "clip-higher": {"epsilon": 0.1, "epsilon_high": 0.3},
    "delta": {"delta": 1.3, "epsilon": 0.1},
    "sequence": {"importance_sampling_level": "sequence", "epsilon": 0.05},
    "sequence grpo": {"importance_sampling_level": "sequence", "epsilon": 0.05, "loss_type": "grpo"},
    "sequence cispo": {"importance_sampling_level": "sequence", "loss_type": "cispo", "epsilon_high": 1.05},
    "sequence sapo": {"importance_sampling_level": "sequence", "loss_type": "sapo"},
    "kl": {**KL, "use_bias_correction_kl": False},
    "kl corrected": {**KL, "use_bias_correction_kl": True},
    "entropy_coef": {"entropy_coef": 0.1},
    "top_entropy_quantile": {"top_entropy_quantile": 0.3},
    "top_entropy_quantile and entropy_coef": {"top_entropy_quantile": 0.3, "entropy_coef": 0.1, "loss_type": "grpo"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tmp_path_factory.mktemp("trl"))


@pytest.fixture(scope="module")
def tokens():
    """Ragged prompts and responses, advantages, and how far policy, old policy and reference differ."""
    g = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, 250, (p + n,), generator=g) for p, n in zip(PROMPTS, LENGTHS, strict=True)]
    mask = torch.tensor([[int(t < n) for t in range(WIDTH)] for n in LENGTHS])
    drift, ref = (0.25 * torch.randn(4, WIDTH, generator=g) for _ in range(2))
    return ids, mask, torch.tensor([1.0, -0.7, 0.4, -1.2]), drift, ref


def moved_policy():
    model, tokenizer = load_policy(TINY)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=g))
    return model, tokenizer


def flat(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.fixture(scope="module")
def ours(folder):
    """A trainer of ours, whose policy is the same as TRL's."""
    run = make_run(folder, advantage="group")
    run.policy.load_state_dict(moved_policy()[0].state_dict())
    return run


@pytest.fixture(scope="module")
def base(ours, tokens):
    """Log-probabilities of the policy."""
    ids, mask, *_ = tokens
    out = torch.zeros(mask.shape)
    with torch.no_grad():
        for row, (sequence, prompt) in enumerate(zip(ids, PROMPTS, strict=True)):
            logits = ours.policy(input_ids=sequence.unsqueeze(0)).logits[0, prompt - 1 : -1]
            n = len(sequence) - prompt
            out[row, :n] = torch.log_softmax(logits, -1).gather(1, sequence[prompt:].unsqueeze(1)).squeeze(1)
    return out


def trl_gradient(folder, run, tokens, base, settings):
    ids, mask, advantages, drift, ref = tokens
    model, tokenizer = moved_policy()
    args = GRPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        report_to=[],
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=WIDTH,
        gradient_checkpointing=False,
        **{"beta": 0.0, **settings},
    )
    theirs = GRPOTrainer(
        model,
        reward_funcs=[lambda completions, **columns: [0.0] * len(completions)],
        args=args,
        train_dataset=run.trainer.train_dataset,
        processing_class=tokenizer,
    )
    theirs.current_gradient_accumulation_steps = 1
    theirs.model.train()
    longest = max(PROMPTS)
    prompts = torch.zeros(4, longest, dtype=torch.long)
    prompt_mask, completions = torch.zeros_like(prompts), torch.zeros(4, WIDTH, dtype=torch.long)
    for row, (sequence, prompt) in enumerate(zip(ids, PROMPTS, strict=True)):
        prompts[row, longest - prompt :], prompt_mask[row, longest - prompt :] = sequence[:prompt], 1
        completions[row, : len(sequence) - prompt] = sequence[prompt:]
    inputs = {
        "prompt_ids": prompts,
        "prompt_mask": prompt_mask,
        "completion_ids": completions,
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": base + drift,
        "ref_per_token_logps": base + ref,
        "num_items_in_batch": mask.sum(),
    }
    loss = theirs._compute_loss(theirs.model, inputs)
    loss.backward()
    return flat(model)


def our_gradient(folder, run, tokens, base, settings):
    ids, mask, advantages, drift, ref = tokens
    kl = {"kl_in": "loss", "kl_estimator": "k3"} if "beta" in settings else {}
    args = PPOConfig(
        output_dir=folder,
        use_cpu=True,
        bf16=False,
        report_to=[],
        advantage="group",
        prompts_per_step=2,
        num_generations=2,
        max_completion_length=WIDTH,
        max_grad_norm=0.0,
        **kl,
        **settings,
    )
    accelerator = Accelerator(cpu=True)
    meter = Meter(accelerator)
    update = PPOUpdate(args, accelerator, None, run.trainer.forward_logprobs, meter, 0)
    sampled = torch.zeros(mask.shape)
    batch = RolloutBatch(ids, PROMPTS, mask, torch.zeros(4), torch.ones(4, dtype=torch.bool), sampled)
    targets = Targets(
        mask,
        advantages.unsqueeze(1) * mask,
        returns=None,
        values=None,
        logprobs=(base + drift) * mask,
        kl=None,
        ref_logprobs=(base + ref) * mask,
    )
    if args.top_entropy_quantile < 1:
        _, entropies = update.logprobs_and_entropies(run.policy, batch)
        selected = high_entropy_tokens(args, meter, accelerator, mask, entropies)
        assert 0 < selected.sum() < mask.sum()
        targets = dataclasses.replace(targets, selected=selected)
    for parameter in run.policy.parameters():
        parameter.grad = None
    update.train_policy(run.policy, None, batch, targets, 0)
    return flat(run.policy)


@pytest.mark.parametrize("name", MODES)
def test_the_gradient_is_trls(folder, ours, tokens, base, name):
    theirs = trl_gradient(folder, ours, tokens, base, MODES[name])
    mine = our_gradient(folder, ours, tokens, base, MODES[name])
    where = f"TRL {trl.__version__}: _compute_loss with {MODES[name]} -> look at reasonrl/algorithms/surrogates.py"
    assert float((mine - theirs).norm() / theirs.norm()) <= 1e-4, where
    if name not in ("dapo", "bnpo"):
        plain = our_gradient(folder, ours, tokens, base, {})
        assert float((mine - plain).norm() / plain.norm()) > 1e-2, f"{name} is not tested by these tokens"
