"""More tiny vision-language models: the architectures of Qwen2.5-VL and of Idefics3 (SmolVLM's), with random weights.

`tiny:qwen2_5_vl` keeps an image's shape: a token is a square of 2 x 2 patches (28 x 28 pixels by default), positions
count rows and columns, and an image has at most `max_image_tokens`. `tiny:idefics3` cuts large images into tiles of
`image_size` pixels a side. Both processors need Pillow only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reasonrl.models.tiny_vision import IMAGE_TOKEN, VISION_CHAT_TEMPLATE, spread_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
}
QWEN_SIZES: dict[str, int] = {
    **_TEXT,
    "patch_size": 14,
    "vision_hidden_size": 64,
    "vision_layers": 2,
    "max_image_tokens": 64,
    "seed": 0,
}
IDEFICS_SIZES: dict[str, int] = {
    **_TEXT,
    "image_size": 32,
    "patch_size": 8,
    "vision_hidden_size": 64,
    "vision_layers": 2,
    "max_image_size": 64,
    "seed": 0,
}
_QWEN_MARKS = ("<|vision_start|>", "<|vision_end|>", IMAGE_TOKEN, "<|video_pad|>")
QWEN_CHAT_TEMPLATE = VISION_CHAT_TEMPLATE.replace(f"'{IMAGE_TOKEN}'", f"'<|vision_start|>{IMAGE_TOKEN}<|vision_end|>'")
IDEFICS_CHAT_TEMPLATE = VISION_CHAT_TEMPLATE.replace(f"'{IMAGE_TOKEN}'", "'<image>'")
#: An Idefics3 token stands for 2 x 2 patches.
_SCALE = 2


def _ends(tokenizer: Any) -> dict[str, Any]:
    return {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}


def _text(tokenizer: Any, sizes: dict[str, int]) -> dict[str, Any]:
    chosen = {name: sizes[name] for name in _TEXT}
    shape = {"tie_word_embeddings": True, "use_cache": True, "initializer_range": spread_of(sizes["hidden_size"])}
    return {"vocab_size": len(tokenizer), **shape, **_ends(tokenizer), **chosen}


def build_qwen_processor(tokenizer: PreTrainedTokenizerFast, sizes: dict[str, int]) -> Any:
    """The processor over the tokenizer of `tiny.build_tokenizer`, which gets the image tokens as its last ones."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from reasonrl.models.images_only import Qwen2_5_VLProcessor

    tokenizer.add_special_tokens({"additional_special_tokens": list(_QWEN_MARKS)})
    tokenizer.chat_template = QWEN_CHAT_TEMPLATE
    area = (2 * sizes["patch_size"]) ** 2
    limits = {"shortest_edge": area, "longest_edge": area * sizes["max_image_tokens"]}
    images = Qwen2VLImageProcessorPil(size=limits, patch_size=sizes["patch_size"])
    return Qwen2_5_VLProcessor(images, tokenizer, QWEN_CHAT_TEMPLATE)


def build_qwen_model(processor: Any, sizes: dict[str, int]) -> Any:
    """Qwen2.5-VL with random weights from the global generator; its tower attends within windows of 2 x 2 tokens but
    for its last layer.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = processor.tokenizer
    start, end, image, video = tokenizer.convert_tokens_to_ids(list(_QWEN_MARKS))
    half = sizes["hidden_size"] // sizes["num_attention_heads"] // 2
    third = half * 3 // 8
    text = _text(tokenizer, sizes)
    text["rope_parameters"] = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [half - 2 * third, third, third],
    }
    tower = sizes["vision_hidden_size"]
    vision = {
        "depth": sizes["vision_layers"],
        "hidden_size": tower,
        "intermediate_size": 2 * tower,
        "num_heads": max(1, tower // 64),
        "out_hidden_size": sizes["hidden_size"],
        "patch_size": sizes["patch_size"],
        "window_size": 4 * sizes["patch_size"],
        "fullatt_block_indexes": [sizes["vision_layers"] - 1],
        "initializer_range": spread_of(tower),
    }
    config = Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
        tie_word_embeddings=True,
        initializer_range=text["initializer_range"],
        **_ends(tokenizer),
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def build_idefics_processor(tokenizer: PreTrainedTokenizerFast, sizes: dict[str, int]) -> Any:
    """The processor over the tokenizer of `tiny.build_tokenizer`, which gets the marks of images and tiles."""
    from transformers import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    most = -(-sizes["max_image_size"] // sizes["image_size"])
    tiles = [f"<row_{row + 1}_col_{column + 1}>" for row in range(most) for column in range(most)]
    tokenizer.add_special_tokens(
        {
            "additional_special_tokens": [
                "<fake_token_around_image>",
                "<image>",
                "<end_of_utterance>",
                "<global-img>",
                *tiles,
            ]
        }
    )
    tokenizer.chat_template = IDEFICS_CHAT_TEMPLATE
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": sizes["max_image_size"]}, max_image_size={"longest_edge": sizes["image_size"]}
    )
    tokens = (sizes["image_size"] // sizes["patch_size"]) ** 2 // _SCALE**2
    return Idefics3Processor(images, tokenizer, image_seq_len=tokens, chat_template=IDEFICS_CHAT_TEMPLATE)


def build_idefics_model(processor: Any, sizes: dict[str, int]) -> Any:
    """Idefics3 with a SigLIP tower and Qwen2 as its language model; random weights from the global generator."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Qwen2Config

    tokenizer, tower = processor.tokenizer, sizes["vision_hidden_size"]
    vision = {
        "hidden_size": tower,
        "intermediate_size": 2 * tower,
        "num_hidden_layers": sizes["vision_layers"],
        "num_attention_heads": max(1, tower // 64),
        "image_size": sizes["image_size"],
        "patch_size": sizes["patch_size"],
        "initializer_range": spread_of(tower),
    }
    config = Idefics3Config(
        text_config=Qwen2Config(**_text(tokenizer, sizes)),
        vision_config=vision,
        image_token_id=processor.image_token_id,
        scale_factor=_SCALE,
        tie_word_embeddings=True,
        initializer_range=spread_of(sizes["hidden_size"]),
        pad_token_id=tokenizer.pad_token_id,
    )
    return Idefics3ForConditionalGeneration(config)
