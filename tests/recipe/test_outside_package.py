"""A package of somebody else's adds one of each kind by entry points; nothing here knows it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
PAGE = (TREE / "docs" / "extending.md").read_text(encoding="utf-8")
RECIPE = """
recipe: outside
output: run
stages:
  count: {kind: count_rows, least: 0}
  again: {kind: count_rows, least: 1}
"""
PPO = """
recipe: outside_ppo
output: run_ppo
model: tiny:qwen2
stages:
  rl:
    {kind: ppo, data: {world: arithmetic, n: 8}, reward: {name: brief, args: {limit: 200}}, advantage: best_only,
     prompts_per_step: 2, num_generations: 4, max_completion_length: 6, max_steps: 2, save_steps: 2}
  exam: {kind: eval, model: "${stage:rl}", suites: [tiny_sums]}
"""


@pytest.fixture(scope="module")
def outside(tmp_path_factory) -> Path:
    """The page's examples as an installed package: modules, and the metadata that pip writes."""
    folder = tmp_path_factory.mktemp("outside")
    package = folder / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    named = {block.split("\n")[0].removeprefix("# "): block for block in blocks if block.startswith("# my_")}
    (package / "parts.py").write_text("\n".join(block for block in blocks if not block.startswith("# my_")))
    (package / "stage.py").write_text(named["my_stage.py"])
    (package / "run.py").write_text(named["my_run.py"])
    toml = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]
    entries = re.sub(r'\[project\.entry-points\."(.*?)"\]', r"[\1]", toml).replace('"', "")
    info = folder / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entries)
    return folder


def reasonrl(outside: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{outside}{os.pathsep}{TREE}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "reasonrl", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=590)


def test_a_stage_kind_runs_resumes_and_is_checked(outside, tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    done = reasonrl(outside, tmp_path, "train", "r.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "again: 1 stages are done" in done.stdout
    record = json.loads((tmp_path / "run/stages/again/done.json").read_text())
    assert record["result"]["metrics"] == {"stages": 1, "enough": 1.0}
    changed = reasonrl(outside, tmp_path, "train", "r.yaml", "stages.again.least=2")
    assert changed.returncode == 2 and "least: 1 -> 2" in changed.stderr
    typo = reasonrl(outside, tmp_path, "train", "r.yaml", "stages.again.lest=2")
    assert typo.returncode == 2 and "did you mean 'least'" in typo.stderr
    without = subprocess.run(
        [sys.executable, "-m", "reasonrl", "train", "r.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(TREE)},
    )
    assert without.returncode == 2 and "count_rows" in without.stderr


def test_names_of_the_other_kinds_are_known(outside, tmp_path):
    program = """
from reasonrl.recipe import load_recipe
from reasonrl.rewards import get_reward
from reasonrl.prm.judges.base import build_judge
from reasonrl.eval.suites import resolve
recipe = load_recipe('p.yaml').recipe
assert recipe.stages['rl'].advantage == 'best_only'
assert get_reward('brief')(prompts=['?'], completions=[[{'role': 'assistant', 'content': '4'}]], answer=['4']) == [1.0]
assert build_judge('suspicious', {'word': 'clearly'}) is not None
assert resolve(['tiny_sums'])['tiny_sums'].n == 4
print('all known')
"""
    (tmp_path / "p.yaml").write_text(PPO)
    environment = {**os.environ, "PYTHONPATH": f"{outside}{os.pathsep}{TREE}"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200
    )
    assert "all known" in done.stdout, done.stderr


@pytest.mark.slow
def test_reward_advantage_and_suite_of_a_package_train_and_evaluate(outside, tmp_path):
    (tmp_path / "p.yaml").write_text(PPO)
    done = reasonrl(outside, tmp_path, "train", "p.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "run_ppo/stages/exam/results.json").read_text())
    assert "tiny_sums" in results["suites"]


@pytest.mark.parametrize("wrong", ["lambda rewards: rewards[:1]", "lambda rewards: rewards / 0"])
def test_advantages_of_a_wrong_shape_or_not_finite_are_refused(wrong, monkeypatch):
    import torch

    from reasonrl.errors import ModelError
    from reasonrl.trainers import advantage_plugins

    monkeypatch.setattr(advantage_plugins, "load_entry_point", lambda *args, **more: eval(wrong))
    with pytest.raises(ModelError, match="finite advantages"):
        advantage_plugins.plugin_advantages("x", torch.tensor([1.0, 2.0, 3.0, 4.0]), 2)


def test_advantages_go_back_to_their_samples(monkeypatch):
    import torch

    from reasonrl.trainers import advantage_plugins

    monkeypatch.setattr(advantage_plugins, "load_entry_point", lambda *args, **more: lambda rewards: rewards * 2)
    given = torch.tensor([1.0, float("nan"), 3.0, 4.0])
    assert advantage_plugins.plugin_advantages("x", given, 2).tolist() == [2.0, 0.0, 6.0, 8.0]
