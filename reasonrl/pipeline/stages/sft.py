"""The `sft` stage: supervised fine-tuning on rows with a written solution, by TRL's SFTTrainer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.data_tools.prompts import prompt_ids, render_prompt
from reasonrl.errors import RunError
from reasonrl.models.lora import Lora
from reasonrl.pipeline.context import StageContext, StageResult
from reasonrl.pipeline.stages.common import (
    Source,
    Watch,
    held_out_line,
    load_source,
    loading_options,
    one_device,
    quiet_libraries,
    resume_point,
    vision_prompts,
)
from reasonrl.pipeline.stages.export import export_policy
from reasonrl.pipeline.stages.start import policy_to_train, ready_to_split
from reasonrl.pipeline.stages.trl_training import last_line, train_or_resume, trainer_settings
from reasonrl.recipe import Reference, SFTStage
from reasonrl.trainers.checkpoints import complete_checkpoints

if TYPE_CHECKING:
    from reasonrl.trainers.sft import Examples

__all__ = ["dry_run", "resume_point", "run"]

REQUIRED = ("problem", "solution")


def run(config: SFTStage, context: StageContext) -> StageResult:
    """Train, with checkpoints that a killed run resumes from; the final model stands in `model/`."""
    import torch
    from datasets import Dataset
    from trl import SFTTrainer

    from reasonrl.trainers.checkpoint_names import LoadsByNames
    from reasonrl.trainers.padding_free import PaddingFree
    from reasonrl.trainers.picture_collator import PictureCollator
    from reasonrl.trainers.sft import SFTCallback

    quiet_libraries()
    output = context.directory / "checkpoints"
    one_device(context)
    ready_to_split(config.launch)
    model, tokenizer, adapter = policy_to_train(config, context)
    reader = vision_prompts(context.model_of(config.model), loading_options(config.trl_args)[0])
    examples = _examples(load_source(config.data, context, REQUIRED), tokenizer, config, pictures=reader)
    held_out = None
    if config.eval_data is not None:
        held_out = Dataset.from_list(
            _examples(load_source(config.eval_data, context, REQUIRED), tokenizer, config, pictures=reader).rows
        )
    budget = _budget(config, context)
    watch = Watch(context, config.max_steps if budget is None else None, budget)
    callback = SFTCallback(
        output,
        watch.line,
        context.should_stop,
        context.cpu_seconds,
        budget,
        config.save_total_limit,
        None if reader is None else reader.processor,
    )
    torch.manual_seed(context.seed)  # of an adapter's start
    trainer = type("SFTTrainer", (PaddingFree, LoadsByNames, SFTTrainer), {})(
        model=model,
        args=_arguments(config, context, output, held_out is not None, pictured=reader is not None),
        train_dataset=Dataset.from_list(examples.rows),
        eval_dataset=held_out,
        processing_class=tokenizer,
        data_collator=PictureCollator(reader) if reader is not None else None,
        callbacks=[callback],
        **adapter,
    )
    packed = config.padding_free and reader is None and not config.packing
    packed = packed and trainer.drop_padding(model, tokenizer, half=config.bf16) is None
    train_or_resume(trainer, callback, watch, context, output, config.save_total_limit)
    saved = tokenizer if reader is None else reader.processor
    export_policy(trainer, saved, context.directory, context.model_of(config.model), Lora.of(config.lora))
    return StageResult(
        model=Path("model"),
        metrics={
            "steps": trainer.state.global_step,
            **last_line(context),
            "examples": len(examples.rows),
            "examples_too_long": examples.too_long,
            "tokens": examples.tokens,
            "padding_free": float(packed),
        },
        checkpoints=complete_checkpoints(output),
    )


def dry_run(config: SFTStage, context: StageContext) -> list[str]:
    """Tokenize some examples and say what a step would hold."""
    from reasonrl.models import load_tokenizer

    name = context.model_of(config.model) if context.is_available(config.model) else None
    tokenizer = load_tokenizer(name or "tiny:qwen2")
    if not context.is_available(config.data):
        return [f"data {getattr(config.data, 'path', config.data)}: not there yet; unchecked"]
    source = load_source(config.data, context, REQUIRED)
    reader = vision_prompts(name, False) if name is not None else None
    examples = _examples(source, tokenizer, config, at_most=64, pictures=reader)
    lengths = sorted(len(example["input_ids"]) for example in examples.rows)
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * config.launch.num_processes
    return [
        f"data: {source.rows.report}",
        f"first {len(lengths)} examples: {lengths[0]} to {lengths[-1]} tokens, median {lengths[len(lengths) // 2]}",
        f"a step holds {batch} sequences; first prompt: {render_prompt(tokenizer, source.messages(source.rows[0]))!r}",
        *held_out_line(config.eval_data, context, REQUIRED),
    ]


def _examples(
    source: Source, tokenizer: Any, config: SFTStage, at_most: int | None = None, pictures: Any = None
) -> Examples:
    from reasonrl.trainers.sft import build_examples

    return build_examples(
        source.rows[:at_most],
        tokenizer,
        messages_of=source.messages,
        render=render_prompt,
        prompt_ids=prompt_ids,
        max_length=config.max_length,
        completion_only_loss=config.completion_only_loss,
        pictures=pictures,
    )


def _budget(config: SFTStage, context: StageContext) -> float | None:
    budget = config.max_cpu_seconds
    return context.result_of(budget).cpu_seconds if isinstance(budget, Reference) else budget


def _arguments(config: SFTStage, context: StageContext, output: Path, evaluate: bool, pictured: bool = False) -> Any:
    from trl import SFTConfig

    if pictured and config.packing:
        raise RunError(
            "sft: packing joins texts, and a vision-language model's rows may have pictures -> packing: false"
        )
    settings: dict[str, Any] = {
        **trainer_settings(config, context, output),
        "max_length": config.max_length,
        "packing": config.packing,
        # A share of all steps, for transformers: whoever says nothing loses a tenth of the work at most. A CPU budget
        # ends long before `max_steps`, so its checkpoints are counted in steps.
        "save_steps": config.save_steps or (0.1 if config.max_cpu_seconds is None else 100),
        "eval_strategy": "steps" if evaluate else "no",
        "eval_steps": config.logging_steps if evaluate else None,
        "completion_only_loss": False,
    }
    if pictured:
        # The examples are whole already, and their pictures are wanted by the collator.
        settings |= {"remove_unused_columns": False, "dataset_kwargs": {"skip_prepare_dataset": True}}
    return SFTConfig(**{**settings, **config.trl_args})
