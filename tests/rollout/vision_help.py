"""Tiny vision-language models, pictures, prompts, and what the model itself says of a response."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from reasonrl.models import build_tokenizer, load_policy, load_processor
from reasonrl.models.tiny_vision import VISION_CHAT_TEMPLATE
from reasonrl.rollout import SamplingParams
from reasonrl.rollout.images import placeholder_ids

MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
#: A name without sizes is the default, as kept in the user's cache.
LLAVA = "tiny:llava:intermediate_size=128,num_hidden_layers=2"


def image_of(seed: int, size: tuple[int, int] = (40, 56)) -> Image.Image:
    """Coloured noise; a new object each time."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)


def chat_text(processor: Any, text: str, images: list[Any]) -> str:
    content = [*({"type": "image"} for _ in images), {"type": "text", "text": text}]
    rendered: str = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return rendered


def prompt_of(processor: Any, text: str, images: list[Any]) -> tuple[int, ...]:
    """Token ids with every image's placeholder as often as it has tokens."""
    given = {"images": images} if images else {}
    return tuple(processor(text=[chat_text(processor, text, images)], **given)["input_ids"][0])


def load_vision() -> tuple[Any, Any]:
    """`tiny:llava` with weights large enough that its text wanders and its images matter."""
    model, _ = load_policy(LLAVA)
    return wander(model), load_processor(LLAVA)


def wander(model: Any, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


class ImagesOnly(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor without its video half, which needs torchvision."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
        self.image_token, self.video_token = MARKS[2], MARKS[3]
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids(list(MARKS[2:]))
        self.image_processor, self.tokenizer, self.chat_template = image_processor, tokenizer, chat_template
        self.image_token_ids, self.video_token_ids, self.audio_token_ids = (
            [self.image_token_id],
            [self.video_token_id],
            [],
        )


def small_qwen_vl() -> tuple[Any, Any]:
    """Qwen2.5-VL's architecture, which numbers an image's tokens by row and column, with heads of 64."""
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(MARKS)})
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(MARKS))
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    text = {
        **ends,
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "mrope_section": [8, 12, 12], "rope_theta": 10000.0},
    }
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 1,
        "out_hidden_size": 128,
        "patch_size": 14,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=True,
        **ends,
    )
    torch.manual_seed(0)
    model = wander(Qwen2_5_VLForConditionalGeneration(config))
    template = VISION_CHAT_TEMPLATE.replace(f"'{MARKS[2]}'", f"'{MARKS[0]}{MARKS[2]}{MARKS[1]}'")
    sizes = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16}
    return model, ImagesOnly(Qwen2VLImageProcessorPil(size=sizes, patch_size=14), tokenizer, template)


def with_video(loaded: tuple[Any, Any]) -> tuple[Any, Any]:
    """Qwen2.5-VL with its whole processor, as vLLM asks for; needs torchvision."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLVideoProcessor

    model, half = loaded
    sizes = half.image_processor.size
    options = {"size": {name: sizes[name] for name in ("shortest_edge", "longest_edge")}, "patch_size": 14}
    images, video = Qwen2VLImageProcessor(**options), Qwen2VLVideoProcessor(**options)
    return model, Qwen2_5_VLProcessor(images, half.tokenizer, video, chat_template=half.chat_template)


def oracle_logprobs(model: Any, processor: Any, sample: Any, params: SamplingParams, images: Any = None) -> np.ndarray:
    """Of each response token under the distribution it should be drawn from: the processor's own inputs, one forward
    pass over prompt and response, and temperature, top-p and the forbidden placeholders written out in float64.
    """
    images = sample.request.images if images is None else images
    prompt, response = list(sample.request.prompt_ids), list(sample.token_ids)
    inputs: dict[str, Any] = {}
    if images:
        made = processor(text=[processor.image_token * len(images)], images=[list(images)], return_tensors="pt")
        inputs = {k: v for k, v in made.items() if k not in ("input_ids", "attention_mask", "mm_token_type_ids")}
    ids = torch.tensor([prompt + response])
    if "image_grid_thw" in inputs:
        inputs["mm_token_type_ids"] = (ids == processor.image_token_id).long()
    with torch.no_grad():
        logits = model(input_ids=ids, **inputs).logits[0, len(prompt) - 1 : -1].double()
    logits[:, list(placeholder_ids(model.config))] = -torch.inf
    probabilities = torch.softmax(logits / (params.temperature or 1.0), dim=-1)
    if params.top_p < 1:
        for row in probabilities:
            order = row.argsort(descending=True)
            row[order[row[order].cumsum(0) - row[order] >= params.top_p]] = 0
    probabilities /= probabilities.sum(dim=-1, keepdim=True)
    return probabilities.log()[range(len(response)), response].numpy()
