"""Checkpoints of towers that vLLM knows under older names: what it is given to start from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reasonrl.errors import ModelError
from reasonrl.models import load_policy
from reasonrl.rollout.vllm_folder import startable

sys.path.insert(0, str(Path(__file__).parent))
from vision_help import LLAVA, small_qwen_vl


@pytest.fixture(scope="module")
def model():
    return load_policy(LLAVA)[0]


def weights_in(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


@pytest.mark.parametrize("shards", ["1GB", "100KB"], ids=["one file", "several"])
def test_towers_get_their_first_names_and_nothing_else_changes(model, shards, tmp_path):
    source, place = tmp_path / "saved", tmp_path / "place"
    place.mkdir()
    model.save_pretrained(source, max_shard_size=shards)
    before = {file.name: file.read_bytes() for file in source.iterdir()}
    found = Path(startable(str(source), place))
    assert found.parent == place and {file.name: file.read_bytes() for file in source.iterdir()} == before
    theirs, ours = weights_in(found), weights_in(source)
    nested = {name.replace("vision_tower.", "vision_tower.vision_model."): tensor for name, tensor in ours.items()}
    assert theirs.keys() == nested.keys() != ours.keys()
    assert all(theirs[name].dtype == nested[name].dtype and torch.equal(theirs[name], nested[name]) for name in nested)
    if len(list(source.glob("*.safetensors"))) > 1:
        index = json.loads((found / "model.safetensors.index.json").read_text())["weight_map"]
        assert all(name in load_file(found / where) for name, where in index.items()) and index.keys() == nested.keys()
        assert any(file.is_symlink() for file in found.glob("*.safetensors")), "files without a tower are not copied"
    # The new folder is a checkpoint of the same model, and needs no second one.
    again = type(model).from_pretrained(found)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_no_room_for_the_copy_is_said(model, tmp_path):
    model.save_pretrained(tmp_path / "llava")
    with pytest.raises(ModelError, match=r"a renamed copy cannot be written to '.*gone/checkpoint'.* -> make room"):
        startable(str(tmp_path / "llava"), tmp_path / "gone")


def test_other_checkpoints_are_used_as_they_are(model, tmp_path):
    small_qwen_vl()[0].save_pretrained(tmp_path / "qwen")
    assert startable(str(tmp_path / "qwen"), tmp_path) == str(tmp_path / "qwen")
    assert startable("some/hub-id", tmp_path) == "some/hub-id"
    model.save_pretrained(tmp_path / "llava")
    renamed = startable(str(tmp_path / "llava"), tmp_path)
    assert startable(renamed, tmp_path) == renamed
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["checkpoint", "llava", "qwen"]
