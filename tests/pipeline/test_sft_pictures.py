"""Imitation on drawn pictures: its checkpoints are whole models, and text alone leaves the tower as it was."""

from __future__ import annotations

import torch

from reasonrl.models import load_policy, load_processor
from reasonrl.models.vision_parts import vision_parts
from reasonrl.pipeline import train
from reasonrl.recipe import load_recipe

RECIPE = r"""
recipe: seeing
model: tiny:qwen2_5_vl
stages:
  see:
    kind: sft
    data: {world: grid, n: 16, args: {mix: {read/image: 1, path/text: 1}}}
    max_steps: 2
    per_device_train_batch_size: 4
    learning_rate: 1.0e-3
    save_steps: 1
  words:
    kind: sft
    model: ${stage:see@step=1}
    data: {world: grid, n: 16, args: {mix: path/text, misread: 1.0}}
    max_steps: 2
    per_device_train_batch_size: 4
    learning_rate: 1.0e-3
"""


def test_a_stage_goes_on_from_a_checkpoint_that_reads_pictures_and_text_trains_the_language_alone(
    tmp_path, monkeypatch
):
    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    train(load_recipe("r.yaml"), say=lambda text: None)
    stages = tmp_path / "runs" / "seeing" / "stages"
    kept = stages / "see" / "checkpoints" / "checkpoint-1"
    assert load_processor(str(kept)).image_token == "<|image_pad|>"
    before, after = (load_policy(str(path))[0] for path in (kept, stages / "words" / "model"))
    seen = [vision_parts(model)["vision_tower"].state_dict() for model in (before, after)]
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in seen[0])
    assert not all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
