"""vLLM in process draws in a thread of its own while the policy trains: by whose weights, and what it leaves behind."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (docs/rollout.md, vLLM on CPU)", exc_type=ImportError)

sys.path.insert(0, str(Path(__file__).parents[1] / "trainers"))
sys.path.insert(0, str(Path(__file__).parent))
import helpers
from vllm_help import worst_gap

from reasonrl.models import load_policy
from reasonrl.rollout import SamplingParams, build_engine

MOST = 24


def test_samples_are_those_of_the_weights_a_step_ago(tmp_path, monkeypatch):
    def vllm(policy, tokenizer, own_copy):
        return build_engine("vllm", policy, tokenizer, max_model_len=128, kv_cache_memory_bytes=1 << 26)

    monkeypatch.setattr(helpers, "ragged_engine", vllm)
    run = helpers.make_run(
        tmp_path, max_steps=4, max_staleness=1, max_completion_length=MOST, learning_rate=3e-3, actor_steps=2
    )
    trainer, versions, gaps = run.trainer, {}, []
    reader, _ = load_policy(helpers.TINY)
    sync, take = trainer.engine.sync_weights, trainer.drawing.take

    def synced(weights, version):
        sync(weights, version)
        versions[version] = {name: tensor.clone() for name, tensor in run.policy.state_dict().items()}

    def taken(step, rows):
        drawn = take(step, rows)
        assert {sample.weight_version for sample in drawn.samples} == {max(step - 1, 0)}
        for version in (max(step - 1, 0), step):
            reader.load_state_dict(versions[version])
            gaps.append(worst_gap(reader, drawn.samples, SamplingParams(MOST)))
        return drawn

    monkeypatch.setattr(trainer.engine, "sync_weights", synced)
    monkeypatch.setattr(trainer.drawing, "take", taken)
    try:
        trainer.train()
    finally:
        trainer.engine.close()
    own, newer = gaps[::2], gaps[3::2]
    assert len(own) == 4 and max(own) < 1e-4
    assert min(newer) > 1e-2
    assert [line["rollout/staleness_max"] for line in run.metrics] == [0, 1, 1, 1]
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("reasonrl-draw")]
