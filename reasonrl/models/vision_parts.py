"""The parts of a vision-language model that can be frozen apart: its vision tower and its projector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from reasonrl.errors import ModelError

VisionPart = Literal["vision_tower", "projector"]
VISION_PARTS: tuple[VisionPart, ...] = ("vision_tower", "projector")

# Under what names transformers' models keep them; the last part of a dotted name inside the tower is Qwen's.
_TOWERS = ("vision_tower", "visual", "vision_model", "vision_encoder")
_PROJECTORS = ("multi_modal_projector", "connector", "visual.merger", "aligner")


def vision_parts(model: nn.Module) -> dict[VisionPart, nn.Module]:
    """The tower and the projector of a model, as far as it has them; Qwen's projector lies inside its tower."""
    inner: Any = model
    found: dict[VisionPart, nn.Module] = {}
    # A language-model head, a critic's backbone or an adapter may lie around the model that has the parts.
    named = dict(inner.named_modules())
    for part, names in (("vision_tower", _TOWERS), ("projector", _PROJECTORS)):
        matching = [name for name in named for known in names if name == known or name.endswith("." + known)]
        if matching:
            found[part] = named[min(matching, key=len)]  # type: ignore[index]
    return found


def freeze_parts(model: nn.Module, parts: Sequence[str], key: str = "freeze") -> int:
    """Keep parts of a vision-language model as they are; returns how many parameters that makes.

    Raises:
        ModelError: the model has no such part.
    """
    there = vision_parts(model)
    for part in parts:
        if part not in there:
            raise ModelError(
                f"{key}: {part!r} is not a part of a {type(model).__name__}; it has: {', '.join(there) or 'none'} ->"
                f" remove it, or train a vision-language model (parts: {', '.join(VISION_PARTS)})"
            )
    kept: set[nn.Parameter] = set()
    for part in parts:
        chosen = set(there[part].parameters())  # type: ignore[index]
        if part == "vision_tower" and "projector" in there and "projector" not in parts:
            chosen -= set(there["projector"].parameters())
        kept |= chosen
    for parameter in kept:
        parameter.requires_grad_(False)
    return sum(parameter.numel() for parameter in kept)
