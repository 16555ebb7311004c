"""The `dpo` stage: TRL's DPOTrainer on pairs of logged samples."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.models.lora import Lora
from reasonrl.pipeline.context import StageContext, StageResult
from reasonrl.pipeline.stages.common import Watch, one_device, quiet_libraries, resume_point
from reasonrl.pipeline.stages.export import export_policy
from reasonrl.pipeline.stages.logged import placed_rows
from reasonrl.pipeline.stages.start import policy_to_train, ready_to_split
from reasonrl.pipeline.stages.trl_training import last_line, train_or_resume, trainer_settings
from reasonrl.recipe import DPOStage
from reasonrl.trainers.checkpoints import complete_checkpoints

if TYPE_CHECKING:
    from reasonrl.trainers.dpo import Pairs
    from reasonrl.trainers.logged_rows import LoggedData

__all__ = ["dry_run", "resume_point", "run"]

LOOKED_AT = 256


def run(config: DPOStage, context: StageContext) -> StageResult:
    """Train, with checkpoints that a killed run resumes from; the final model stands in `model/`."""
    import torch
    from datasets import Dataset
    from trl import DPOConfig

    from reasonrl.trainers._trl import TokenisedDPO
    from reasonrl.trainers.sft import SFTCallback

    quiet_libraries()
    output = context.directory / "checkpoints"
    one_device(context)
    ready_to_split(config.launch)
    model, tokenizer, adapter = policy_to_train(config, context)
    data, pairs = _pairs(config, context, tokenizer, model.config.get_text_config().vocab_size)
    context.say(f"{data.report}; {_said(pairs)}")
    watch = Watch(context, config.max_steps)
    callback = SFTCallback(output, watch.line, context.should_stop, context.cpu_seconds, None, config.save_total_limit)
    settings = {
        **trainer_settings(config, context, output),
        "beta": config.beta,
        # Longer pairs were left out: a part of a response is another response.
        "max_length": None,
        "save_steps": config.save_steps or 0.1,
    }
    torch.manual_seed(context.seed)  # of an adapter's start
    trainer = TokenisedDPO(
        model=model,
        args=DPOConfig(**{**settings, **config.trl_args}),
        train_dataset=Dataset.from_list(pairs.rows),
        processing_class=tokenizer,
        callbacks=[callback],
        **adapter,
    )
    train_or_resume(trainer, callback, watch, context, output, config.save_total_limit)
    export_policy(trainer, tokenizer, context.directory, context.model_of(config.model), Lora.of(config.lora))
    counts = {"pairs": len(pairs.rows), "problems": pairs.problems, "problems_one_sided": pairs.one_sided}
    aside = {"samples": len(data.samples), "rows_set_aside": sum(data.set_aside.values())}
    return StageResult(
        model=Path("model"),
        metrics={"steps": trainer.state.global_step, **last_line(context), **counts, **aside},
        checkpoints=complete_checkpoints(output),
    )


def dry_run(config: DPOStage, context: StageContext) -> list[str]:
    """Pair some samples and say what a step would hold."""
    from reasonrl.models import load_tokenizer

    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * config.launch.num_processes
    lines = [f"a step holds {batch} pairs"]
    if not context.is_available(config.data):
        return [f"data {getattr(config.data, 'path', config.data)}: not there yet; unchecked", *lines]
    name = context.model_of(config.model) if context.is_available(config.model) else None
    data, pairs = _pairs(config, context, load_tokenizer(name or "tiny:qwen2"), None, LOOKED_AT)
    return [f"data: first {data.counts['rows']} rows: {data.report}; {_said(pairs)}", *lines]


def _pairs(
    config: DPOStage, context: StageContext, tokenizer: Any, vocabulary: int | None, at_most: int | None = None
) -> tuple[LoggedData, Pairs]:
    from reasonrl.trainers.dpo import make_pairs
    from reasonrl.trainers.logged_rows import Reading, read_logged

    reading = Reading(
        mined="none",
        damaged=config.damaged,
        logprobs=config.logprobs,
        max_length=config.max_length,
        seed=context.seed,
        vocabulary=vocabulary,
    )
    data = read_logged(itertools.islice(placed_rows(config.data, context), at_most), tokenizer, "bcpg", reading)
    return data, make_pairs(data.samples, config.pairs_per_problem, context.seed)


def _said(pairs: Pairs) -> str:
    beside = f", {pairs.one_sided:,} have answers of one kind only" if pairs.one_sided else ""
    return f"{len(pairs.rows):,} pairs of {pairs.problems:,} problems{beside}"
