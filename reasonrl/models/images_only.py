"""Processors that transformers loads with torchvision only, made of their parts that read images through Pillow: those
of Qwen2-VL and Qwen2.5-VL without their half for videos, and Idefics3's.

A checkpoint that they save is that of the whole processor; where torchvision is installed, transformers loads it so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import Qwen2_5_VLProcessor as Whole
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

#: Model types whose images can be read so.
KINDS = ("qwen2_vl", "qwen2_5_vl", "idefics3")
VIDEO_FILE = "video_preprocessor_config.json"
_PROCESSOR_FILE = "processor_config.json"


class Qwen2_5_VLProcessor(Whole):
    """Text and images to tokens and pixels; named as the whole processor, so that its checkpoints are named so too.

    Args:
        image_processor: Pillow's.
        tokenizer: the model's.
        chat_template: the model's.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
        self.image_token, self.video_token = "<|image_pad|>", "<|video_pad|>"
        self.image_token_id, self.video_token_id = tokenizer.convert_tokens_to_ids([self.image_token, self.video_token])
        self.image_processor, self.tokenizer, self.chat_template = image_processor, tokenizer, chat_template
        self.image_token_ids, self.video_token_ids = [self.image_token_id], [self.video_token_id]
        self.audio_token_ids: list[int] = []
        #: The source's settings for videos, handed on unread.
        self.video_settings: dict[str, Any] = {}

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Write tokenizer, image settings, chat template, and the video settings of the checkpoint it came from."""
        saved = super().save_pretrained(save_directory, push_to_hub, **kwargs)
        settings = {**_sizes(self.image_processor), **self.video_settings}
        settings["video_processor_type"] = "Qwen2VLVideoProcessor"
        (Path(save_directory) / VIDEO_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        return saved

    def to_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As transformers writes it, without what is kept elsewhere."""
        made: dict[str, Any] = super().to_dict(*args, **kwargs)
        made.pop("video_settings", None)
        return made


def _sizes(image_processor: Any) -> dict[str, Any]:
    size = image_processor.size
    return {
        "size": {name: size[name] for name in ("shortest_edge", "longest_edge")},
        **{name: getattr(image_processor, name) for name in ("patch_size", "merge_size", "temporal_patch_size")},
    }


def load_images_only(folder: str, kind: str, tokenizer: Any) -> Any:
    """The processor of a checkpoint of this model type, from what it says of images; OSError if it says nothing."""
    path = Path(folder)
    file = path / _PROCESSOR_FILE
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if kind == "idefics3":
        from transformers import Idefics3Processor
        from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

        tiles = Idefics3ImageProcessorPil.from_pretrained(folder)
        length = {name: known[name] for name in ("image_seq_len",) if name in known}
        return Idefics3Processor(tiles, tokenizer, chat_template=tokenizer.chat_template, **length)
    images = Qwen2VLImageProcessorPil.from_pretrained(folder)
    processor = Qwen2_5_VLProcessor(images, tokenizer, tokenizer.chat_template)
    video = path / VIDEO_FILE
    found = json.loads(video.read_text(encoding="utf-8")) if video.is_file() else known.get("video_processor")
    processor.video_settings = found or {}
    return processor
