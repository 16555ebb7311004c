"""Prompts for vLLM in this process, with images and without.

Given token ids and images, vLLM puts an image's tokens in the place of the first placeholder by itself; ids that hold
them already, as ours and TRL's do, would then have them twice. So vLLM reads the images in a throwaway prompt, and what
it makes of them is put where they stand in ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from reasonrl.errors import ModelError
from reasonrl.rollout.agreement import TEXT, Gap, gap_between, teacher_forced
from reasonrl.rollout.engine import Request
from reasonrl.rollout.images import image_digest, image_inputs, placeholder_text, require_expanded

#: A bias that no logit outweighs; vLLM allows -100 to 100.
NEVER = -100.0
#: Tokens of a picture and a text that engine and trainer compare at most; a picture may have hundreds.
_READ = 1024
_TOWER, _NESTED = "vision_tower.", "vision_tower.vision_model."
#: Towers that vLLM finds in files only under the names of their first release.
NESTED_TOWERS = ("clip_vision_model", "siglip_vision_model")


def text_prompt(ids: Sequence[int]) -> Any:
    """vLLM's input for a prompt without images."""
    from vllm.inputs.engine import tokens_input

    return tokens_input(list(ids))


def vision_options(model: Any, path: str | None, processor: Any) -> dict[str, Any]:
    """Arguments of `vllm.EngineArgs` for a model that reads images: vLLM's processor needs its tokenizer.

    Raises:
        ModelError: the policy reads images, and there is no processor to give to vLLM.
    """
    config = getattr(model, "config", None)
    if processor is None and path is None and getattr(config, "vision_config", None) is not None:
        raise ModelError(
            f"rollout.engine: vllm cannot start over a {type(model).__name__} without its processor -> build the engine"
            " with processor=load_processor(model)"
        )
    if processor is None:
        return {}
    # Pixels scaled by the processor, as the trainer has them: the constants by which vLLM's model would scale them are
    # among what a start without weights fills at random.
    return {"skip_tokenizer_init": False, "mm_device_do_normalize": False}


def vision_gap(engine: Any, model: Any, processor: Any) -> Gap:
    """How differently an engine and a transformers model read the same short text after a picture: a tower with old
    weights shows in it, which a text alone would not tell.
    """
    import torch
    from PIL import Image

    picture = Image.linear_gradient("L").convert("RGB").resize((96, 64))
    text = placeholder_text(processor, 1) + TEXT
    ids = processor(text=[text], images=[[picture]])["input_ids"][0][: min(engine.max_model_len - 1, _READ)]
    request = Request("reading", tuple(ids), 0, images=(picture,))
    inputs = image_inputs(processor, [request], torch.tensor([ids], device=model.device))
    # The image's own tokens are nothing that is predicted.
    start = len(ids) - ids[::-1].index(processor.image_token_id) - 1
    return gap_between(engine.read(ids, (picture,))[start:], teacher_forced(model, ids, inputs)[start:])


class VisionPrompts:
    """Makes vLLM's inputs from requests with images.

    Args:
        vllm: the engine.
        processor: the model's, of transformers.
    """

    def __init__(self, vllm: Any, processor: Any) -> None:
        self._vllm, self._processor = vllm, processor

    def of(self, request: Request) -> Any:
        """vLLM's input for a request.

        Raises:
            ModelError: the images become other tokens than those in the prompt, or vLLM refuses them.
        """
        if not request.images:
            return text_prompt(request.prompt_ids)
        from vllm.inputs.engine import mm_input

        for image in request.images:
            image_digest(image)  # refuses what is no image; vLLM would take tensors of features
        text = placeholder_text(self._processor, len(request.images))
        bare = list(self._processor.tokenizer.encode(text, add_special_tokens=False))
        images = {"image": list(request.images)}
        try:
            (made,) = self._vllm.renderer.render_cmpl([{"prompt_token_ids": bare, "multi_modal_data": images}])
        except (ValueError, RuntimeError, TypeError) as error:
            raise ModelError(
                f"rollout: vLLM does not take the {len(request.images)} images of request {request.id!r}: {error} ->"
                " change what it names; limit_mm_per_prompt says how many images a prompt may have"
            ) from error
        tokens, image_token = list(made["prompt_token_ids"]), self._processor.image_token_id
        require_expanded(request, tokens.count(image_token), image_token)
        ranges, start = [], 0
        for found in made["mm_placeholders"]["image"]:
            run = tokens[found.offset : found.offset + found.length]
            start = _find(request, run, start)
            ranges.append(dataclasses.replace(found, offset=start))
            start += found.length
        return mm_input(list(request.prompt_ids), made["mm_kwargs"], made["mm_hashes"], {"image": ranges})


def _find(request: Request, run: list[int], start: int) -> int:
    ids = request.prompt_ids
    for place in range(start, len(ids) - len(run) + 1):
        if ids[place] == run[0] and list(ids[place : place + len(run)]) == run:
            return place
    raise ModelError(
        f"rollout: an image of request {request.id!r} becomes {len(run)} tokens in vLLM that do not stand in its prompt"
        " -> make prompt_ids with the model's own processor, images given"
    )


def tower_names(vllm: Any) -> Callable[[str], str]:
    """How vLLM calls a weight: its towers have one more level (`vision_model`) than those of transformers 5."""
    (names,) = vllm.apply_model(_parameter_names)
    return tower_names_among(names)


def file_names(model: Any) -> Callable[[str], str]:
    """How the weights of a policy are called in files that vLLM starts from."""
    return file_names_of(getattr(getattr(getattr(model, "config", None), "vision_config", None), "model_type", None))


def file_names_of(tower: str | None) -> Callable[[str], str]:
    """The same of a model with this kind of tower, None for a text model."""
    return tower_names_among([_NESTED] if tower in NESTED_TOWERS else [])


def tower_names_among(names: Sequence[str]) -> Callable[[str], str]:
    """How the model with these weights calls one of a checkpoint's."""
    if not any(_NESTED in name for name in names):
        return str
    return lambda name: name if _NESTED in name else name.replace(_TOWER, _NESTED, 1)


def _parameter_names(model: Any) -> list[str]:
    return [name for name, _ in model.named_parameters()]
