"""Batches of supervised examples with pictures: padded tokens, and what the model takes for the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from reasonrl.data_tools.pictures import open_picture
from reasonrl.rollout.engine import Request
from reasonrl.rollout.image_reader import TOKEN_INPUTS, join_inputs
from reasonrl.rollout.picture_prompts import PicturePrompts
from reasonrl.trainers.sft import IGNORED


class PictureCollator:
    """Puts examples together: `input_ids`, `labels`, and `pictures` in the order of their places (None: a text).

    Args:
        prompts: of the model's processor.
    """

    def __init__(self, prompts: PicturePrompts) -> None:
        self.prompts = prompts

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Padded on the right: `input_ids`, `attention_mask`, `labels` (rows, tokens), and the image inputs."""
        longest = max(len(example["input_ids"]) for example in examples)
        pad = self.prompts.processor.tokenizer.pad_token_id
        ids = torch.full((len(examples), longest), pad, dtype=torch.long)
        labels, mask = torch.full_like(ids, IGNORED), torch.zeros_like(ids)
        given = []
        for place, example in enumerate(examples):
            own = example["input_ids"]
            ids[place, : len(own)] = torch.tensor(own)
            labels[place, : len(own)] = torch.tensor(example["labels"])
            mask[place, : len(own)] = 1
            images = tuple(open_picture(one) for one in example.get("pictures") or ())
            given.append(self.prompts.features(Request(str(place), tuple(own), 0, images=images)))
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels, **join_inputs(given)}
        for name in TOKEN_INPUTS:
            if any(name in one for one in given):
                batch[name] = torch.zeros_like(ids)
                for place, one in enumerate(given):
                    batch[name][place, : len(one[name])] = one[name]
        return batch
