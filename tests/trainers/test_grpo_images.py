"""TRL's own GRPOTrainer on pictures, drawing through the transformers engine."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForImageTextToText
from trl import GRPOConfig, GRPOTrainer

from reasonrl.errors import ModelError
from reasonrl.models import load_processor, tiny_path
from reasonrl.rollout import SamplingParams, build_engine
from reasonrl.trainers.grpo_engine import use_engine

sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))
from vision_help import LLAVA, image_of, oracle_logprobs


def odd_length(completions, **_):
    return [float(len(turns[0]["content"]) % 2) for turns in completions]


def rows():
    """Prompts with one picture, and with two; TRL 1.16 takes none without beside them."""
    pictures = [[image_of(1)], [image_of(2), image_of(3)], [image_of(2)], [image_of(4)]]
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": f"What is {number}?"}], "images": pictures[number % 4]}
            for number in range(8)
        ]
    )


def trainer_of(folder, *, adapter=False, processor_for_engine=True):
    model = AutoModelForImageTextToText.from_pretrained(tiny_path(LLAVA))
    processor = load_processor(LLAVA)
    args = GRPOConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=8,
        num_generations=2,
        max_completion_length=10,
        max_steps=3,
        learning_rate=5e-3,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        vllm_importance_sampling_mode="token_truncate",
    )
    lora = LoraConfig(target_modules=["q_proj", "down_proj", "linear_1"], r=4) if adapter else None
    engine = build_engine(
        "transformers", model, processor.tokenizer, processor=processor if processor_for_engine else None
    )
    trainer = GRPOTrainer(model, odd_length, args, rows(), processing_class=processor, peft_config=lora)
    use_engine(trainer, engine)
    return trainer, engine, model, processor


@pytest.mark.parametrize("adapter", [False, True], ids=["full", "lora"])
def test_grpo_trains_on_pictures_with_samples_of_the_present_weights(tmp_path, adapter):
    trainer, engine, model, processor = trainer_of(tmp_path, adapter=adapter)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    params = SamplingParams(10, trainer.temperature, trainer.top_p)
    gaps, pictured, versions = [], [], []
    stream = engine.stream

    def watched(*given):
        for sample in list(stream(*given)):
            want = oracle_logprobs(model.eval(), processor, sample, params)
            gaps.append(np.abs(want - np.array(sample.logprobs_sampled)).max())
            pictured.append(len(sample.request.images))
            versions.append(sample.weight_version)
            yield sample
        model.train()

    engine.stream = watched
    trainer.train()
    assert versions == [0] * 8 + [1] * 8 + [2] * 8 and set(pictured) == {1, 2}
    assert max(gaps) < 1e-4
    log = trainer.state.log_history[:-1]
    # TRL scores with the image token among the choices; no engine draws it. Random weights give it some times an even
    # share.
    rarely = -np.log1p(-8 / len(processor.tokenizer))
    assert all(line["sampling/sampling_logp_difference/max"] < rarely for line in log)
    assert all(np.isfinite(line["loss"]) and np.isfinite(line["grad_norm"]) for line in log)
    moved = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    assert any("language_model" in name for name in moved)
    assert any("multi_modal_projector" in name for name in moved), "images take part in the loss"
    assert all(torch.isfinite(value).all() for value in trainer.model.parameters())


def test_pictures_are_refused_by_an_engine_without_a_processor(tmp_path):
    trainer, *_ = trainer_of(tmp_path, processor_for_engine=False)
    with pytest.raises(ModelError, match=r"images, but the engine has no processor -> build it with processor="):
        trainer.train()
