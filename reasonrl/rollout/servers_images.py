"""Prompts with images for vLLM servers: token ids and PNGs in one body, and the proof that the server reads our ids.

vLLM's endpoint for tokens and images (`POST /inference/v1/generate`, `content_parts`; vLLM 0.31 opens it with
`--enable-scale-out`) puts an image's tokens in the place of one placeholder. So what stands for an image in our ids is
written as that placeholder, and the ids that the server says it has read are compared with ours, token by token.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reasonrl.errors import ModelError
from reasonrl.rollout.engine import Request
from reasonrl.rollout.image_reader import placeholder_text, reader_of
from reasonrl.rollout.images import (
    PromptKey,
    image_inputs,
    placeholder_ids,
    prompt_keys,
    require_expanded,
    require_processor,
)
from reasonrl.rollout.vllm_images import NEVER, vision_options

#: vLLM's endpoint for token ids with images.
GENERATE = "/inference/v1/generate"
_FAST = 1


@dataclass(frozen=True)
class ImagePrompt:
    """A prompt on its way to a server.

    Attributes:
        prompt_ids: what the model reads.
        short_ids: the same with one placeholder for each image.
        parts: the images, as the endpoint takes them.
    """

    prompt_ids: tuple[int, ...]
    short_ids: tuple[int, ...]
    parts: tuple[Mapping[str, str], ...] = field(repr=False)

    def body(self, sampling: Mapping[str, Any]) -> dict[str, Any]:
        """Of the endpoint, without the model."""
        return {
            "token_ids": self.short_ids,
            "content_parts": self.parts,
            "sampling_params": {**sampling, "detokenize": False},
            "return_token_ids": True,
        }


@dataclass(frozen=True)
class Outgoing:
    """A batch's images on their way, under their request's `id()`.

    Attributes:
        never: bias of the tokens that are never drawn, by their id in words.
        made: what tells the prompt apart, and the prompt.
    """

    never: Mapping[str, float] = field(default_factory=dict)
    made: Mapping[int, tuple[PromptKey, ImagePrompt]] = field(default_factory=dict)

    def prompt(self, request: Request) -> ImagePrompt | None:
        """None for a request without images."""
        return self.made[id(request)][1] if request.images else None

    def key(self, request: Request) -> PromptKey:
        """Equal for equal prompts with equal images."""
        return self.made[id(request)][0] if request.images else (request.prompt_ids, ())


class Pictures:
    """What an engine over servers knows of images; without a processor it refuses them.

    Args:
        model: the policy, or None.
        path: the checkpoint where there is no policy.
        processor: a vision-language model's, of transformers.
    """

    def __init__(self, model: Any, path: str | None, processor: Any, *, trust_remote_code: bool = False) -> None:
        self.processor = processor
        config = getattr(model, "config", None)
        if config is None and processor is not None:
            from transformers import AutoConfig

            config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        self._never = {str(token): NEVER for token in placeholder_ids(config)}
        self._reader: Any = None if processor is None else reader_of(processor)

    def options(self, model: Any, path: str | None) -> dict[str, Any]:
        """Of started servers."""
        found = vision_options(model, path, self.processor)
        return {**found, "enable_scale_out": True} if found else {}

    def of(self, requests: Sequence[Request]) -> Outgoing:
        """A batch's images, each encoded once.

        Raises:
            ModelError: there is no processor, a prompt's image tokens are not those of its images, or an image is
                something else without its transparency.
        """
        require_processor(requests, self.processor)
        return Outgoing(self._never, self._made(requests))

    def _made(self, requests: Sequence[Request]) -> dict[int, tuple[PromptKey, ImagePrompt]]:
        rows = [request for request in requests if request.images]
        keys = prompt_keys(rows)
        sent: dict[bytes, Mapping[str, str]] = {}
        made: dict[PromptKey, ImagePrompt] = {}
        for request in rows:
            key = keys[id(request)]
            if key in made:
                continue
            for image, digest in zip(request.images, key[1], strict=True):
                if digest not in sent:
                    sent[digest] = {"type": "image_url", "url": self._url(request, image, digest)}
            parts = tuple(sent[digest] for digest in key[1])
            made[key] = ImagePrompt(request.prompt_ids, self._short(request, key[1]), parts)
        return {id(request): (keys[id(request)], made[keys[id(request)]]) for request in rows}

    def _short(self, request: Request, digests: tuple[bytes, ...]) -> tuple[int, ...]:
        text = placeholder_text(self.processor, 1)
        bare = tuple(self.processor.tokenizer.encode(text, add_special_tokens=False))
        ids, short, place = request.prompt_ids, list[int](), 0
        runs = []
        for image, digest in zip(request.images, digests, strict=True):
            options = {"add_special_tokens": False}
            runs.append(self._reader.prompt_ids(text, [image], (digest,), options)[0])
        token = self.processor.image_token_id
        require_expanded(request, sum(run.count(token) for run in runs), token)
        for run in runs:
            start = _find(request, run, place)
            short += [*ids[place:start], *bare]
            place = start + len(run)
        return (*short, *ids[place:])

    def _url(self, request: Request, image: Any, digest: bytes) -> str:
        from PIL import Image

        plain = image if image.mode == "RGB" else image.convert("RGB")
        if plain is not image and not self._same(image, plain, digest):
            raise ModelError(
                f"rollout: an image of request {request.id!r} has mode {image.mode}, and the model's processor makes"
                " something else of it than of its RGB form, which is what servers are sent -> convert it to RGB"
            )
        # Its pixels alone: a server would heed what a file says of rotation.
        plain, out = Image.frombytes("RGB", plain.size, plain.tobytes()), io.BytesIO()
        plain.save(out, "PNG", compress_level=_FAST)
        return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()

    def _same(self, image: Any, plain: Any, digest: bytes) -> bool:
        (key,) = prompt_keys([Request("", (), 0, images=(plain,))]).values()
        theirs, ours = self._reader.read([plain], key[1]).inputs, self._reader.read([image], (digest,)).inputs
        return all(theirs[name].shape == ours[name].shape and bool((theirs[name] == ours[name]).all()) for name in ours)


def _find(request: Request, run: tuple[int, ...], start: int) -> int:
    ids = request.prompt_ids
    for place in range(start, len(ids) - len(run) + 1):
        if ids[place] == run[0] and ids[place : place + len(run)] == run:
            return place
    raise ModelError(
        f"rollout: an image of request {request.id!r} becomes {len(run)} tokens that do not stand in its prompt ->"
        " make prompt_ids with the model's own processor, images given"
    )


def require_same_prompt(prompt: ImagePrompt, read: Any, url: str) -> None:
    """Raises ModelError where a server says that it has read other token ids than ours."""
    if read is not None and tuple(read) == prompt.prompt_ids:
        return
    told = "does not say which token ids it has read" if read is None else f"has read {len(read)} token ids"
    raise ModelError(
        f"rollout: server {url} {told} of a prompt of {len(prompt.prompt_ids)} with {len(prompt.parts)} images; they"
        " have to be ours, one by one -> give it the processor files of the run's model, or use rollout.engine=vllm"
    )


@dataclass(frozen=True)
class PictureReading:
    """A picture and a text that trainer and servers read.

    Attributes:
        prompt: of both.
        start: log-probabilities left out, those of the picture's own tokens: nothing that is predicted.
        inputs: of the trainer's forward pass, besides token ids.
    """

    prompt: ImagePrompt
    start: int
    inputs: Mapping[str, Any] = field(repr=False)


def picture_reading(pictures: Pictures, device: Any, most: int, text: str) -> PictureReading:
    """A picture before `text`, at most `most` tokens together: a tower with old weights shows in how it is read."""
    import torch
    from PIL import Image

    processor = pictures.processor
    picture = Image.linear_gradient("L").convert("RGB").resize((96, 64))
    made = processor(text=[placeholder_text(processor, 1) + text], images=[[picture]])
    request = Request("reading", tuple(made["input_ids"][0][:most]), 0, images=(picture,))
    ids = list(request.prompt_ids)
    inputs = image_inputs(processor, [request], torch.tensor([ids], device=device))
    prompt = pictures.of([request]).prompt(request)
    assert prompt is not None
    return PictureReading(prompt, len(ids) - ids[::-1].index(processor.image_token_id) - 1, inputs)
