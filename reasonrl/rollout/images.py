"""Images in requests: what tells two of them apart, how a processor turns them into a model's inputs, and the tokens
that stand for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from reasonrl.errors import ModelError
from reasonrl.rollout.image_reader import join_inputs, placeholder_text, reader_of

if TYPE_CHECKING:
    import torch

    from reasonrl.rollout.engine import Request

__all__ = [
    "PromptKey",
    "image_digest",
    "image_inputs",
    "placeholder_ids",
    "placeholder_text",
    "prompt_keys",
    "require_expanded",
    "require_processor",
    "rotary_positions",
]

#: What distinguishes prompts: token ids, and a digest of every image.
PromptKey = tuple[tuple[int, ...], tuple[bytes, ...]]

_PLACEHOLDERS = ("image_token_id", "video_token_id", "audio_token_id")


def placeholder_ids(config: Any) -> tuple[int, ...]:
    """Token ids that stand for images, videos or sound in a model's prompts; none for a text model.

    No engine draws them: a response that held one would ask the trainer for an image that is not there.
    """
    found = {getattr(config, name, None) for name in _PLACEHOLDERS}
    return tuple(sorted(token for token in found if token is not None))


def image_digest(image: Any) -> bytes:
    """Equal for images of equal mode, size and pixels; raises ModelError for what is no PIL image."""
    from PIL import Image

    if not isinstance(image, Image.Image):
        raise ModelError(f"rollout: an image of a request is a {type(image).__name__} -> give PIL images")
    digest = hashlib.sha256(f"{image.mode} {image.size} {image.getpalette()}".encode())
    digest.update(image.tobytes())
    return digest.digest()


def prompt_keys(requests: Iterable[Request]) -> dict[int, PromptKey]:
    """Each request's key, under the request's `id()`; an image object that several requests share is read once."""
    known: dict[int, bytes] = {}
    keys: dict[int, PromptKey] = {}
    for request in requests:
        for image in request.images:
            if id(image) not in known:
                known[id(image)] = image_digest(image)
        keys[id(request)] = (request.prompt_ids, tuple(known[id(image)] for image in request.images))
    return keys


def require_processor(requests: Iterable[Request], processor: Any) -> None:
    """Raises ModelError where a request has images and the engine has nothing to read them with."""
    for request in requests:
        if request.images and processor is None:
            raise ModelError(
                f"rollout: request {request.id!r} has {len(request.images)} images, but the engine has no processor ->"
                " build it with processor=load_processor(model), over a vision-language model"
            )


def image_inputs(processor: Any, requests: Sequence[Request], ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a model's forward pass takes for the images of a batch besides token ids, made by its processor.

    Args:
        processor: the model's, of transformers.
        requests: the rows; those without images may stand among them.
        ids: (rows, tokens), the padded prompts.

    Raises:
        ModelError: a prompt does not hold as many image tokens as its images become.
    """
    import torch

    rows = [request for request in requests if request.images]
    if not rows:
        return {}
    reader, keys = reader_of(processor), prompt_keys(rows)
    read = {id(request): reader.read(request.images, keys[id(request)][1]) for request in rows}
    for request in rows:
        require_expanded(request, read[id(request)].tokens, processor.image_token_id)
    inputs = join_inputs([read[id(request)].inputs for request in rows])
    kinds = [reader.token_inputs(row) for row in ids.tolist()]
    inputs |= {name: torch.stack([kind[name] for kind in kinds]) for name in kinds[0]}
    return {name: value.to(ids.device) for name, value in inputs.items()}


def require_expanded(request: Request, expected: int, image_token: int) -> None:
    """Raises ModelError where a prompt's image tokens are not as many as its images become."""
    found = request.prompt_ids.count(image_token)
    if found != expected:
        raise ModelError(
            f"rollout: request {request.id!r} has {found} image tokens (id {image_token}) in its prompt, but its"
            f" {len(request.images)} images become {expected} -> make prompt_ids with the processor, images given"
            " (processor.apply_chat_template(…, tokenize=True)), and do not cut them"
        )


def rotary_positions(
    model: Any, ids: torch.Tensor, mask: torch.Tensor, inputs: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Positions of a prompt with images, for models that count an image's rows and columns (M-RoPE, as in Qwen-VL).

    Returns:
        Positions (3, rows, tokens), and (rows,) the position of the first token after each prompt; None for models
        that number tokens one by one.
    """
    find = getattr(getattr(model, "model", None), "get_rope_index", None)
    if find is None or "mm_token_type_ids" not in inputs:
        return None
    grids = {name: value for name, value in inputs.items() if name.endswith("_grid_thw") or name == "mm_token_type_ids"}
    positions, beyond = find(ids, attention_mask=mask, **grids)
    return positions, mask.sum(-1) + beyond.flatten()
