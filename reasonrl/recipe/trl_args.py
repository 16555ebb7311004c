"""TRL arguments written flat in a stage: which pass, which are ours, and their types, told from a committed table
without importing TRL.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from reasonrl.recipe.fields import Issue, raise_issues

_RUN = "the run directory is the recipe's"
_EVALUATION = "validation is the stage's own: give eval_data and eval_steps"
_FSDP = "processes are started by the library: set launch.fsdp (full_shard, shard_grad_op)"

# TRL arguments that the library sets itself: name -> why, and what to write instead.
OWNED: dict[str, str] = {
    "output_dir": f"{_RUN}: set output at the top level",
    "report_to": "trackers are set for the whole recipe: set report_to at the top level",
    "run_name": "the run is named by the recipe: set recipe at the top level",
    "project": "the run is named by the recipe: set recipe at the top level",
    "seed": "there is one seed: set seed at the top level",
    "data_seed": "there is one seed: set seed at the top level",
    "resume_from_checkpoint": "a run resumes by itself when started again; --restart-stage starts a stage over",
    "ignore_data_skip": "a run resumes where it stopped",
    "restore_callback_states_from_checkpoint": "a run resumes where it stopped",
    "use_cpu": "the device is found; hide the accelerators (CUDA_VISIBLE_DEVICES=) to train on the CPU",
    "fp16": "half precision is bfloat16: set bf16",
    "do_train": "the stage's kind says it: use kind: sft or kind: ppo",
    "do_eval": _EVALUATION,
    "do_predict": "use a stage of kind: eval",
    "local_rank": "processes are started by the library: set launch.num_processes",
    "ddp_backend": "processes are started by the library: set launch.num_processes",
    "deepspeed": "processes are started by the library: set launch.deepspeed (zero1, zero2, zero3)",
    "fsdp": _FSDP,
    "fsdp_config": _FSDP,
    "parallelism_config": "sharding is not available in this version",
    "accelerator_config": "processes are started by the library: set launch.num_processes",
    "disable_tqdm": "progress is the library's own",
    "log_level": "logging is the library's own",
    "log_level_replica": "logging is the library's own",
    "logging_strategy": "a line is written every logging_steps steps",
    "save_strategy": "checkpoints are written every save_steps steps: set save_steps",
    "save_only_model": "a checkpoint has to hold what resuming needs",
    "save_on_each_node": _RUN,
    "push_to_hub": "publish the finished run by hand",
    "hub_model_id": "publish the finished run by hand",
    "hub_token": "tokens come from the environment and are never written",
    "hub_strategy": "publish the finished run by hand",
    "hub_private_repo": "publish the finished run by hand",
    "hub_always_push": "publish the finished run by hand",
    "hub_revision": "publish the finished run by hand",
    "auto_find_batch_size": "a batch that changes by itself is not the batch that was asked for",
    "remove_unused_columns": "columns are kept by the library: map them with columns in the data source",
    "label_names": "columns are kept by the library: map them with columns in the data source",
}

_SFT: dict[str, str] = {
    "dataset_text_field": "rows become prompts and completions in one place: map them with columns in the data source",
    "dataset_kwargs": "rows become prompts and completions in one place: map them with columns in the data source",
    "chat_template_path": "the model's own chat template is used",
    "eos_token": "the model's own tokenizer is used",
    "pad_token": "the model's own tokenizer is used",
    "assistant_only_loss": "use completion_only_loss",
    "shuffle_dataset": "use shuffle in the data source",
    "load_best_model_at_end": "the final model is kept",
    "eval_strategy": _EVALUATION,
}

# PPO's update and rollout are ours. Of GRPO's own arguments only those that prepare the model mean anything to it; the
# others would be ignored.
_GRPO_PASSES = frozenset({"model_init_kwargs", "trust_remote_code", "disable_dropout", "cast_lm_head_to_fp32"})
_PPO_HINTS: dict[str, str] = {
    "per_device_train_batch_size": "the batch is prompts_per_step x num_generations; memory: tokens_per_microbatch",
    "gradient_accumulation_steps": "the batch is set by prompts_per_step x num_generations / actor_steps",
    "generation_batch_size": "the batch is set by prompts_per_step x num_generations",
    "steps_per_generation": "set actor_steps",
    "num_train_epochs": "set max_steps",
    "per_device_eval_batch_size": "memory is set by rollout.batch_size",
    "eval_strategy": _EVALUATION,
    "eval_on_start": _EVALUATION,
    "logging_steps": "a line is written every step",
    "logging_first_step": "a line is written every step",
    "use_vllm": "set rollout.engine",
    "reward_weights": "write the reward as a list of {name, weight}",
    "log_completions": "completions are always on disk; set log_completions_steps",
    "gradient_checkpointing_kwargs": "set gradient_checkpointing",
    "label_smoothing_factor": "the loss is PPO's",
    "use_liger_kernel": "the loss is PPO's",
    "metric_for_best_model": "the best model is the one with the highest eval/accuracy",
    "greater_is_better": "the best model is the one with the highest eval/accuracy",
    "eval_delay": _EVALUATION,
}

# The Trainer's own loops would read these; PPO's update and validation do not.
_PPO_HINTS |= dict.fromkeys(
    (
        "average_tokens_across_devices",
        "batch_eval_metrics",
        "bf16_full_eval",
        "eval_accumulation_steps",
        "eval_do_concat_batches",
        "eval_use_gather_object",
        "fp16_full_eval",
        "include_for_metrics",
        "length_column_name",
        "prediction_loss_only",
        "train_sampling_strategy",
    ),
    "the update and the validation of PPO are the library's own: it would have no effect",
)

# Passed on, but not part of a stage's identity: they do not change what is learned.
OPERATIONAL_ARGS = frozenset(
    {
        "dataloader_num_workers",
        "dataloader_persistent_workers",
        "dataloader_pin_memory",
        "dataloader_prefetch_factor",
        "dataloader_multiprocessing_context",
        "dataset_num_proc",
        "ddp_bucket_cap_mb",
        "ddp_timeout",
        "include_num_input_tokens_seen",
        "log_on_each_node",
        "logging_first_step",
        "logging_nan_inf_filter",
        "per_device_eval_batch_size",
        "skip_memory_metrics",
        "torch_empty_cache_steps",
        "trackio_bucket_id",
        "trackio_space_id",
        "trackio_static_space_id",
    }
)

_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "dict": "a mapping",
    "null": "null",
    "list": "a list",
}


@cache
def trl_table() -> dict[str, dict[str, dict[str, Any]]]:
    """The committed table: config name -> field name -> {types, choices?, default}."""
    table: dict[str, dict[str, dict[str, Any]]] = json.loads(
        Path(__file__).with_name("trl_fields.json").read_text(encoding="utf-8")
    )
    return table


@cache
def owned_args(config: str) -> dict[str, str]:
    """The arguments of a TRL config that the library sets itself: name -> why, and what to write instead."""
    table = trl_table()
    if config != "GRPOConfig":
        return {**OWNED, **_SFT}
    shared = table["GRPOConfig"].keys() & table["SFTConfig"].keys() & table["DPOConfig"].keys()
    reason = "PPO's update and its rollouts are the library's own, so this would have no effect"
    ignored = {name: reason for name in table[config] if name not in shared and name not in _GRPO_PASSES}
    return {**OWNED, **ignored, **_PPO_HINTS}


def passing_args(config: str) -> list[str]:
    """The names that may be written flat in a stage over this TRL config."""
    owned = owned_args(config)
    return sorted(name for name in trl_table()[config] if name not in owned)


def split_trl_args(config: str, raw: dict[str, Any], own: Container[str]) -> dict[str, Any]:
    """Move every key that is TRL's and not the stage's own into `trl_args`; others stay and are refused as unknown."""
    known = trl_table()[config]
    moved = {key: value for key, value in raw.items() if key in known and key not in own}
    if not moved:
        return raw
    given = raw.get("trl_args", {})
    rest = {key: value for key, value in raw.items() if key not in moved}
    return {**rest, "trl_args": {**given, **moved}} if isinstance(given, Mapping) else rest


def check_trl_args(config: str, args: dict[str, Any]) -> dict[str, Any]:
    """Check names, ownership and types of TRL arguments.

    Raises:
        pydantic.ValidationError: one error for each argument that is wrong.
    """
    table, owned = trl_table()[config], owned_args(config)
    issues = []
    for name, value in args.items():
        if name in owned:
            issues.append(Issue(name, "is set by the library and cannot be given", owned[name]))
        elif name not in table:
            issues.append(Issue(name, f"is no argument of trl.{config}", "write TRL's arguments flat in the stage"))
        else:
            problem = _type_problem(value, table[name])
            if problem:
                issues.append(Issue(name, problem))
    if issues:
        raise_issues(config, issues)
    return args


def _type_problem(value: Any, entry: Mapping[str, Any]) -> str | None:
    types = entry["types"]
    if "choices" in entry and isinstance(value, str) and value not in entry["choices"]:
        return f"is {value!r}; allowed: {', '.join(map(str, entry['choices']))}"
    if not any(_fits(value, kind) for kind in types):
        return (
            f"is {value!r}; allowed: {' or '.join(_word(kind) for kind in types)} (TRL's default: {entry['default']!r})"
        )
    return None


def _word(kind: str) -> str:
    return f"a list of {kind[5:-1]}" if kind.startswith("list[") else _WORDS.get(kind, kind)


def _fits(value: Any, kind: str) -> bool:
    if kind == "null":
        return value is None
    if kind.startswith("list["):
        return isinstance(value, list) and all(_fits(item, kind[5:-1]) for item in value)
    if kind == "float":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    expected = {"bool": bool, "str": str, "dict": dict, "list": list}.get(kind)
    return expected is not None and isinstance(value, expected)
