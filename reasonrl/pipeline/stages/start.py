"""The models that a training stage starts from, as its recipe wants them loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reasonrl.models.lora import Lora
from reasonrl.pipeline.context import StageContext
from reasonrl.pipeline.stages.common import loading_options
from reasonrl.recipe import DPOStage, PPOStage, SFTStage

if TYPE_CHECKING:
    from reasonrl.models import ScalarHeadModel
    from reasonrl.recipe.launching import LaunchConfig


def policy_to_train(config: PPOStage | SFTStage | DPOStage, context: StageContext) -> tuple[Any, Any, dict[str, Any]]:
    """Policy, tokenizer, and what its trainer is told of an adapter."""
    from reasonrl.models import load_policy

    trust, options = loading_options(config.trl_args)
    lora = Lora.of(config.lora)
    if lora is not None:
        options |= lora.loading_options(_compute_dtype(config))
    policy, tokenizer = load_policy(context.model_of(config.model), trust_remote_code=trust, **options)
    return policy, tokenizer, {} if lora is None else {"peft_config": lora.peft_config()}


def critic_start(config: PPOStage, context: StageContext) -> str:
    """What the critic's backbone starts from: `critic_model`, or the policy's start."""
    return context.model_of(config.model if config.critic_model is None else config.critic_model)


def critic_to_train(config: PPOStage, context: StageContext, dtype: Any) -> ScalarHeadModel | None:
    """The critic, where the stage has one; `dtype` is the policy's."""
    from reasonrl.models import ScalarHeadModel

    if config.advantage != "gae":
        return None
    lora = Lora.of(config.critic_lora)
    critic = ScalarHeadModel.from_pretrained(
        critic_start(config, context),
        init=config.value_head_init,
        seed=context.seed,
        dtype=dtype,
        trust_remote_code=loading_options(config.trl_args)[0],
        **({} if lora is None else lora.loading_options(_compute_dtype(config))),
    )
    if lora is not None:
        # ZeRO-3 and FSDP gather parameters of one precision together.
        split = config.launch.splits and not lora.quantised
        critic.add_lora(lora, seed=context.seed, autocast=not split)
    return critic


def process_reward(config: PPOStage, context: StageContext, policy_tokenizer: Any) -> list[Any]:
    """The reward of a process reward model, where the stage has one."""
    wanted = config.process_reward
    if wanted is None:
        return []
    from reasonrl.pipeline.stages.segmenting import segmenter_of
    from reasonrl.prm.scoring import load_trained
    from reasonrl.prm.token_rewards import ProcessReward

    model, tokenizer = load_trained(context.model_of(wanted.model))
    return [
        ProcessReward(
            model,
            tokenizer,
            policy_tokenizer,
            segmenter_of(wanted.segment),
            weight=wanted.weight,
            form=wanted.form,
            offset=wanted.offset,
            clip=wanted.clip,
            average=wanted.average,
            max_length=wanted.max_length,
            tokens_per_microbatch=wanted.tokens_per_microbatch,
        )
    ]


def engine_for_adapter(config: PPOStage) -> dict[str, Any]:
    """Room in the engine for the adapter, where that is what goes over: the policy gets its layers later."""
    if config.lora is None or config.rollout.lora != "adapter":
        return {}
    return {"max_lora_rank": config.lora.r}


def ready_to_split(launch: LaunchConfig) -> None:
    """What has to be done before a model is loaded that the processes will share out."""
    if launch.deepspeed is not None:
        from reasonrl.trainers.zero import ready_for_deepspeed

        ready_for_deepspeed()
    if launch.fsdp is not None:
        from reasonrl.trainers.fsdp import ready_for_fsdp

        ready_for_fsdp()


def sharding(config: PPOStage | SFTStage | DPOStage, context: StageContext) -> dict[str, Any]:
    """The Trainer's arguments for `launch.deepspeed` and `launch.fsdp`."""
    if config.launch.fsdp is not None:
        from reasonrl.trainers.fsdp import fsdp_arguments

        return fsdp_arguments(config.launch.fsdp)
    if config.launch.deepspeed is None:
        return {}
    from reasonrl.trainers.zero import deepspeed_settings

    return {"deepspeed": deepspeed_settings(config.launch.deepspeed, context.base_directory)}


def _compute_dtype(config: PPOStage | SFTStage | DPOStage) -> Any:
    import torch

    return torch.bfloat16 if config.bf16 else torch.float32
