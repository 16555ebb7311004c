"""Averages of checkpoints: against numpy in fp64, over other shards, of adapters, and what is refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from reasonrl.errors import ModelError
from reasonrl.models import averaging
from reasonrl.models.averaging import Average, ema_weights
from reasonrl.models.tensor_files import INDEX


def tensors(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, scale=1.0):
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    return {
        "big.weight": draw(300, 170),
        "small": draw(7, scale=1e-30 if dtype == torch.float32 else 1e-3),
        "one": draw(1)[0],
        "empty": torch.empty(0, dtype=dtype),
        "huge": draw(3, 5, scale=1e30),
        "steps": torch.tensor([3, 4]),
    }


def write(folder, held, shards=1):
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "x"}')
    (folder / "trainer_state.json").write_text("{}")
    names = sorted(held)
    if shards == 1:
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    parts = [names[place::shards] for place in range(shards)]
    where = {}
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05d}-of-{shards:05d}.safetensors"
        save_file({name: held[name] for name in part}, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def averaged(folders, target, **options):
    target.mkdir()
    average = Average(folders, **options)
    made = average.write(target)
    average.close()
    read = {}
    for path in target.glob("*.safetensors"):
        read |= load_file(path)
    return read, made


def exact(held, weights):
    """The mean in fractions of fp64: one rounding for the sum, one for the quotient."""
    total = math.fsum(weights)
    stacked = [one.double().numpy() for one in held]
    flat = numpy.array(
        [
            math.fsum(w * float(v) for w, v in zip(weights, values, strict=True)) / total
            for values in zip(*(one.ravel() for one in stacked), strict=True)
        ]
    )
    return flat.reshape(stacked[0].shape)


@pytest.mark.parametrize(("weights", "piece"), [(None, 1 << 20), ((1.0, 0.5, 3.0), 1000)])
def test_the_mean_is_that_of_fp64_to_one_ulp_whatever_the_shards(tmp_path, monkeypatch, weights, piece):
    monkeypatch.setattr(averaging, "PIECE", piece)
    held = [tensors(seed) for seed in range(3)]
    folders = [
        write(tmp_path / str(place), one, shards)
        for place, (one, shards) in enumerate(zip(held, (2, 1, 3), strict=True))
    ]
    read, made = averaged(folders, tmp_path / "mean", weights=weights)
    assert sorted(path.name for path in (tmp_path / "mean").iterdir()) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        INDEX,
    ]
    for name in held[0]:
        if name in ("steps", "empty"):
            assert numpy.array_equal(read[name], held[0][name].numpy())
            continue
        wanted = exact([one[name] for one in held], weights or (1.0, 1.0, 1.0)).astype(numpy.float32)
        ulp = numpy.spacing(numpy.abs(wanted))
        assert read[name].dtype == numpy.float32 and (numpy.abs(read[name] - wanted) <= ulp).all(), name
    # Independent draws of weights w lie sum(w (1 - w)) / sum(w^2) of the squared mean apart.
    shares = numpy.array(weights or (1, 1, 1)) / sum(weights or (1, 1, 1))
    assert made.spread == pytest.approx(math.sqrt((shares * (1 - shares)).sum() / (shares**2).sum()), rel=0.5)


def test_half_precision_and_moving_averages(tmp_path):
    held = [tensors(seed, torch.bfloat16) for seed in range(4)]
    folders = [write(tmp_path / str(place), one) for place, one in enumerate(held)]
    target = tmp_path / "mean"
    target.mkdir()
    average = Average(folders, weights=ema_weights(4, 0.9))
    average.write(target)
    average.close()
    from safetensors.torch import load_file as load_torch

    moving = held[0]["big.weight"].double()
    for one in held[1:]:
        moving = 0.9 * moving + 0.1 * one["big.weight"].double()
    read = load_torch(target / "model.safetensors")["big.weight"]
    assert read.dtype == torch.bfloat16 and torch.equal(read, moving.to(torch.bfloat16))
    assert ema_weights(3, 0.0) == [0.0, 0.0, 1.0] and sum(ema_weights(9, 0.7)) == pytest.approx(1)


def test_a_shard_that_is_there_is_kept_and_the_rest_is_made(tmp_path):
    folders = [write(tmp_path / str(seed), tensors(seed), 2) for seed in range(2)]
    whole, _ = averaged(folders, tmp_path / "whole")
    target = tmp_path / "resumed"
    target.mkdir()
    first = "model-00001-of-00002.safetensors"
    (target / first).write_bytes((tmp_path / "whole" / first).read_bytes())
    seen = []
    average = Average(folders)
    made = average.write(target, report=lambda *counts: seen.append(counts))
    average.close()
    assert seen == [(1, 2), (2, 2)] and math.isnan(made.spread)
    again = {name: value for path in target.glob("*.safetensors") for name, value in load_file(path).items()}
    assert all(numpy.array_equal(again[name], whole[name]) for name in whole)


def test_models_that_do_not_fit_are_refused_by_name(tmp_path):
    good = write(tmp_path / "good", tensors(0))
    other = tensors(1)

    def refused(says, folder, **options):
        (tmp_path / "out").mkdir(exist_ok=True)
        with pytest.raises(ModelError, match=says):
            average = Average([good, folder], **options)
            average.write(tmp_path / "out")
        for path in (tmp_path / "out").iterdir():
            path.unlink()

    refused("'small' is in one of", write(tmp_path / "less", {k: v for k, v in other.items() if k != "small"}))
    refused(r"'one' is F32 \[\] in .* and F32 \[2\]", write(tmp_path / "shape", {**other, "one": torch.zeros(2)}))
    refused("'huge' of .*nan is not finite", write(tmp_path / "nan", {**other, "huge": torch.full((3, 5), math.nan)}))
    refused("'steps' holds whole numbers", write(tmp_path / "int", {**other, "steps": torch.tensor([3, 5])}))
    refused("with the weights", good, weights=[0, 0])
    cut = write(tmp_path / "cut", other)
    data = (cut / "model.safetensors").read_bytes()
    (cut / "model.safetensors").write_bytes(data[:-5])
    refused("is not as long as its shape says", cut)
    (cut / "model.safetensors").write_bytes(data[:4])
    refused("is no safetensors file, or cut", cut)
    (cut / "model.safetensors").rename(cut / "pytorch_model.bin")
    refused("has no model.safetensors", cut)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny:qwen2", "tiny:qwen2_5_vl"])
def test_adapters_average_to_the_mean_of_the_merged_models(tmp_path, name):
    from peft import LoraConfig, get_peft_model

    from reasonrl.models import load_policy, resolve_model

    folders, merged = [], []
    for seed in range(3):
        model, _ = load_policy(name)
        torch.manual_seed(seed)
        tuned = get_peft_model(
            model,
            LoraConfig(
                r=3 + seed, lora_alpha=7, target_modules="all-linear", use_rslora=seed == 1, init_lora_weights=False
            ),
        )
        folder = tmp_path / str(seed)
        tuned.save_pretrained(folder, save_embedding_layers=False)
        folders.append(folder)
        tuned.merge_and_unload().save_pretrained(tmp_path / f"merged{seed}")
        merged.append(load_file(tmp_path / f"merged{seed}" / "model.safetensors"))
    read, _ = averaged(folders, tmp_path / "mean", base=Path(resolve_model(name)))
    start = load_file(Path(resolve_model(name)) / "model.safetensors")
    changed = 0
    for key, value in read.items():
        wanted = sum(one[key].astype(numpy.float64) for one in merged) / 3
        assert numpy.abs(value - wanted).max() <= 1e-6 * max(1, numpy.abs(wanted).max()), key
        changed += not numpy.array_equal(value, start[key])
    assert changed > 10
    load_policy(str(tmp_path / "mean"))


MEMORY = """
import resource, sys, threading, time
from pathlib import Path
import torch
from reasonrl.models.averaging import Average
import psutil
me = psutil.Process()
start, peak, going = me.memory_info().rss, [0], [True]
def watch():
    while going[0]:
        peak[0] = max(peak[0], me.memory_info().rss)
        time.sleep(0.002)
thread = threading.Thread(target=watch); thread.start()
average = Average([Path(p) for p in sys.argv[2:]]); average.write(Path(sys.argv[1])); average.close()
going[0] = False; thread.join()
print(peak[0] - start)
"""


@pytest.mark.slow
def test_memory_stays_under_a_shard(tmp_path):
    """Four models in two shards of 256 MiB; the bar is 1.2 shards beyond import."""
    shard = 256 << 20
    folders = []
    for seed in range(4):
        torch.manual_seed(seed)
        folders.append(
            write(
                tmp_path / str(seed),
                {f"layer{part}.{k}": torch.randn(shard // 32) for part in range(2) for k in range(8)},
                2,
            )
        )
    (tmp_path / "mean").mkdir()
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "mean"), *map(str, folders)]
    used = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"averaging: {used / 2**20:.0f} MiB beyond import, {used / shard:.2f} of a shard")
    assert used <= 1.2 * shard


@pytest.mark.slow
def test_the_stage_averages_what_a_stage_keeps(tmp_path):
    """Checkpoints of a run, all and named, moving, and of adapters: each a model that the next stage loads."""
    from click.testing import CliRunner

    from reasonrl.cli import main

    train = {"kind": "sft", "data": {"world": "arithmetic", "n": 64}, "max_steps": 6, "save_steps": 2}
    train |= {"save_total_limit": 3, "learning_rate": 1e-3}
    stages = {
        "train": train,
        "adapted": {**train, "lora": {"r": 4}},
        "mean": {"kind": "average", "models": "${stage:train@all}"},
        "moving": {"kind": "average", "models": ["${stage:train@step=2}", "${stage:train}"], "ema": 0.5},
        "lora": {"kind": "average", "models": ["${stage:adapted@all}"]},
        "exam": {"kind": "eval", "model": "${stage:lora}", "max_tokens": 4,
                 "suites": {"test": {"data": {"world": "arithmetic", "split": "test", "n": 4}}}},
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(
        json.dumps({"recipe": "mean", "model": "tiny:qwen2", "output": str(tmp_path / "run"), "stages": stages})
    )
    for arguments in (["train", str(path), "--dry-run"], ["train", str(path)], ["train", str(path), "--dry-run"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output + result.stderr
    assert "3 LoRA adapters" in result.output + result.stderr
    made = tmp_path / "run" / "stages"
    kept = [
        load_file(made / "train" / "checkpoints" / f"checkpoint-{step}" / "model.safetensors") for step in (2, 4, 6)
    ]
    mean, moving = (load_file(made / name / "model" / "model.safetensors") for name in ("mean", "moving"))
    for key in mean:
        wanted = sum(one[key].astype(numpy.float64) for one in kept) / 3
        assert numpy.abs(mean[key] - wanted).max() <= 1e-7
        assert numpy.abs(moving[key] - (kept[0][key].astype(float) + kept[2][key]) / 2).max() <= 1e-7
