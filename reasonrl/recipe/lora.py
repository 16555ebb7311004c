"""LoRA in a recipe: the adapter of a policy or a critic, and rules between it and the rest of its stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from reasonrl.recipe.fields import Config, Count, Flag, Issue, OpenFraction, Positive, Text


class LoraSettings(Config):
    """A low-rank adapter W + (lora_alpha / r) B A over a frozen model (Hu et al. 2021, arXiv 2106.09685). Names are
    peft's.

    Attributes:
        r: rank of A (r, in) and B (out, r).
        lora_alpha: the product is scaled by lora_alpha / r, with `use_rslora` by lora_alpha / sqrt(r).
        target_modules: names of the linear layers that get an adapter; `all-linear` is all but the output layer.
        modules_to_save: names of modules that are trained whole beside the adapter.
        load_in_4bit, load_in_8bit: hold the frozen weights quantised (bitsandbytes).
        bnb_4bit_quant_type: of `load_in_4bit`.
    """

    r: Count = 16
    lora_alpha: Positive = 32
    lora_dropout: OpenFraction = 0.0
    target_modules: Annotated[
        Annotated[Text, Tag("@name")] | Annotated[tuple[Text, ...], Field(min_length=1), Tag("@list")],
        Discriminator(lambda value: "@list" if isinstance(value, (list, tuple)) else "@name"),
    ] = "all-linear"
    modules_to_save: tuple[Text, ...] | None = None
    use_rslora: Flag = False
    load_in_4bit: Flag = False
    load_in_8bit: Flag = False
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"

    hints: ClassVar[Mapping[str, str]] = {
        "rank": "r",
        "lora_r": "r",
        "alpha": "lora_alpha",
        "dropout": "lora_dropout",
        "lora_target_modules": "target_modules",
        "lora_modules_to_save": "modules_to_save",
        "quant_type": "bnb_4bit_quant_type",
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        issues = []
        if given.get("load_in_4bit") and given.get("load_in_8bit"):
            issues.append(Issue("load_in_8bit", "is true, and load_in_4bit is too", "keep one"))
        if given.get("bnb_4bit_quant_type", "nf4") != "nf4" and not given.get("load_in_4bit"):
            text = f"is {given['bnb_4bit_quant_type']}, but load_in_4bit is false"
            issues.append(Issue("bnb_4bit_quant_type", text, "remove it, or set load_in_4bit: true"))
        return issues


LORA_HINTS: dict[str, str] = {
    "peft": "lora",
    "peft_config": "lora",
    "use_peft": "lora",
    "lora_r": "lora",
    "lora_alpha": "lora",
    "lora_target_modules": "lora",
    "load_in_4bit": "lora",
    "load_in_8bit": "lora",
}


def lora_problems(given: Mapping[str, Any]) -> list[Issue]:
    """What is wrong between the adapters of a stage, its engine, its critic and its launch (raw values)."""
    lora, critic_lora = given.get("lora"), given.get("critic_lora")
    issues = []
    if critic_lora is not None and given.get("advantage", "gae") != "gae":
        text = f"is given, but advantage: {given['advantage']} has no critic"
        issues.append(Issue("critic_lora", text, "remove it, or use advantage: gae"))
    rollout = given.get("rollout", {})
    if value_of(rollout, "lora") is not None:
        issues += _engine_problems(lora, value_of(rollout, "lora"))
    if _quantised(lora) and (value_of(rollout, "engine", "transformers") != "transformers"):
        text = f"is quantised, and rollout.engine: {value_of(rollout, 'engine')} cannot take its weights"
        issues.append(Issue("lora", text, "use rollout.engine: transformers, or load_in_4bit: false"))
    elif _quantised(lora) and value_of(rollout, "own_copy"):
        issues.append(Issue("lora", "is quantised, and rollout.own_copy needs plain weights", "own_copy: false"))
    launch = given.get("launch", {})
    ways = (f"launch.{key}: {value_of(launch, key)}" for key in ("deepspeed", "fsdp") if value_of(launch, key))
    sharded = next(ways, "")
    for key, settings in (("lora", lora), ("critic_lora", critic_lora)):
        if _quantised(settings) and sharded:
            text = f"is quantised, and {sharded} cannot split such weights over processes"
            issues.append(Issue(key, text, f"remove {sharded} (plain processes work), or load_in_4bit: false"))
    if lora is not None and given.get("freeze"):
        text = f"is {given['freeze']}, but lora freezes the whole model and trains what its target_modules name"
        issues.append(Issue("freeze", text, "remove it, and name the language model's layers in lora.target_modules"))
    return issues


def _engine_problems(lora: Any, transfer: str) -> list[Issue]:
    key = "rollout.lora"
    if lora is None:
        return [Issue(key, f"is {transfer}, but the stage trains no adapter", "remove it, or give lora: {r: 16}")]
    if transfer == "adapter" and value_of(lora, "modules_to_save"):
        text = "is adapter, but lora.modules_to_save trains whole modules, which no adapter holds"
        return [Issue(key, text, "use rollout.lora: merge, or remove lora.modules_to_save")]
    return []


def _quantised(lora: Any) -> bool:
    return bool(value_of(lora, "load_in_4bit") or value_of(lora, "load_in_8bit"))


def value_of(settings: Any, name: str, default: Any = None) -> Any:
    """A field of a part of a stage that may be a raw mapping, a model, or missing."""
    if settings is None:
        return default
    return settings.get(name, default) if isinstance(settings, Mapping) else getattr(settings, name, default)
