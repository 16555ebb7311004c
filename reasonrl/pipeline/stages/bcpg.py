"""The `bcpg` stage: a policy trained on logged samples."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import DataError
from reasonrl.models.lora import Lora
from reasonrl.observe import read_metrics
from reasonrl.pipeline.context import StageContext, StageResult
from reasonrl.pipeline.files import write_json
from reasonrl.pipeline.stages.common import Watch, one_device, quiet_libraries, resume_point
from reasonrl.pipeline.stages.export import export_policy
from reasonrl.pipeline.stages.logged import accelerator_for, placed_rows
from reasonrl.recipe import BCPGStage
from reasonrl.trainers.checkpoints import complete_checkpoints, latest_complete, prune

if TYPE_CHECKING:
    from reasonrl.trainers.bcpg import BCPGConfig
    from reasonrl.trainers.logged_rows import LoggedData

__all__ = ["dry_run", "resume_point", "run"]

DATA_FILE = "data.json"
LOOKED_AT = 256


def run(config: BCPGStage, context: StageContext) -> StageResult:
    """Read the samples, read the reference once, train, with checkpoints that a killed run resumes from exactly; the
    final model stands in `model/`, what became of the rows in `data.json`.
    """
    from reasonrl.models import load_policy
    from reasonrl.models.lora import add_lora
    from reasonrl.trainers.bcpg import POLICY_FOLDER, BCPGTrainer

    quiet_libraries()
    one_device(context)
    accelerator = accelerator_for(config, context)
    start, lora = context.model_of(config.model), Lora.of(config.lora)
    options = {} if lora is None else lora.loading_options(_dtype(config))
    policy, tokenizer = load_policy(start, **options)
    if lora is not None:
        # ZeRO-3 gathers parameters of one precision together.
        split = config.launch.splits and not lora.quantised
        policy = add_lora(policy, lora, seed=context.seed, autocast=not split)
        if config.gradient_checkpointing:
            policy.enable_input_require_grads()
    context.report_progress(0, None, "samples", "reading the samples")
    data = _read(config, context, tokenizer, policy.config.get_text_config().vocab_size)
    settings = _settings(config, context, data)
    _tell(config, context, data, settings)
    output, watch = context.directory / "checkpoints", Watch(context, None)
    named = context.model_of(config.reference_model) if config.reference_model is not None else start
    trainer = BCPGTrainer(
        policy,
        tokenizer,
        settings,
        data,
        accelerator=accelerator,
        output=output,
        reference=context.directory / "reference",
        reference_name=named,
        on_metrics=watch.line,
        should_stop=context.should_stop,
    )
    watch.total = trainer.total
    found = latest_complete(output) if context.resuming else None
    watch.rewind(found[0] if found else 0)
    if context.is_main:
        prune(output, keep_last=config.save_total_limit, keep=set())
    _make_reference(trainer, None if named == start else named, context)
    trainer.train(found[1] if found else None)
    watch.close()
    if trainer.interrupted:
        context.raise_if_stopping()
    export_policy(trainer, tokenizer, context.directory, start, lora)
    lines = read_metrics(context.directory / "metrics.jsonl") if context.is_main else []
    last = {name: value for name, value in lines[-1].items() if name != "step"} if lines else {}
    plain = lora is None and not config.launch.splits
    kept = complete_checkpoints(output)
    return StageResult(
        model=Path("model"),
        metrics={"steps": trainer.step, **last, "tau": settings.tau, **_counts(data)},
        checkpoints={step: path / POLICY_FOLDER for step, path in kept.items()} if plain else {},
    )


def dry_run(config: BCPGStage, context: StageContext) -> list[str]:
    """Read the first samples, and say what a step would hold."""
    from reasonrl.models import load_tokenizer

    lines = [f"a step holds {config.samples_per_step} samples, packed into {config.tokens_per_microbatch} tokens"]
    if not context.is_available(config.data):
        return [f"data {getattr(config.data, 'path', config.data)}: not there yet; unchecked", *lines]
    name = context.model_of(config.model) if context.is_available(config.model) else None
    data = _read(config, context, load_tokenizer(name or "tiny:qwen2"), None, at_most=LOOKED_AT)
    tau = _settings(config, context, data).tau
    return [f"data: first {data.counts['rows']} rows: {data.report}", f"tau = {tau:.4g}", *lines]


def _read(
    config: BCPGStage, context: StageContext, tokenizer: Any, vocabulary: int | None, at_most: int | None = None
) -> LoggedData:
    import itertools

    from reasonrl.trainers.logged_rows import Reading, read_logged

    reading = Reading(
        mined=config.mined,
        damaged=config.damaged,
        logprobs=config.logprobs,
        truncated=config.truncated,
        max_length=config.max_length,
        seed=context.seed,
        vocabulary=vocabulary,
        oracle=_oracle if config.world is not None else None,
    )
    rows = itertools.islice(placed_rows(config.data, context), at_most)
    return read_logged(rows, tokenizer, config.method, reading, positive_weight=config.positive_weight)


def _oracle(row: Mapping[str, Any]) -> list[int | None]:
    from reasonrl.data_tools.worlds.reflective import read_trace

    reading = read_trace(row["problem"], row["text"])
    if [list(span) for span in reading.steps] != [list(span) for span in row["steps"]]:
        raise DataError("the steps are not the lines of the text -> annotate with segment: {method: lines}")
    return list(reading.labels)


def _settings(config: BCPGStage, context: StageContext, data: LoggedData) -> BCPGConfig:
    from reasonrl.algorithms.bcpg import start_tau
    from reasonrl.trainers.bcpg import BCPGConfig

    names = {field.name for field in dataclasses.fields(BCPGConfig)} & type(config).model_fields.keys()
    names -= {"num_train_epochs", "tau", "eval_steps"}
    tau = config.tau if config.tau is not None else "auto" if config.method == "bcpg" else 0.0
    settings = BCPGConfig(
        **{name: getattr(config, name) for name in sorted(names)},
        num_train_epochs=config.num_train_epochs or 1.0,
        tau=start_tau(data.mean_length or 1) if tau == "auto" else float(tau),
        uniform=config.mined == "uniform",
        seed=context.seed,
    )
    total = settings.total_steps(len(data.samples))
    if config.warmup_ratio:
        settings = dataclasses.replace(settings, warmup_steps=math.ceil(config.warmup_ratio * total))
    if settings.save_steps is None:
        settings = dataclasses.replace(settings, save_steps=max(1, total // 10))
    return settings


def _tell(config: BCPGStage, context: StageContext, data: LoggedData, settings: BCPGConfig) -> None:
    total = settings.total_steps(len(data.samples))
    context.say(f"{data.report}; {total:,} steps of {settings.samples_per_step} samples")
    if config.method == "bcpg" and config.tau in (None, "auto"):
        context.say(
            f"tau = {settings.tau:.4g}: 1e-3 x 7,922 / {data.mean_length:,.1f}, the mean tokens of a wrong answer; a"
            " start value -> compare arms over a sweep of tau"
        )
    if context.is_main:
        faults = {"set_aside": dict(data.set_aside), "first_fault": data.first_fault}
        write_json(context.directory / DATA_FILE, {**_counts(data), **faults, "tau": settings.tau})


def _make_reference(trainer: Any, other: str | None, context: StageContext) -> None:
    """Read the reference's log-probabilities, from another model than the policy's start where one is named."""

    def report(done: int, total: int) -> None:
        context.report_progress(done, total, "files", "reading the reference")
        context.raise_if_stopping()

    if other is None:
        trainer.make_reference(report=report)
        return
    from reasonrl.models import load_policy

    model, _ = load_policy(other)
    model.to(trainer.accelerator.device)
    trainer.make_reference(model, report)


def _counts(data: LoggedData) -> dict[str, Any]:
    c = data.counts
    return {
        "samples": len(data.samples),
        "problems": c["prompts"],
        "samples_wrong": c["samples_wrong"],
        "wrong_labelled": c["wrong_labelled"],
        "wrong_unlabelled": c["wrong_unlabelled"],
        "samples_truncated": c["samples_truncated"],
        "samples_left_out": c["left_out_truncated"] + c["left_out_long"],
        "rows_set_aside": sum(data.set_aside.values()),
        "problems_all_alike": c["prompts_alike"],
        "response_tokens": c["tokens"],
        "mined_share": data.mined_share,
    }


def _dtype(config: BCPGStage) -> Any:
    import torch

    return torch.bfloat16 if config.bf16 else torch.float32
