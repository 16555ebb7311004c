"""What the training stages share: rows from a recipe's source, the seam to the observers, and the last whole
checkpoint.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reasonrl.data_tools.loading import Rows, load_rows
from reasonrl.data_tools.prompts import Message, as_messages, prompt_ids
from reasonrl.errors import RunError
from reasonrl.observe import CompletionsWriter, MetricsWriter, Trackers, step_line
from reasonrl.pipeline.context import StageContext
from reasonrl.recipe import DataSource, Reference, RolloutConfig
from reasonrl.recipe.sources import SERVERS_OPTIONS, VLLM_OPTIONS
from reasonrl.rewards import check_rows
from reasonrl.trainers.checkpoints import latest_complete


@dataclass(frozen=True)
class Source:
    """Rows and how each becomes a conversation."""

    rows: Rows
    system_prompt: str | None
    template: str | None

    def messages(self, row: Any) -> list[Message]:
        """The conversation that asks a row's problem."""
        return as_messages(row, self.system_prompt, self.template)


def load_source(source: DataSource | Reference, context: StageContext, require: Sequence[str]) -> Source:
    """The rows of a recipe's data source, or of the stage it refers to."""
    if isinstance(source, Reference):
        return Source(load_rows(path=context.data_of(source), require=require), None, None)
    path = context.data_of(source.path) if isinstance(source.path, Reference) else source.path
    rows = load_rows(
        path=list(path) if isinstance(path, tuple) else path,
        hub=source.hub,
        world=source.world,
        args=source.args,
        format=source.format,
        split=source.split,
        columns={**source.columns},
        keep=source.keep,
        limit=source.limit,
        n=source.n,
        seed=context.seed,
        shuffle=source.shuffle,
        name=source.name,
        revision=source.revision,
        require=require,
        base_dir=context.base_directory,
    )
    return Source(compounded(rows, source, context.seed), source.system_prompt, source.template)


def compounded(rows: Rows, source: DataSource, seed: int) -> Rows:
    """The rows, several problems in one where the source says so; the report goes on counting problems."""
    if source.compound is None:
        return rows
    from reasonrl.data_tools.compound import mixed_rows

    asked = source.compound
    return Rows(mixed_rows(rows, asked.k, seed=seed, framed=asked.framed, kind=asked.kind), rows.report)


def held_out_line(source: DataSource | Reference | None, context: StageContext, require: Sequence[str]) -> list[str]:
    """For a dry run: what the validation rows are, if there are any and they can be read yet."""
    if source is None or not context.is_available(source):
        return []
    return [f"eval_data: {load_source(source, context, require).rows.report}"]


@dataclass
class Watch:
    """Where a training stage's lines go: metrics file, trackers, terminal; taken back to a step on resume.

    Args:
        context: the stage's.
        total: steps in all, for the readable line and the time left; None if something else ends the stage.
        cpu_budget: CPU seconds that end the stage; progress is then counted in them.
    """

    context: StageContext
    total: int | None
    cpu_budget: float | None = None

    def __post_init__(self) -> None:
        directory = self.context.directory
        self.metrics = MetricsWriter(directory / "metrics.jsonl") if self.context.is_main else None
        self.completions = CompletionsWriter(directory / "completions") if self.context.is_main else None
        self.trackers: Trackers | None = None
        if self.context.is_main and self.context.report_to:
            name = f"{self.context.recipe_name}/{self.context.name}"
            recipe = yaml.safe_load((self.context.run_directory / "config.yaml").read_text(encoding="utf-8"))
            self.trackers = Trackers(self.context.report_to, name, recipe, directory)

    def rewind(self, step: int) -> None:
        """Forget what lies beyond a checkpoint: the resumed run writes it again."""
        if self.metrics is not None and self.completions is not None:
            self.metrics.truncate_after(step)
            self.completions.truncate_after(step)

    def line(self, metrics: dict[str, Any]) -> None:
        """One step's metrics."""
        if self.metrics is not None:
            self.metrics.write(metrics)
            self.context.say(step_line(metrics, self.total))
        if self.trackers is not None:
            self.trackers.log(metrics, metrics["step"])
        if self.cpu_budget is not None:
            self.context.report_progress(self.context.cpu_seconds(), self.cpu_budget, "CPU seconds")
        else:
            self.context.report_progress(metrics["step"], self.total)

    def close(self) -> None:
        """Finish files and trackers."""
        if self.metrics is not None:
            self.metrics.close()
        if self.trackers is not None:
            self.trackers.close()


def engine_options(rollout: RolloutConfig, max_tokens: int, directory: Path) -> dict[str, Any]:
    """What a recipe's `rollout` says, as options of its engine: rows decoded together, and vLLM's own settings. The
    output of servers that are started goes to `directory`, the stage's.
    """
    options: dict[str, Any] = {} if rollout.start is None else {"log_dir": str(directory)}
    if rollout.batch_size is not None:
        options["batch_size"] = rollout.batch_size
    if rollout.max_batch_tokens is not None:
        rows = max(1, rollout.max_batch_tokens // max_tokens)
        options["batch_size"] = min(rows, options.get("batch_size", rows))
    names = (*VLLM_OPTIONS, *SERVERS_OPTIONS, *(("max_logprob_gap",) if rollout.engine != "transformers" else ()))
    set_here = {name: value for name in names if (value := getattr(rollout, name)) is not None}
    waits = {
        name: set_here.pop(f"{name}_timeout")
        for name in ("stall", "request", "recovery")
        if f"{name}_timeout" in set_here
    }
    if waits:
        from reasonrl.rollout.servers_http import Limits

        set_here["limits"] = Limits(**waits)
    return {**options, **set_here}


def evaluation_engine(rollout: RolloutConfig, model_name: str, max_tokens: int, directory: Path) -> tuple[Any, Any]:
    """An engine over a finished model, and the model's tokenizer, or its processor if it reads images; vLLM reads the
    checkpoint by itself.
    """
    import torch

    from reasonrl.models import load_policy, load_tokenizer, resolve_model
    from reasonrl.rollout import build_engine

    options = engine_options(rollout, max_tokens, directory)
    pictures = vision_prompts(model_name, False)
    processor = pictures.processor if pictures is not None else None
    if processor is not None:
        options["processor"] = processor
    if rollout.engine in ("vllm", "servers"):
        tokenizer = load_tokenizer(model_name)
        engine = build_engine(rollout.engine, None, tokenizer, path=resolve_model(model_name), **options)
        return engine, processor or tokenizer
    model, tokenizer = load_policy(model_name, dtype="auto")
    if torch.cuda.is_available():
        model.to("cuda")
    model.eval()
    return build_engine(rollout.engine, model, tokenizer, **options), processor or tokenizer


def required_columns(reward: Any) -> tuple[str, ...]:
    """What a row must have for a reward: `math` checks against an answer, others name the columns they read."""
    return ("problem", "answer") if _reads_answer(reward) else ("problem",)


def _reads_answer(reward: Any) -> bool:
    """Whether every row is checked against its `answer`: by `math` or `exact`, or as a part of a gate or a cosine."""
    if isinstance(reward, (list, tuple)):
        return any(map(_reads_answer, reward))
    if not isinstance(reward, Mapping):
        return bool(reward == "math")
    args = reward.get("args") or {}
    if reward.get("name") in ("math", "exact"):
        return args.get("gold") in (None, "answer")
    if reward.get("name") == "cosine":
        return "reward" not in args or _reads_answer(args["reward"])
    return reward.get("name") == "gate" and _reads_answer(args.get("parts"))


def vision_prompts(model_name: str, trust_remote_code: bool) -> Any:
    """What makes prompts of rows with pictures and without for a vision-language model; None for one of text."""
    from reasonrl.models import load_processor, reads_images

    if not reads_images(model_name, trust_remote_code=trust_remote_code):
        return None
    from reasonrl.rollout.picture_prompts import PicturePrompts

    return PicturePrompts(load_processor(model_name, trust_remote_code=trust_remote_code))


def prompt_lengths(tokenizer: Any, pictures: Any = None) -> Callable[[Mapping[str, Any]], int]:
    """Tells how many tokens a row's `prompt` has, its pictures' included where there is one that makes them."""
    if pictures is None:
        return lambda row: len(prompt_ids(tokenizer, row["prompt"]))
    length: Callable[[Mapping[str, Any]], int] = pictures.length
    return length


def check_rewards(rewards: Sequence[Any], source: Source) -> None:
    """Ask the rewards whether they can use the rows, before anything is drawn.

    Raises:
        RewardError: one cannot; it names the row.
    """
    for reward in rewards:
        check_rows(reward, source.rows)


def loading_options(trl_args: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
    """`trust_remote_code` and `model_init_kwargs` of a training stage: its model is loaded as TRL loads the
    reference.
    """
    return bool(trl_args.get("trust_remote_code")), dict(trl_args.get("model_init_kwargs") or {})


def one_device(context: StageContext) -> None:
    """Refuse one process on a machine that shows several accelerators: TRL would refuse it less clearly.

    Raises:
        RunError: it is so.
    """
    import torch

    seen = torch.cuda.device_count()
    if context.world_size == 1 and seen > 1:
        raise RunError(
            f"stage {context.name!r} has launch.num_processes = 1, but this machine shows {seen} accelerators -> set"
            f" launch.num_processes={seen}, or show one: CUDA_VISIBLE_DEVICES=0"
        )


def quiet_libraries() -> None:
    """Silence the loading bars of the libraries below: a run has one readable line a step, and its own progress."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    # TRL prints whole rows when a reward gives none; such samples are counted and stand in the completions.
    logging.getLogger("trl").setLevel(logging.ERROR)


def resume_point(directory: Path) -> str | None:
    """Words for where a half-done training stage will carry on, or None when it starts anew."""
    found = latest_complete(directory / "checkpoints")
    return f"step {found[0]}" if found else None


def export_model(model: Any, tokenizer: Any, target: Path) -> None:
    """Write a final model and its tokenizer at once: under another name first, so that a kill never leaves half of
    one in place.
    """
    staging = target.with_name(f".{target.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    model.save_pretrained(staging)
    if tokenizer is not None:
        tokenizer.save_pretrained(staging)
    shutil.rmtree(target, ignore_errors=True)
    staging.rename(target)
