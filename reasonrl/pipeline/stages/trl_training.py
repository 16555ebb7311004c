"""What the stages over TRL's own trainers share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.observe import read_metrics
from reasonrl.pipeline.context import StageContext
from reasonrl.pipeline.stages.start import sharding

if TYPE_CHECKING:
    from reasonrl.pipeline.stages.common import Watch
    from reasonrl.recipe import DPOStage, SFTStage
    from reasonrl.trainers.sft import SFTCallback


def trainer_settings(config: SFTStage | DPOStage, context: StageContext, output: Path) -> dict[str, Any]:
    """Arguments of the trainer that follow from the stage's own keys, whatever it learns."""
    import torch

    settings: dict[str, Any] = {
        "output_dir": str(output),
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.lr_scheduler_type,
        "warmup_steps": config.warmup_steps,
        "max_steps": config.max_steps or -1,
        "per_device_train_batch_size": config.per_device_train_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "weight_decay": config.weight_decay,
        "adam_beta1": config.adam_beta1,
        "adam_beta2": config.adam_beta2,
        "max_grad_norm": config.max_grad_norm,
        "bf16": config.bf16,
        "gradient_checkpointing": config.gradient_checkpointing,
        "logging_steps": config.logging_steps,
        "save_strategy": "steps",
        "seed": context.seed,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        **sharding(config, context),
    }
    if config.epochs is not None:
        settings["num_train_epochs"] = config.epochs
    return settings


def train_or_resume(
    trainer: Any, callback: SFTCallback, watch: Watch, context: StageContext, output: Path, save_total_limit: int
) -> None:
    """Train to the end from the latest whole checkpoint, or from the start.

    Raises:
        Interrupted: asked to stop; what was reached is saved.
    """
    from transformers import PrinterCallback

    from reasonrl.trainers.checkpoints import best_of, latest_complete, prune, require_layout
    from reasonrl.trainers.fsdp import name_layers
    from reasonrl.trainers.zero import layout_of

    trainer.remove_callback(PrinterCallback)
    name_layers(trainer.accelerator, trainer.model)
    found = latest_complete(output) if context.resuming else None
    watch.rewind(found[0] if found else 0)
    if found is not None:
        require_layout(found[1], **layout_of(trainer.accelerator))
        callback.resume(found[1])
    if context.is_main:
        prune(output, keep_last=save_total_limit, keep=best_of(output))
    if found is not None and callback.out_of_budget():
        # Killed after its last step: the checkpoint is loaded, and no step is left to make.
        trainer.args.max_steps = found[0]
    trainer.train(resume_from_checkpoint=str(found[1]) if found else None)
    watch.close()
    if callback.interrupted:
        context.raise_if_stopping()


def last_line(context: StageContext) -> dict[str, Any]:
    """The figures of the last line; the Trainer's own summary forgets what a resumed run did before."""
    lines = read_metrics(context.directory / "metrics.jsonl") if context.is_main else []
    return {name: value for name, value in lines[-1].items() if name != "step"} if lines else {}
