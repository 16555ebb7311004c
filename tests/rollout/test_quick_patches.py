"""Small pictures read without the processor, and prompts without their pictures: both exactly as the processor does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from reasonrl.data_tools.worlds import get_world
from reasonrl.models import load_processor
from reasonrl.rollout.image_reader import placeholder_text, reader_of
from reasonrl.rollout.images import image_digest
from reasonrl.rollout.picture_prompts import PicturePrompts
from reasonrl.rollout.quick_patches import quick_patches


@pytest.fixture(scope="module")
def processor():
    return load_processor("tiny:qwen2_5_vl")


def picture(size, seed=0, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, size=(size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("sizes", [[(84, 84)], [(28, 140)], [(56, 28), (84, 56)]])
def test_the_same_numbers_bit_for_bit(processor, sizes):
    pictures = [picture(size, seed) for seed, size in enumerate(sizes)]
    made = processor(text=[placeholder_text(processor, len(sizes))], images=[pictures], return_tensors="pt")
    read = reader_of(processor).read(pictures, tuple(map(image_digest, pictures)))
    assert set(read.inputs) == {"pixel_values", "image_grid_thw"}
    for name, value in read.inputs.items():
        assert value.dtype == made[name].dtype and torch.equal(value, made[name])
    assert read.tokens == int((made["input_ids"] == processor.image_token_id).sum())


def test_pictures_that_are_resized_are_the_processors(processor):
    quick = quick_patches(processor)
    for odd in (picture((85, 84)), picture((560, 560)), picture((28, 28 * 300)), picture((84, 84), mode="L")):
        assert quick.read([picture((84, 84)), odd]) is None
    assert quick.read([]) is None and quick_patches(load_processor("tiny:llava")) is None


@pytest.mark.parametrize("name", ["tiny:qwen2_5_vl", "tiny:llava", "tiny:idefics3"])
def test_ids_of_prompts_hang_on_sizes_alone(name):
    prompts = PicturePrompts(load_processor(name))
    rows = [
        {"prompt": f"{question} é", "images": [picture((84, 84), place)]}
        for place, question in enumerate(("a", "b c", ""))
    ]
    rows += [{"prompt": "<image> and <image>?", "images": [picture((84, 84)), picture((112, 84))]}, {"prompt": "words"}]
    for row in [*rows, *rows]:
        assert prompts.prompt_ids(row) == list(prompts.prompt(row).ids)


def test_a_processor_that_writes_otherwise_is_asked_each_time(processor, monkeypatch):
    """What stands around a picture may hang on the text: then nothing is put together here."""
    prompts = PicturePrompts(processor)
    monkeypatch.setattr(prompts, "_splice", lambda text, sizes: [])
    rows = get_world("grid").rows(3)
    for row in rows:
        row["prompt"] = [{"role": "user", "content": row["problem"]}]
        assert prompts.prompt_ids(row) == list(prompts.prompt(row).ids)
    assert prompts._spliced == {((84, 84),): False}
