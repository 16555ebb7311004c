"""A tiny vision-language model: LLaVA's architecture (a CLIP tower, a projector, Qwen2 as its language model) with
random weights, and its processor, both made in code.

An image is scaled and cropped to `image_size` pixels a side and becomes (image_size / patch_size)² tokens. The
processor needs Pillow and no torchvision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

#: Sizes of `tiny:llava`: those of its language model, and of its tower.
VISION_SIZES: dict[str, int] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "image_size": 32,
    "patch_size": 8,
    "vision_hidden_size": 64,
    "vision_layers": 2,
    "seed": 0,
}
_OF_THE_TOWER = ("image_size", "patch_size", "vision_hidden_size", "vision_layers")

#: Stands for one image in a prompt's text, and for one patch of it in token ids.
IMAGE_TOKEN = "<|image_pad|>"

#: ChatML; a content may be text, or a list of parts such as {"type": "image"} and {"type": "text", "text": …}.
VISION_CHAT_TEMPLATE = (
    "{%- macro render(content) -%}"
    "{%- if content is string -%}{{- content -}}"
    "{%- else -%}{%- for part in content -%}"
    "{%- if part['type'] == 'image' -%}{{- '" + IMAGE_TOKEN + "' -}}{%- else -%}{{- part['text'] -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- endmacro -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- render(message['content']) + '<|im_end|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- render(message['content']) + '<|im_end|>' -}}{%- endif -%}"
    "{{- '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def spread_of(width: int) -> float:
    """The standard deviation of random weights over `width` inputs: sums of them stay near 1.

    The usual 0.02 is that of wide models. At a width of 64 a picture then moves the first logits by a twentieth of
    what the text does, attention is even, and training settles on the best answer without looking.
    """
    return float(width**-0.5)


def build_processor(tokenizer: PreTrainedTokenizerFast, sizes: dict[str, int]) -> LlavaProcessor:
    """The processor over the tokenizer of `tiny.build_tokenizer`, which gets the image token as its last one."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    tokenizer.chat_template = VISION_CHAT_TEMPLATE
    image_size, patch_size = sizes["image_size"], sizes["patch_size"]
    sides = {"height": image_size, "width": image_size}
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": image_size}, crop_size=sides),
        tokenizer=tokenizer,
        patch_size=patch_size,
        # The tower's class token is counted, and left out again: `default` drops it.
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        image_token=IMAGE_TOKEN,
        chat_template=VISION_CHAT_TEMPLATE,
    )


def build_vision_model(processor: Any, sizes: dict[str, int]) -> LlavaForConditionalGeneration:
    """The model with random weights from the global generator; `sizes` as in `VISION_SIZES`, without the seed."""
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration, Qwen2Config

    tokenizer = processor.tokenizer
    text = {name: value for name, value in sizes.items() if name not in _OF_THE_TOWER}
    spread = spread_of(sizes["hidden_size"])
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    vision = CLIPVisionConfig(
        hidden_size=sizes["vision_hidden_size"],
        intermediate_size=2 * sizes["vision_hidden_size"],
        num_hidden_layers=sizes["vision_layers"],
        num_attention_heads=max(1, sizes["vision_hidden_size"] // 64),
        image_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        projection_dim=sizes["vision_hidden_size"],
        initializer_range=spread_of(sizes["vision_hidden_size"]),
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=Qwen2Config(
            vocab_size=len(tokenizer),
            tie_word_embeddings=True,
            use_cache=True,
            initializer_range=spread,
            **ends,
            **text,
        ),
        initializer_range=spread,
        image_token_index=processor.image_token_id,
        image_seq_length=(sizes["image_size"] // sizes["patch_size"]) ** 2,
        tie_word_embeddings=True,
        **ends,
    )
    return LlavaForConditionalGeneration(config)
