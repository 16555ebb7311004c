"""The `prm` stage: a process reward model from solutions with labelled steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.data_tools.prompts import render_prompt
from reasonrl.errors import DataError
from reasonrl.models.lora import Lora
from reasonrl.observe import read_metrics
from reasonrl.pipeline.context import StageContext, StageResult
from reasonrl.pipeline.files import write_json
from reasonrl.pipeline.stages.common import Source, Watch, load_source, one_device, quiet_libraries, resume_point
from reasonrl.pipeline.stages.export import export_critic
from reasonrl.pipeline.stages.logged import accelerator_for
from reasonrl.prm.training_data import PreparedSolutions, prepare_solutions
from reasonrl.recipe import PRMStage, Reference
from reasonrl.trainers.checkpoints import complete_checkpoints, latest_complete, prune

if TYPE_CHECKING:
    from reasonrl.models import ScalarHeadModel
    from reasonrl.trainers.prm import Example, PRMConfig

__all__ = ["dry_run", "resume_point", "run"]

REQUIRED = ("problem",)
FIGURES = "step_metrics.json"


def run(config: PRMStage, context: StageContext) -> StageResult:
    """Train, with checkpoints that a killed run resumes from exactly; the final model stands in `model/`, and the
    figures on `eval_data` in `step_metrics.json`.
    """
    from reasonrl.models import reads_images
    from reasonrl.prm.scoring import reader_of_text
    from reasonrl.trainers.prm import HEAD_FOLDER, Example, PRMTrainer

    quiet_libraries()
    one_device(context)
    # Text leaves a vision tower without gradients.
    accelerator = accelerator_for(config, context, unused=reads_images(context.model_of(config.model)))
    tokenizer = reader_of_text(context.model_of(config.model))
    prepared = _prepare(config, config.data, context, tokenizer)
    context.say(prepared.report)
    held_out = None if config.eval_data is None else _prepare(config, config.eval_data, context, tokenizer, raw=True)
    output, lora = context.directory / "checkpoints", Lora.of(config.lora)
    examples = [Example(one, targets) for one, targets in zip(prepared.encoded, prepared.targets, strict=True)]
    settings = _settings(config, context.seed, examples)
    figures: dict[str, Any] = {}

    def evaluate(model: ScalarHeadModel) -> dict[str, Any]:
        figures.clear()
        figures.update(_figures(model, tokenizer, held_out, config))
        return _flat(figures)

    watch = Watch(context, None)
    trainer = PRMTrainer(
        _model(config, context, lora),
        tokenizer,
        settings,
        examples,
        accelerator=accelerator,
        output=output,
        on_metrics=watch.line,
        evaluate=None if held_out is None else evaluate,
        should_stop=context.should_stop,
    )
    watch.total = trainer.total
    found = latest_complete(output) if context.resuming else None
    watch.rewind(found[0] if found else 0)
    if context.is_main:
        prune(output, keep_last=config.save_total_limit, keep=set())
    trainer.train(found[1] if found else None)
    watch.close()
    if trainer.interrupted:
        context.raise_if_stopping()
    if held_out is not None and not figures:
        evaluate(trainer.model)  # killed after its last step
    start = context.model_of(config.model)
    export_critic(trainer.model, tokenizer, context.directory / "model", start, lora, main=context.is_main)
    if figures and context.is_main:
        write_json(context.directory / FIGURES, figures)
        context.say(_table(figures))
    lines = read_metrics(context.directory / "metrics.jsonl") if context.is_main else []
    last = {name: value for name, value in lines[-1].items() if name != "step"} if lines else {}
    plain = lora is None and not config.launch.splits
    return StageResult(
        model=Path("model"),
        metrics={"steps": trainer.step, **last, **_flat(figures, "eval/"), **prepared.counts},
        checkpoints={step: path / HEAD_FOLDER for step, path in complete_checkpoints(output).items()} if plain else {},
    )


def dry_run(config: PRMStage, context: StageContext) -> list[str]:
    """Encode some solutions and say what a step would hold."""
    from reasonrl.prm.scoring import reader_of_text

    name = context.model_of(config.model) if context.is_available(config.model) else None
    tokenizer = reader_of_text(name or "tiny:qwen2")
    lines = []
    for key, source in (("data", config.data), ("eval_data", config.eval_data)):
        if source is None:
            continue
        if isinstance(source, Reference) and not context.is_available(source):
            lines.append(f"{key} {source}: not there yet; unchecked")
            continue
        prepared = _prepare(config, source, context, tokenizer, at_most=256)
        lines.append(f"{key}: first {len(prepared.encoded)} solutions: {prepared.report}")
        if key == "data":
            rows = load_source(source, context, REQUIRED)
            lines.append(f"first prompt: {_first_prompt(tokenizer, rows)!r}")
    return [*lines, f"a step holds {config.solutions_per_step} solutions, packed into {config.tokens_per_microbatch}"]


def _first_prompt(tokenizer: Any, source: Source) -> str:
    row, messages = source.rows[0], source.messages(source.rows[0])
    if not hasattr(tokenizer, "tokenizer"):
        return render_prompt(tokenizer, messages)
    from reasonrl.rollout.picture_prompts import PicturePrompts

    return PicturePrompts(tokenizer).text({**row, "prompt": messages})


def _prepare(
    config: PRMStage,
    source: Any,
    context: StageContext,
    tokenizer: Any,
    at_most: int | None = None,
    raw: bool = False,
) -> PreparedSolutions:
    """`raw`: labels as they are, to measure by."""
    found: Source = load_source(source, context, REQUIRED)
    return prepare_solutions(
        found.rows[:at_most],
        tokenizer,
        max_length=config.max_length,
        labels="hard" if raw else config.labels,
        label_rule="all" if raw else config.label_rule,
        messages=found.messages,
    )


def _settings(config: PRMStage, seed: int, examples: Sequence[Example]) -> PRMConfig:
    """The trainer's settings; without `save_steps`, a checkpoint at every tenth of the run."""
    from reasonrl.trainers.prm import PRMConfig

    names = {field.name for field in dataclasses.fields(PRMConfig)} & type(config).model_fields.keys()
    names -= {"num_train_epochs"}
    settings = PRMConfig(
        **{name: getattr(config, name) for name in sorted(names)},
        num_train_epochs=config.num_train_epochs or 1.0,
        seed=seed,
    )
    if settings.save_steps is None:
        total = settings.total_steps(sum(example.labelled > 0 for example in examples))
        settings = dataclasses.replace(settings, save_steps=max(1, total // 10))
    return settings


def _model(config: PRMStage, context: StageContext, lora: Lora | None) -> ScalarHeadModel:
    import torch

    from reasonrl.models import ScalarHeadModel

    options = {} if lora is None else lora.loading_options(torch.bfloat16 if config.bf16 else torch.float32)
    model = ScalarHeadModel.from_pretrained(
        context.model_of(config.model), init=config.head_init, seed=context.seed, **options
    )
    if lora is not None:
        # ZeRO-3 gathers parameters of one precision together.
        split = config.launch.splits and not lora.quantised
        model.add_lora(lora, seed=context.seed, autocast=not split)
    return model


def _figures(model: ScalarHeadModel, tokenizer: Any, held_out: Any, config: PRMStage) -> dict[str, Any]:
    from reasonrl.prm.scoring import StepScorer
    from reasonrl.prm.step_metrics import always_right, flat_pairs, step_metrics

    scorer = StepScorer(model, tokenizer, tokens_per_microbatch=config.tokens_per_microbatch)
    scores = scorer.score_encoded(held_out.encoded)
    values, right = flat_pairs(scores, held_out.targets)
    if not values:
        raise DataError("prm: eval_data has no labelled step within max_length -> label it, or raise max_length")
    return {
        "threshold": config.threshold,
        "model": step_metrics(values, right, config.threshold).as_dict(),
        "always right": always_right(right).as_dict(),
    }


def _flat(figures: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """What a line holds of the figures; who calls every step right beside the model."""
    if not figures:
        return {}
    chosen = ("f1", "f1_wrong", "macro_f1", "auroc", "calibration_error")
    found = {f"{prefix}{name}": figures["model"][name] for name in chosen if figures["model"][name] is not None}
    rail = figures["always right"]
    return found | {f"{prefix}always_right_f1": rail["f1"], f"{prefix}always_right_macro_f1": rail["macro_f1"]}


def _table(figures: Mapping[str, Any]) -> str:
    from reasonrl.prm.step_metrics import StepMetrics, metrics_table

    header, body = metrics_table({name: StepMetrics(**figures[name]) for name in ("model", "always right")})
    widths = [max(len(row[column]) for row in [header, *body]) for column in range(len(header))]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in [header, *body])
