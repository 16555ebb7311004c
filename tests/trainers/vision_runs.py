"""A small PPO trainer on pictures and text, in process, for tests."""

from __future__ import annotations

import copy
import io
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from helpers import Run, even_share, ragged_engine

from reasonrl.models import ScalarHeadModel, load_policy, load_processor
from reasonrl.trainers.ppo import PPOTrainer
from reasonrl.trainers.ppo_config import PPOConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "rollout"))
from vision_help import image_of, wander

SMALL = "hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1,vision_hidden_size=32"
KINDS = {
    "llava": f"tiny:llava:{SMALL},image_size=16",
    "qwen2_5_vl": f"tiny:qwen2_5_vl:{SMALL},max_image_tokens=6",
    "idefics3": f"tiny:idefics3:{SMALL},image_size=16,max_image_size=32",
}
_LOADED: dict[str, Any] = {}


def load(kind: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """A fresh copy of a tiny vision-language model whose text wanders, and its processor."""
    if kind not in _LOADED:
        model, _ = load_policy(KINDS[kind])
        _LOADED[kind] = wander(model), load_processor(KINDS[kind])
    model, processor = _LOADED[kind]
    return copy.deepcopy(model).to(dtype), processor


def png(image: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()


#: Pictures of each row, by their seeds; two rows differ in their picture alone, two have none, one has two.
PICTURES = [[1], [2], [], [3, 1], [4], [], [5], [6]]


def rows(pictures=PICTURES, sizes=((40, 56), (64, 30))) -> list[dict[str, Any]]:
    """Rows whose pictures have different sizes; the texts of the first two are the same."""
    return [
        {
            "id": f"row{i}",
            "prompt": [{"role": "user", "content": "how many?" + "?" * (max(0, i - 1) % 4)}],
            "images": [png(image_of(seed, sizes[seed % len(sizes)])) for seed in seeds] or None,
            "answer": "1",
        }
        for i, seeds in enumerate(pictures)
    ]


def critic_of(policy: Any, dtype: torch.dtype) -> ScalarHeadModel:
    """A critic on a copy of the policy's own backbone."""
    torch.manual_seed(1)
    return ScalarHeadModel(copy.deepcopy(policy.model), seed=3).to(dtype)


def make_vision_run(
    folder,
    kind="llava",
    data=None,
    dtype=torch.float32,
    rewards=(even_share,),
    stop=None,
    critic=None,
    lora=None,
    critic_lora=None,
    **settings,
) -> Run:
    """A PPO run on pictures that is ready to train; `settings` are PPOConfig's."""
    policy, processor = load(kind, dtype)
    base = {
        "prompts_per_step": 4,
        "num_generations": 2,
        "max_steps": 2,
        "max_completion_length": 10,
        "learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "reward_requires_stop": False,
        "gradient_checkpointing": False,
    }
    if kind == "idefics3":
        # Random weights this large make its image token likely, which no engine draws.
        base["max_logprob_gap"] = 0.1
    args = PPOConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, **{**base, **settings}
    )
    if args.advantage == "gae":
        critic = critic or critic_of(policy, dtype)
    if critic_lora is not None:
        critic.add_lora(critic_lora, seed=3)
    run = Run(
        trainer=None,  # type: ignore[arg-type]
        policy=policy,
        critic=critic,
        start={name: tensor.clone() for name, tensor in policy.state_dict().items()},
        critic_start={name: tensor.clone() for name, tensor in critic.state_dict().items()} if critic else {},
    )
    run.trainer = PPOTrainer(
        policy,
        args,
        Dataset.from_list(rows() if data is None else data),
        list(rewards),
        prompt_ids=lambda messages: (_ for _ in ()).throw(AssertionError("the processor reads all rows")),
        critic=critic,
        engine=ragged_engine(policy, processor.tokenizer, processor=processor),
        processing_class=processor,
        on_metrics=run.metrics.append,
        on_completions=lambda step, samples: run.samples.__setitem__(step, samples),
        should_stop=stop,
        **({} if lora is None else {"peft_config": lora.peft_config()}),
    )
    if lora is not None:
        run.start = {name: tensor.clone() for name, tensor in run.trainer.model.state_dict().items()}
    return run
