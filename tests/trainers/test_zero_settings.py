"""DeepSpeed's settings, layouts of checkpoints, and FSDP's."""

from __future__ import annotations

import importlib.util
import json

import pytest
from accelerate import Accelerator

from reasonrl.errors import ModelError
from reasonrl.trainers.checkpoints import mark_complete, require_layout
from reasonrl.trainers.fsdp import refuse_other_engines
from reasonrl.trainers.zero import deepspeed_settings

INSTALLED = importlib.util.find_spec("deepspeed") is not None
NEEDS_DEEPSPEED = pytest.mark.skipif(not INSTALLED, reason="DeepSpeed is not installed (pip install '.[deepspeed]')")


@pytest.mark.skipif(INSTALLED, reason="DeepSpeed is installed")
def test_what_is_not_installed_is_named():
    with pytest.raises(ModelError, match=r"launch\.deepspeed = 'zero3' needs the package deepspeed.*-> pip install"):
        deepspeed_settings("zero3")


@NEEDS_DEEPSPEED
def test_names_and_files(tmp_path):
    assert deepspeed_settings("zero2")["zero_optimization"]["stage"] == 2
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 3, "reduce_bucket_size": 7}, "optimizer": "auto"}))
    assert deepspeed_settings("mine.json", tmp_path)["zero_optimization"]["reduce_bucket_size"] == 7
    for content, words in (
        ({"zero_optimization": {"stage": 0}}, "allowed: 1, 2, 3"),
        ({"zero_optimization": {"stage": 1}, "gradient_clipping": 1.0}, "set max_grad_norm in the stage"),
    ):
        file.write_text(json.dumps(content))
        with pytest.raises(ModelError, match=words):
            deepspeed_settings("mine.json", tmp_path)
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        deepspeed_settings("other.json", tmp_path)


@pytest.mark.parametrize(
    ("there", "here", "fits"),
    [
        ((1, 0), (4, 0), True),
        ((2, 3), (2, 3), True),
        ((2, 3), (4, 3), False),
        ((2, 3), (2, 2), False),
        ((2, 3), (1, 0), False),
        ((2, 0), (2, 1), False),
    ],
)
def test_only_the_launch_that_wrote_a_checkpoint_of_zero_goes_on_from_it(tmp_path, there, here, fits):
    mark_complete(tmp_path, 3, processes=there[0], zero_stage=there[1])
    if fits:
        require_layout(tmp_path, processes=here[0], zero_stage=here[1])
        return
    with pytest.raises(ModelError, match=rf"-> go on with launch: {{num_processes: {there[0]}"):
        require_layout(tmp_path, processes=here[0], zero_stage=here[1])


def test_a_checkpoint_that_says_nothing_is_taken(tmp_path):
    mark_complete(tmp_path, 3)
    require_layout(tmp_path, processes=2, zero_stage=3)


def test_fsdp_s_states_are_whole_but_in_files_of_its_own(tmp_path):
    mark_complete(tmp_path, 3, processes=2, zero_stage=0, fsdp=1)
    require_layout(tmp_path, processes=4, zero_stage=0, fsdp=1)
    with pytest.raises(ModelError, match=r"and FSDP, resumed under 2 processes and no ZeRO.*fsdp: full_shard}"):
        require_layout(tmp_path, processes=2, zero_stage=0)
    mark_complete(tmp_path, 3, processes=2, zero_stage=0)  # as it was written before FSDP was known
    with pytest.raises(ModelError, match="no ZeRO, resumed under 2 processes and FSDP"):
        require_layout(tmp_path, processes=2, zero_stage=0, fsdp=1)


def test_fsdp_that_is_asked_for_and_is_not_there_is_refused(monkeypatch):
    accelerator = Accelerator(cpu=True)
    refuse_other_engines(accelerator)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ModelError, match=r"FSDP was asked for by the environment -> launch: .*fsdp: full_shard"):
        refuse_other_engines(accelerator)
