"""An engine whose package is missing stops a run before anything is trained or written."""

from __future__ import annotations

import importlib.util

import pytest

from reasonrl.errors import RunError
from reasonrl.pipeline import train
from reasonrl.recipe import load_recipe

RECIPE = """\
model: tiny:qwen2
data: {train: {world: arithmetic, n: 64}}
stages:
  start: {kind: sft, max_steps: 1}
  exam:
    kind: eval
    model: ${stage:start}
    max_tokens: 4
    suites: {quiz: {data: "${data.train}"}}
    rollout: {engine: vllm}
"""


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_a_run_with_vllm_is_refused_where_it_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exam.yaml").write_text(RECIPE)
    resolved = load_recipe("exam.yaml")
    with pytest.raises(RunError, match=r"stages.exam.rollout.engine: is 'vllm'.*not installed here -> pip install"):
        train(resolved, run_directory=tmp_path / "run")
    assert not (tmp_path / "run").exists()
