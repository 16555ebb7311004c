"""The `ppo` stage: reinforcement learning from verifiable rewards, with a critic or with group baselines."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.data_tools.layout import in_one_kind
from reasonrl.data_tools.prompts import prompt_ids, render_prompt
from reasonrl.errors import DataError
from reasonrl.models.lora import Lora
from reasonrl.observe import read_metrics
from reasonrl.pipeline.context import StageContext, StageResult
from reasonrl.pipeline.stages.common import (
    Source,
    Watch,
    check_rewards,
    engine_options,
    held_out_line,
    load_source,
    loading_options,
    one_device,
    prompt_lengths,
    quiet_libraries,
    required_columns,
    resume_point,
    vision_prompts,
)
from reasonrl.pipeline.stages.export import export_critic, export_policy
from reasonrl.pipeline.stages.start import (
    critic_start,
    critic_to_train,
    engine_for_adapter,
    policy_to_train,
    process_reward,
    sharding,
)
from reasonrl.recipe import PPOStage, Reference
from reasonrl.rewards import get_rewards
from reasonrl.rewards.pool import close_shared_pools
from reasonrl.rewards.versions import rule_versions
from reasonrl.trainers.checkpoints import best_of, complete_checkpoints, latest_complete, prune

if TYPE_CHECKING:
    from reasonrl.trainers.ppo import PPOTrainer

__all__ = ["dry_run", "resume_point", "run"]


def run(config: PPOStage, context: StageContext) -> StageResult:
    """Train, with checkpoints that a killed run resumes from exactly; final weights stand in `model/` and `critic/`."""
    from reasonrl.trainers.ppo_callbacks import CRITIC_FOLDER

    quiet_libraries()
    output = context.directory / "checkpoints"
    watch = Watch(context, config.max_steps)
    trainer, dropped = _trainer(config, context, output, watch)
    found = latest_complete(output) if context.resuming else None
    watch.rewind(found[0] if found else 0)
    if context.is_main:
        prune(output, keep_last=config.save_total_limit, keep=best_of(output))
    patience = config.early_stopping_patience
    if found is not None and patience is not None and _waited(output) >= patience:
        # Killed after its last step: the checkpoint is loaded, and no step is left to make.
        trainer.args.max_steps = found[0]
    try:
        trainer.train(resume_from_checkpoint=str(found[1]) if found else None)
    finally:
        close_shared_pools()
        trainer.engine.close()
    watch.close()
    stopped_early = trainer.state.global_step < config.max_steps
    if stopped_early:
        context.raise_if_stopping()
    best = _best_step(trainer) if config.load_best_model_at_end else None
    if best is not None and trainer.critic is not None:
        # The Trainer has put the best policy back; its critic goes with it.
        trainer.critic.load(output / f"checkpoint-{best}" / CRITIC_FOLDER)
    tokenizer, start = trainer.processing_class, context.model_of(config.model)
    export_policy(trainer, tokenizer, context.directory, start, Lora.of(config.lora))
    if trainer.critic is not None:
        start, adapter = critic_start(config, context), Lora.of(config.critic_lora)
        where = context.directory / "critic"
        export_critic(trainer.critic.unwrapped, tokenizer, where, start, adapter, main=context.is_main)
    metrics: dict[str, Any] = {"steps": trainer.state.global_step, "prompts_too_long": dropped}
    if best is not None:
        metrics["best_step"] = best
    # Of the step whose weights are handed on. Read back: a run that was killed after its last step has no other record.
    lines = read_metrics(context.directory / "metrics.jsonl") if context.is_main else []
    metrics |= {k: v for line in lines if line["step"] == (best or metrics["steps"]) for k, v in line.items()}
    return StageResult(
        model=Path("model"),
        critic=Path("critic") if trainer.critic is not None else None,
        metrics=metrics,
        checkpoints=complete_checkpoints(output),
    )


def dry_run(config: PPOStage, context: StageContext) -> list[str]:
    """Render the first prompts, build the reward, and say what a step would hold."""
    from reasonrl.models import load_tokenizer

    name = context.model_of(config.model) if context.is_available(config.model) else None
    tokenizer = load_tokenizer(name or "tiny:qwen2")
    rewards = get_rewards(_reward(config), base_dir=context.base_directory)
    if isinstance(config.data, Reference) and not context.is_available(config.data):
        return [f"data {config.data}: not there yet; unchecked"]
    source = load_source(config.data, context, required_columns(_reward(config)))
    check_rewards(rewards, source)
    length = prompt_lengths(tokenizer, vision_prompts(name, False) if name is not None else None)
    lengths = sorted(length({**row, "prompt": source.messages(row)}) for row in source.rows[:256])
    shaped = config.process_reward
    steps = [] if shaped is None else [f"process reward: {shaped.model}, {shaped.form} x {shaped.weight:g} a step"]
    return [
        *steps,
        f"data: {source.rows.report}",
        f"first {len(lengths)} prompts: {lengths[0]} to {lengths[-1]} tokens; with responses up to"
        f" {lengths[-1] + config.max_completion_length}",
        f"first prompt: {render_prompt(tokenizer, source.messages(source.rows[0]))!r}",
        *held_out_line(config.eval_data, context, required_columns(_reward(config))),
    ]


def identity_extra(config: PPOStage) -> dict[str, Any]:
    """Versions of the rules that the rewards judge by."""
    return rule_versions(_reward(config))


def _best_step(trainer: PPOTrainer) -> int | None:
    best = trainer.state.best_model_checkpoint
    return int(Path(best).name.removeprefix("checkpoint-")) if best else None


def _trainer(config: PPOStage, context: StageContext, output: Path, watch: Watch) -> tuple[PPOTrainer, int]:
    from datasets import Dataset
    from transformers import EarlyStoppingCallback, PrinterCallback

    from reasonrl.rollout import build_engine
    from reasonrl.trainers.ppo import PPOTrainer

    one_device(context)
    policy, tokenizer, adapter = policy_to_train(config, context)
    critic = critic_to_train(config, context, policy.dtype)
    rewards = get_rewards(_reward(config), base_dir=context.base_directory)
    source = load_source(config.data, context, required_columns(_reward(config)))
    check_rewards(rewards, source)
    # Before the arguments are made: with those of ZeRO-3, models are loaded in parts.
    shaping = process_reward(config, context, tokenizer)
    reader = vision_prompts(context.model_of(config.model), loading_options(config.trl_args)[0])
    rows, dropped = _prompt_rows(source, tokenizer, config, reader)
    validation = None
    if config.eval_data is not None:
        held_out = load_source(config.eval_data, context, required_columns(_reward(config)))
        check_rewards(rewards, held_out)
        validation = Dataset.from_list(_prompt_rows(held_out, tokenizer, config, reader)[0])
    engine = engine_options(config.rollout, config.max_completion_length, context.directory)
    engine |= engine_for_adapter(config)
    if loading_options(config.trl_args)[0] and config.rollout.engine in ("vllm", "servers"):
        engine["trust_remote_code"] = True
    if reader is not None:
        engine["processor"] = reader.processor
    if config.rollout.own_copy:
        engine["own_copy"] = True
    every = config.log_completions_steps
    trainer = PPOTrainer(
        policy,
        _arguments(config, context, output, validation is not None, reader is not None),
        Dataset.from_list(rows),
        [*rewards, *shaping],
        prompt_ids=lambda messages: prompt_ids(tokenizer, messages),
        critic=critic,
        engine=build_engine(config.rollout.engine, policy, tokenizer, **engine),
        eval_dataset=validation,
        on_metrics=watch.line,
        on_completions=lambda step, samples: _write(watch, step, samples) if step % every == 0 else None,
        should_stop=context.should_stop,
        on_alarm=context.say,
        keep_checkpoints=config.save_total_limit,
        behaviours=_behaviours(config.track_behaviours) if config.track_behaviours else None,
        processing_class=tokenizer if reader is None else reader.processor,
        **adapter,
    )
    trainer.remove_callback(PrinterCallback)
    if config.early_stopping_patience is not None:
        patience = EarlyStoppingCallback(early_stopping_patience=config.early_stopping_patience)
        patience.early_stopping_patience_counter = _waited(output) if context.resuming else 0
        trainer.add_callback(patience)
    return trainer, dropped


def _behaviours(most: int) -> Any:
    """Tells which of the first so many responses show which behaviour, by patterns."""
    from reasonrl.eval.behaviours import lexical_count, read_catalogue

    catalogue = list(read_catalogue().behaviours())
    return lambda texts: {one.name: [lexical_count(one, text) > 0 for text in texts[:most]] for one in catalogue}


def _waited(output: Path) -> int:
    """Validations without a better one, as the latest checkpoint remembers them; transformers would start at 0."""
    found = latest_complete(output)
    if found is None:
        return 0
    callbacks = json.loads((found[1] / "trainer_state.json").read_text())["stateful_callbacks"]
    if "EarlyStoppingCallback" not in callbacks:
        return 0
    return int(callbacks["EarlyStoppingCallback"]["attributes"]["early_stopping_patience_counter"])


def _write(watch: Watch, step: int, samples: list[dict[str, Any]]) -> None:
    if watch.completions is not None:
        watch.completions.write(step, samples)


def _prompt_rows(
    source: Source, tokenizer: Any, config: PPOStage, pictures: Any = None
) -> tuple[list[dict[str, Any]], int]:
    rows, dropped = [], 0
    length = prompt_lengths(tokenizer, pictures)
    for row in source.rows:
        asked = {**row, "prompt": source.messages(row)}
        if config.max_prompt_length is not None and length(asked) > config.max_prompt_length:
            dropped += 1
            continue
        rows.append(asked)
    # A data set takes its columns, and what they hold, from all rows alike.
    rows = in_one_kind(rows)
    if not rows:
        raise DataError(
            f"ppo: all {dropped} prompts are longer than max_prompt_length = {config.max_prompt_length} -> raise it"
        )
    return rows, dropped


def _reward(config: PPOStage) -> Any:
    return config.model_dump(mode="python")["reward"]


def _arguments(config: PPOStage, context: StageContext, output: Path, evaluate: bool, sees: bool = False) -> Any:
    import torch

    from reasonrl.trainers.ppo_config import PPOConfig

    # A field that both have means the same in both.
    same = {field.name for field in dataclasses.fields(PPOConfig)} & type(config).model_fields.keys()
    same -= {"seed", "save_steps", "eval_steps", "save_total_limit"}
    validates = evaluate and config.eval_steps is not None
    settings: dict[str, Any] = {
        **{name: getattr(config, name) for name in sorted(same)},
        "output_dir": str(output),
        "stage_name": context.name,
        "schedules": None if config.schedules is None else config.schedules.model_dump(),
        "max_logprob_gap": config.rollout.max_logprob_gap,
        "length_aware": config.rollout.length_aware,
        "seed": context.seed,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": config.save_steps or _save_steps(config),
        "eval_strategy": "steps" if validates else "no",
        "eval_steps": config.eval_steps,
        "metric_for_best_model": "eval_accuracy" if validates else None,
        "greater_is_better": True if validates else None,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "remove_unused_columns": False,
        # A batch of text leaves a vision tower without gradients.
        "ddp_find_unused_parameters": sees,
        **sharding(config, context),
    }
    return PPOConfig(**{**settings, **config.trl_args})


def _save_steps(config: PPOStage) -> int:
    """How often to save when the recipe does not say: a tenth of the run, on validated steps where the best is kept."""
    if config.load_best_model_at_end and config.eval_steps is not None:
        return config.eval_steps
    return max(1, config.max_steps // 10)
