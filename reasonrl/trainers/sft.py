"""Supervised fine-tuning with TRL's SFTTrainer: examples whose prompt tokens are exactly those of rollouts, and whole
checkpoints.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState
from accelerate.utils import gather_object
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from reasonrl.errors import DataError, ModelError
from reasonrl.trainers.checkpoints import mark_complete, prune

if TYPE_CHECKING:
    from reasonrl.rollout.picture_prompts import PicturePrompts

IGNORED = -100
SPENT_FILE = "spent.json"
#: What an evaluation on held-out examples adds to the step's line, as `eval/…`.
EVALUATED = ("eval_loss", "eval_mean_token_accuracy", "eval_entropy")


@dataclass(frozen=True)
class Examples:
    """Tokenized examples and what was left out.

    Attributes:
        rows: `input_ids` and `labels` (-100 where not trained on) of every example, and its `pictures`, unopened, where
            the model reads them.
        too_long: examples dropped because they exceed the length limit.
        tokens: tokens in `rows`.
    """

    rows: list[dict[str, Any]]
    too_long: int
    tokens: int


def completion_text(tokenizer: Any, messages: Sequence[Mapping[str, Any]], prompt_text: str, solution: str) -> str:
    """What the model learns to write after the prompt: the solution as the chat template frames it, up to and
    including the end token.

    White space that a template puts after the end token is left out, so that generation stops where training learned
    to stop. A template that rewrites earlier turns, or a tokenizer without a template, gets the bare solution and the
    end token.
    """
    if tokenizer.eos_token is None:
        raise ModelError(
            "sft: the tokenizer has no end token, so the model could not learn to stop -> set its eos_token"
        )
    end = str(tokenizer.eos_token)
    if getattr(tokenizer, "chat_template", None):
        whole = tokenizer.apply_chat_template(
            [*map(dict, messages), {"role": "assistant", "content": solution}], tokenize=False
        )
        if whole.startswith(prompt_text):
            text = str(whole[len(prompt_text) :]).rstrip()
            return text if text.endswith(end) else text + end
    return solution + end


def completion_labels(
    tokenizer: Any, text: str, solution: str, ids: Sequence[int], masked: Sequence[Sequence[int]]
) -> Sequence[int]:
    """Labels of a completion: its ids, and -100 for each token that has a character of a masked span.

    Args:
        tokenizer: a fast one, where anything is masked.
        text: the completion, which holds the solution.
        solution: as the row has it.
        ids: of `text`.
        masked: spans [start, end) in characters of `solution`.

    Raises:
        DataError: a span does not lie within the solution, or the chat template changes the solution.
    """
    if not masked:
        return ids
    start = text.find(solution)
    spans = [(int(span[0]), int(span[1])) for span in masked]
    if start < 0 or any(not 0 <= first < end <= len(solution) for first, end in spans):
        why = "the chat template changes the solution" if start < 0 else f"a solution of {len(solution)} characters"
        raise DataError(f"sft: masked = {[list(span) for span in spans]}: {why} -> spans [start, end) within it")
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return [
        IGNORED if any(left < start + end and right > start + first for first, end in spans) else token
        for token, (left, right) in zip(ids, offsets, strict=True)
    ]


def build_examples(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    *,
    messages_of: Callable[[Mapping[str, Any]], Sequence[Mapping[str, Any]]],
    render: Callable[[Any, Sequence[Mapping[str, Any]]], str],
    prompt_ids: Callable[[Any, Sequence[Mapping[str, Any]]], list[int]],
    max_length: int | None,
    completion_only_loss: bool,
    pictures: PicturePrompts | None = None,
) -> Examples:
    """Tokenize prompt and completion apart, so that the prompt's tokens are those a rollout starts from.

    Args:
        rows: each with a `solution`, and perhaps `masked`: spans [start, end) of its characters, whose tokens the
            loss leaves out.
        tokenizer: the model's.
        messages_of, render, prompt_ids: the one path from a row to its prompt, text and tokens.
        max_length: longest example in tokens; longer ones are dropped and counted, never cut.
        completion_only_loss: train on the completion only.
        pictures: prompts of a vision-language model; then all prompts are its, and examples have `pictures`.

    Raises:
        DataError: no row is left, or a row's pictures cannot be used.
    """
    prompts = [messages_of(row) for row in rows]
    texts = [
        completion_text(tokenizer, messages, render(tokenizer, messages), str(row["solution"]))
        for row, messages in zip(rows, prompts, strict=True)
    ]
    completions = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    labels_of = [
        completion_labels(tokenizer, text, str(row["solution"]), ids, row.get("masked") or ())
        for row, text, ids in zip(rows, texts, completions, strict=True)
    ]
    examples: list[dict[str, Any]] = []
    too_long = 0
    for row, messages, completion, learned in zip(rows, prompts, completions, labels_of, strict=True):
        images: dict[str, Any] = {}
        if pictures is None:
            prompt = prompt_ids(tokenizer, messages)
        else:
            asked = {**row, "prompt": messages}
            prompt, images = pictures.prompt_ids(asked), {"pictures": pictures.ordered(asked) or None}
        ids = [*prompt, *completion]
        if max_length is not None and len(ids) > max_length:
            too_long += 1
            continue
        labels = [*([IGNORED] * len(prompt) if completion_only_loss else prompt), *learned]
        examples.append({"input_ids": ids, "labels": labels, **images})
    if not examples:
        raise DataError(f"sft: none of {len(rows)} rows fits into max_length = {max_length} tokens -> raise it")
    return Examples(examples, too_long, sum(len(example["input_ids"]) for example in examples))


class SFTCallback(TrainerCallback):
    """Hands out metrics lines, stops at a CPU budget or when asked to, and marks checkpoints whole.

    Args:
        output: the trainer's output folder.
        on_metrics: called with a flat line at every logging step.
        should_stop: asked after every step.
        cpu_seconds: CPU seconds spent in this stage so far.
        max_cpu_seconds: stop when `cpu_seconds` reaches it.
        keep_checkpoints: whole checkpoints to keep.
        processor: of a model that reads pictures; a checkpoint without it is no model that a stage can start from.
    """

    def __init__(
        self,
        output: Path,
        on_metrics: Callable[[dict[str, Any]], None],
        should_stop: Callable[[], bool],
        cpu_seconds: Callable[[], float],
        max_cpu_seconds: float | None,
        keep_checkpoints: int | None,
        processor: Any = None,
    ) -> None:
        self.output, self.on_metrics, self.should_stop = output, on_metrics, should_stop
        self.cpu_seconds, self.max_cpu_seconds, self.keep_checkpoints = cpu_seconds, max_cpu_seconds, keep_checkpoints
        self.processor = processor
        self.interrupted = False
        self._last = time.perf_counter()
        self._last_step = 0
        self._tokens_before = self._num_tokens = 0.0
        # What counts is the work that is kept: after a kill the budget goes on from the checkpoint.
        self._cpu_before, self._cpu_start = 0.0, 0.0
        self._line: dict[str, Any] | None = None

    def resume(self, checkpoint: Path) -> None:
        """Go on counting tokens and CPU seconds where a checkpoint left off."""
        spent = json.loads((checkpoint / SPENT_FILE).read_text())
        self._tokens_before = self._num_tokens = spent["num_tokens"]
        self._cpu_before, self._cpu_start = spent["cpu_seconds"], self.cpu_seconds()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._last, self._last_step = time.perf_counter(), state.global_step

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.should_stop():
            self.interrupted = control.should_save = control.should_training_stop = True
        if self.out_of_budget():
            control.should_save = control.should_training_stop = True
        if control.should_save or control.should_evaluate:
            # A logged loss is a mean since the last line: with a line at every checkpoint, a resumed run's lines are
            # those of an unbroken one; and what a validation finds has a line to stand in.
            control.should_log = True

    def out_of_budget(self) -> bool:
        """Whether the CPU seconds are spent, on any rank: all of them then stop at the same step."""
        if self.max_cpu_seconds is None:
            return False
        return any(gather_object([self._kept_cpu_seconds() >= self.max_cpu_seconds]))

    def _kept_cpu_seconds(self) -> float:
        return self._cpu_before + (self.cpu_seconds() - self._cpu_start)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        now = time.perf_counter()
        line = {"step": state.global_step, **{name: value for name, value in logs.items() if value is not None}}
        line["time/step"] = (now - self._last) / max(1, state.global_step - self._last_step)
        self._last, self._last_step = now, state.global_step
        if "num_tokens" in line:
            # TRL counts from the process's start.
            line["num_tokens"] += self._tokens_before
            self._num_tokens = line["num_tokens"]
        self._line = line
        if not control.should_evaluate:
            self._flush()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        for name, value in (metrics or {}).items():
            if self._line is not None and name in EVALUATED:
                self._line["eval/" + name.removeprefix("eval_")] = value
        self._flush()

    def _flush(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            self.on_metrics(line)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        # Every rank writes its own random state; the mark comes when all of them are there.
        plugin = args.deepspeed_plugin
        stage = int(plugin.zero_stage) if plugin is not None else 0
        layout = {"processes": args.world_size, "zero_stage": stage, "fsdp": int(bool(args.fsdp))}
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            checkpoint = self.output / f"checkpoint-{state.global_step}"
            spent = {"num_tokens": self._num_tokens, "cpu_seconds": self._kept_cpu_seconds()}
            (checkpoint / SPENT_FILE).write_text(json.dumps(spent))
            if self.processor is not None:
                self.processor.save_pretrained(checkpoint)
            mark_complete(checkpoint, state.global_step, **layout)
            best = state.best_model_checkpoint
            prune(self.output, keep_last=self.keep_checkpoints, keep={Path(best)} if best else set())
        PartialState().wait_for_everyone()
