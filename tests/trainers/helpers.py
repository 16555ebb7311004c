"""A small PPO trainer in process, for tests: ragged samples from a random tiny model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset

from reasonrl.models import ScalarHeadModel, load_policy, load_tokenizer
from reasonrl.prm.steps import Step
from reasonrl.prm.token_rewards import ProcessReward
from reasonrl.rollout import build_engine
from reasonrl.trainers.ppo import PPOTrainer
from reasonrl.trainers.ppo_config import PPOConfig

TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1"


def even_share(completions, completion_ids, **columns):
    """A reward that differs between samples and is exact in float32: eighths."""
    return [round(8 * sum(token % 2 == 0 for token in ids) / len(ids)) / 8 for ids in completion_ids]


def ragged_engine(policy, tokenizer, **options):
    """The real engine with a fifth of the vocabulary as stop tokens, so that a random model's lengths are ragged."""
    engine = build_engine("transformers", policy, tokenizer, **options)
    engine.stop_ids = frozenset(range(0, len(tokenizer), 5)) | engine.stop_ids
    return engine


def process_reward(dtype=torch.float32, **options):
    """A reward of tokens by a random process reward model; a step is three characters."""
    model = ScalarHeadModel.from_pretrained(TINY, seed=5, dtype=dtype)
    with torch.no_grad():
        model.head.weight *= 60  # scores spread over (0, 1)
    tokenizer = load_tokenizer(TINY)

    def threes(text):
        return [Step(start, min(start + 3, len(text))) for start in range(0, len(text), 3)]

    return ProcessReward(model.eval(), tokenizer, tokenizer, threes, **options)


@dataclass
class Run:
    """A trainer with everything it handed out."""

    trainer: PPOTrainer
    policy: Any
    critic: Any
    start: dict[str, torch.Tensor]
    critic_start: dict[str, torch.Tensor]
    metrics: list[dict[str, Any]] = field(default_factory=list)
    samples: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    def moved(self) -> dict[str, float]:
        """How far each parameter of the policy is from its start."""
        now = self.policy.state_dict()
        return {name: float((now[name] - tensor).abs().max()) for name, tensor in self.start.items()}


def make_run(
    tmp_path,
    rewards=(even_share,),
    dtype=torch.float32,
    rows=8,
    eval_rows=0,
    stop=None,
    own_copy=False,
    model=TINY,
    lora=None,
    critic_lora=None,
    **settings,
) -> Run:
    """A PPO run that is ready to train; `settings` are PPOConfig's."""
    policy, tokenizer = load_policy(model, dtype=dtype)
    base = {
        "prompts_per_step": 4,
        "num_generations": 2,
        "max_steps": 2,
        "max_completion_length": 12,
        "learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "reward_requires_stop": False,
        "gradient_checkpointing": False,
        "bf16": False,
    }
    args = PPOConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **{**base, **settings},
    )
    critic = ScalarHeadModel.from_pretrained(model, dtype=dtype, seed=3) if args.advantage == "gae" else None
    if critic_lora is not None:
        critic.add_lora(critic_lora, seed=3)

    def dataset(count, offset=0):
        return Dataset.from_list(
            [
                {"id": f"{offset + i}", "prompt": [{"role": "user", "content": "?" * (1 + i)}], "answer": str(i)}
                for i in range(count)
            ]
        )

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
        dataset(rows),
        list(rewards),
        prompt_ids=lambda messages: tokenizer(tokenizer.apply_chat_template(messages, tokenize=False))["input_ids"],
        critic=critic,
        engine=ragged_engine(policy, tokenizer, own_copy=own_copy),
        processing_class=tokenizer,
        eval_dataset=dataset(eval_rows, 100) if eval_rows else None,
        on_metrics=run.metrics.append,
        on_completions=lambda step, samples: run.samples.__setitem__(step, samples),
        should_stop=stop,
        **({} if lora is None else {"peft_config": lora.peft_config()}),
    )
    if lora is not None:
        run.start = {name: tensor.clone() for name, tensor in run.trainer.model.state_dict().items()}
    return run


def movement_gap(start, ours, theirs) -> float:
    """||a - b|| / ||b - start|| over all parameters."""
    gap = sum(float((ours[name] - theirs[name]).double().square().sum()) for name in start)
    moved = sum(float((theirs[name] - start[name]).double().square().sum()) for name in start)
    return (gap / moved) ** 0.5
