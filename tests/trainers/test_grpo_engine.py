"""Our engines inside TRL's own GRPOTrainer, run as they are."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from trl import GRPOConfig, GRPOTrainer

from reasonrl.errors import ModelError
from reasonrl.models import load_policy
from reasonrl.rollout import build_engine
from reasonrl.trainers.grpo_engine import use_engine

VLLM = pytest.param(
    "vllm", marks=pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
)


def odd_length(completions, **_):
    return [float(len(text) % 2) for text in completions]


def trained(folder, engine_name: str, *, adapter: bool, stale: bool = False):
    """Three steps of GRPO; the trainer, and the version and text of every sample."""
    model, tokenizer = load_policy("tiny:qwen2")
    args = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=8,
        num_generations=4,
        max_completion_length=12,
        max_steps=3,
        learning_rate=1e-2,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        vllm_importance_sampling_mode="token_truncate",
    )
    rows = Dataset.from_list([{"prompt": f"{a}+{b}="} for a in range(4) for b in range(4)])
    lora = LoraConfig(target_modules=["q_proj", "down_proj"], r=4) if adapter else None
    engine = build_engine(engine_name, model, tokenizer)
    trainer = GRPOTrainer(model, odd_length, args, rows, processing_class=tokenizer, peft_config=lora)
    backend = use_engine(trainer, engine)
    versions = []
    stream, sync = engine.stream, engine.sync_weights
    engine.stream = lambda *a: (versions.append(s.weight_version) or s for s in stream(*a))
    if stale:
        engine.sync_weights = lambda weights, version: sync(weights if version == 0 else iter(()), version)
    trainer.train()
    assert trainer.vllm_generation is backend
    engine.close()
    return trainer, versions


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("engine", ["transformers", VLLM])
def test_grpo_draws_through_our_engine_with_the_weights_of_each_step(tmp_path, engine, adapter):
    trainer, versions = trained(tmp_path, engine, adapter=adapter)
    assert versions == [0] * 8 + [1] * 8 + [2] * 8
    differences = [line["sampling/sampling_logp_difference/max"] for line in trainer.state.log_history[:-1]]
    assert len(differences) == 3 and max(differences) < 1e-4
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


@pytest.mark.parametrize("engine", [VLLM])
def test_an_engine_that_keeps_its_weights_shows_in_trls_own_metric(tmp_path, engine):
    trainer, _ = trained(tmp_path, engine, adapter=False, stale=True)
    differences = [line["sampling/sampling_logp_difference/max"] for line in trainer.state.log_history[:-1]]
    assert differences[0] < 1e-4 and differences[2] > 1e-2


def test_a_trainer_with_a_vllm_of_its_own_is_refused(tmp_path):
    class Built:
        use_vllm = True

    with pytest.raises(ModelError, match="already has TRL's vLLM"):
        use_engine(Built(), None)
