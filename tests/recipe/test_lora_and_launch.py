"""LoRA and ZeRO in recipes: what the keys become, and combinations that are refused with the fix."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from reasonrl.models.lora import Lora
from reasonrl.recipe.launching import LaunchConfig
from reasonrl.recipe.stages import PPOStage, SFTStage

PPO = {
    "kind": "ppo",
    "model": "tiny:qwen2",
    "data": {"world": "arithmetic", "n": 8},
    "reward": "math",
    "prompts_per_step": 4,
    "num_generations": 2,
    "max_completion_length": 8,
    "max_steps": 1,
}


def refused(stage, /, **settings) -> str:
    with pytest.raises(ValidationError) as found:
        stage(**settings)
    return " ".join(
        f"{'.'.join(map(str, e['loc']))} {e['msg']} {e.get('ctx', {}).get('fix', '')}" for e in found.value.errors()
    )


def test_an_adapter_is_what_the_recipe_says():
    stage = PPOStage(**PPO, lora={"r": 8, "target_modules": ["q_proj"]}, critic_lora={})
    assert Lora.of(stage.lora) == Lora(r=8, target_modules=("q_proj",)) and Lora.of(stage.critic_lora) == Lora()
    config = Lora.of(stage.lora).peft_config()
    assert (config.r, config.lora_alpha, config.target_modules) == (8, 32, {"q_proj"})
    assert Lora.of(PPOStage(**PPO).lora) is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"critic_lora": {}, "advantage": "rloo"}, "critic_lora is given, but advantage: rloo has no critic"),
        (
            {"rollout": {"engine": "vllm", "lora": "adapter"}},
            "rollout.lora is adapter, but the stage trains no adapter",
        ),
        (
            {"lora": {"modules_to_save": ["embed_tokens"]}, "rollout": {"engine": "vllm", "lora": "adapter"}},
            "rollout.lora is adapter, but lora.modules_to_save",
        ),
        ({"lora": {}, "rollout": {"lora": "merge"}}, "set engine: vllm or servers"),
        ({"lora": {"load_in_4bit": True}, "rollout": {"engine": "vllm"}}, "use rollout.engine: transformers"),
        ({"lora": {"load_in_8bit": True}, "rollout": {"own_copy": True}}, "own_copy: false"),
        (
            {"critic_lora": {"load_in_4bit": True}, "launch": {"num_processes": 2, "deepspeed": "zero2"}},
            "critic_lora is quantised, and launch.deepspeed: zero2",
        ),
        ({"lora": {"load_in_4bit": True, "load_in_8bit": True}}, "load_in_8bit is true, and load_in_4bit is too"),
        ({"lora": {"bnb_4bit_quant_type": "fp4"}}, "but load_in_4bit is false"),
        ({"lora": {}, "freeze": ["vision_tower"]}, "freeze is"),
        (
            {"lora": {"load_in_4bit": True}, "launch": {"num_processes": 2, "fsdp": "full_shard"}},
            "lora is quantised, and launch.fsdp: full_shard cannot split",
        ),
        ({"fsdp": "full_shard"}, "set launch.fsdp (full_shard, shard_grad_op)"),
        ({"deepspeed": "ds.json"}, "set launch.deepspeed (zero1, zero2, zero3)"),
    ],
)
def test_what_cannot_work_is_refused_with_the_fix(settings, words):
    assert words in refused(PPOStage, **{**PPO, **settings})


def test_an_adapter_may_be_sft_s_too():
    sft = {"kind": "sft", "model": "tiny:qwen2", "data": {"world": "arithmetic", "n": 8}}
    assert SFTStage(**sft, lora={}).lora.r == 16
    assert "load_in_8bit" in refused(SFTStage, **sft, lora={"load_in_4bit": True, "load_in_8bit": True})


def test_zero_wants_a_name_and_something_to_share_out():
    assert LaunchConfig(num_processes=2, deepspeed="zero3").deepspeed == "zero3"
    assert LaunchConfig(num_processes=2, deepspeed="mine.json").deepspeed == "mine.json"
    assert "allowed: zero1, zero2, zero3, or a file" in refused(LaunchConfig, num_processes=2, deepspeed="zero4")
    assert "raise launch.num_processes" in refused(LaunchConfig, deepspeed="zero3")


def test_fsdp_wants_processes_and_no_zero_beside_it():
    launch = LaunchConfig(num_processes=2, fsdp="shard_grad_op")
    assert launch.splits and launch.zero_stage == 2 and LaunchConfig(num_processes=2, fsdp="full_shard").zero_stage == 3
    assert LaunchConfig(num_processes=2, deepspeed="zero1").zero_stage == 1 and not LaunchConfig().splits
    assert "raise launch.num_processes" in refused(LaunchConfig, fsdp="full_shard")
    both = refused(LaunchConfig, num_processes=2, fsdp="full_shard", deepspeed="zero3")
    assert "only one of them can split" in both and "remove one of them" in both
