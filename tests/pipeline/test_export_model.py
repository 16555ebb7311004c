"""Exports of a finished stage: the same tensors in smaller files, a card with figures and intervals, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.errors import RunError
from reasonrl.pipeline.export_model import export_stage

CONFIG = """\
recipe: shown
seed: 3
model: acme/Base-1B
data: {train: {path: train.jsonl}}
stages:
  start: {kind: sft, model: acme/Base-1B, data: {path: lessons.jsonl}, learning_rate: 1.0e-5}
  rl: {kind: ppo, model: "${stage:start}", learning_rate: 1.0e-6, launch: {num_processes: 8}}
  judge: {kind: prm, model: "${stage:start}"}
  exam: {kind: eval, model: "${stage:rl}", suites: {quiz: {max_tokens: 5}}}
  before: {kind: eval, model: "${stage:start}", suites: {quiz: {max_tokens: 5}}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run directory with real weights of a tiny model and records as the runner writes them."""
    import torch
    from safetensors.torch import save_file

    root = tmp_path_factory.mktemp("run")
    (root / "config.yaml").write_text(CONFIG)
    generator = torch.Generator().manual_seed(0)
    for stage in ("rl", "judge"):
        folder = root / "stages" / stage
        parts = ("model", "critic") if stage == "rl" else ("model",)
        for part in parts:
            (folder / part).mkdir(parents=True)
            tensors = {f"layer.{n}": torch.randn(50, 100, generator=generator) for n in range(6)}
            save_file(tensors, folder / part / "model.safetensors", metadata={"format": "pt"})
            (folder / part / "config.json").write_text("{}")
        record = {
            "name": stage,
            "identity": {},
            "extensible": {},
            "inputs": {},
            "attempt": 1,
            "started": "2026-01-01T00:00:00+00:00",
            "finished": "2026-01-01T02:00:00+00:00",
            "shared_from": None,
            "versions": {"torch": "2.13.0"},
            "result": {
                "model": "model",
                "critic": "critic" if "critic" in parts else None,
                "data": None,
                "metrics": {"steps": 40, "note": "x"},
                "cpu_seconds": 1.0,
                "wall_seconds": 7200.0,
                "checkpoints": {},
            },
        }
        (folder / "done.json").write_text(json.dumps(record))
    for stage, value in (("exam", 0.625), ("before", 0.1)):
        (root / "stages" / stage).mkdir()
        accuracy = {"value": value, "low": value - 0.05, "high": value + 0.05}
        entry = {"accuracy": accuracy, "n_problems": 300, "decoding": {"n": 4}}
        (root / "stages" / stage / "results.json").write_text(json.dumps({"format": 1, "suites": {"quiz": entry}}))
    return root


def tensors(folder: Path) -> dict:
    from safetensors.torch import load_file

    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def test_weights_are_the_same_in_smaller_files(run, tmp_path):
    said: list[str] = []
    export_stage(run, "rl", tmp_path / "out", said.append, max_shard_size="45KB")
    before, after = tensors(run / "stages/rl/model"), tensors(tmp_path / "out")
    assert set(before) == set(after) and all(bool((before[name] == after[name]).all()) for name in before)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in (tmp_path / "out").glob("*.safetensors")}
    assert len(set(index["weight_map"].values())) == 3 and (tmp_path / "out/config.json").exists()
    assert "3 files of weights" in said[0]


def test_the_card_tells_base_figures_and_recipe(run, tmp_path):
    export_stage(run, "rl", tmp_path / "out", lambda line: None)
    card = (tmp_path / "out/README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front == {"library_name": "transformers", "tags": ["reasonrl", "ppo"], "base_model": "acme/Base-1B"}
    assert "| quiz | 300 | 4 | 62.5 % (57.5 to 67.5) |" in card and "10.0 %" not in card
    assert "learning_rate: 1.0e-06" in card and "num_processes" not in card and "torch 2.13.0" in card
    assert "2.00 h" in card and "- steps: 40" in card and "train.jsonl" in card


def test_critic_and_process_reward_model(run, tmp_path):
    export_stage(run, "rl", tmp_path / "critic", lambda line: None, part="critic")
    assert "A value model (critic)" in (tmp_path / "critic/README.md").read_text()
    export_stage(run, "judge", tmp_path / "judge", lambda line: None)
    card = (tmp_path / "judge/README.md").read_text()
    assert "A process reward model" in card and "holds no evaluation" in card


def test_refusals_name_what_there_is(run, tmp_path):
    done = CliRunner().invoke(main, ["export", str(run), "nope", str(tmp_path / "x")])
    assert done.exit_code == 2 and "stages: before, exam, judge, rl" in done.output
    with pytest.raises(RunError, match="made no critic"):
        export_stage(run, "judge", tmp_path / "x", print, part="critic")
    with pytest.raises(RunError, match="not done"):
        export_stage(run, "exam", tmp_path / "x", print)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a").write_text("")
    with pytest.raises(RunError, match="not empty"):
        export_stage(run, "rl", tmp_path / "full", print)
    with pytest.raises(RunError, match="no run directory"):
        export_stage(tmp_path, "rl", tmp_path / "x", print)
