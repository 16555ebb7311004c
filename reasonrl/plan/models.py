"""The sizes of the models that a recipe names: from folders and the cache on this machine, else from the table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reasonrl.errors import ModelError
from reasonrl.plan.memory import BASE, Trained
from reasonrl.plan.shapes import ModelShape, public_shape, shape_of_config


class Shapes:
    """Looks up sizes, each once.

    Args:
        configs: the stages' configs by instance name, for references to earlier stages.
        fallback: name of a model to take for those whose sizes are not known; None refuses them.
    """

    def __init__(self, configs: Mapping[str, Any], fallback: str | None = None) -> None:
        self._configs, self._fallback = configs, fallback
        self._known: dict[str, ModelShape] = {}

    def name_of(self, value: Any) -> str | None:
        """The model that a field stands for in the end; None where no stage names one."""
        for _ in range(len(self._configs) + 1):
            if value is None or isinstance(value, str):
                return value
            config = self._configs.get(value.stage)
            part = getattr(config, "critic_model", None) if getattr(value, "part", None) == "critic" else None
            value = part or getattr(config, "model", None)
        return None

    def of(self, name: str) -> ModelShape:
        """The sizes of a model by its name. Raises ModelError where nothing tells them."""
        if name not in self._known:
            try:
                self._known[name] = _local(name) or public_shape(name)
            except ModelError:
                if self._fallback is None:
                    raise
                self._known[name] = _local(self._fallback) or public_shape(self._fallback)
        return self._known[name]


def _local(name: str) -> ModelShape | None:
    """Sizes by a config on this machine: a folder's, a tiny model's, or one in the hub's cache."""
    if name.startswith("tiny:"):
        from reasonrl.models import resolve_model

        path: Path | None = Path(resolve_model(name)) / "config.json"
    else:
        path = Path(name) / "config.json"
        path = path if path.is_file() else _cached(name)
    if path is None or not path.is_file():
        return None
    config = json.loads(path.read_text(encoding="utf-8"))
    seen = "vision_config" in config
    return shape_of_config(config, _counted(path.parent) if seen else None)


def _cached(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _counted(folder: Path) -> int:
    """Parameters of a model with a vision tower: counted, without allocating any."""
    from transformers import AutoConfig

    from reasonrl.models.memory import count_parameters

    return count_parameters(AutoConfig.from_pretrained(str(folder)), None).total


def trained(shape: ModelShape, config: Any, lora: Any, *, head: bool = False) -> Trained:
    """A stage's model as it is trained: whole, or by an adapter over frozen weights."""
    if lora is None:
        return Trained(shape, head=head)
    dtype = str((config.trl_args.get("model_init_kwargs") or {}).get("dtype", "float32"))
    base = "4bit" if lora.load_in_4bit else "8bit" if lora.load_in_8bit else dtype
    return Trained(shape, shape.linear_parameters(lora.r), base if base in BASE else "float32", head)
