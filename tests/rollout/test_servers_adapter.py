"""A LoRA policy over real vLLM servers (on CPU) as an adapter: after every update they draw from the policy that is
trained, and one that is killed comes back with base and adapter.

A minute and more; run by hand in an environment with vLLM: `pytest -m slow tests/rollout/test_servers_adapter.py`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model

from reasonrl.errors import ModelError
from reasonrl.models.weights import checkpoint_weights
from reasonrl.rollout import SamplingParams, build_engine
from reasonrl.rollout.agreement import gap_between, reading_ids, teacher_forced
from reasonrl.rollout.transfer import hand_over

pytest.importorskip("vllm", reason="vLLM is not installed (docs/servers.md)", exc_type=ImportError)
sys.path.insert(0, str(Path(__file__).parent))
from test_servers_vllm import api_process
from test_vllm_adapter import SETTINGS, optimizer_of, size_of
from test_vllm_sync import update
from vllm_help import requests_of, small_policy, worst_gap

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PARAMS = SamplingParams(24, temperature=0.8)
OPTIONS = {"max_model_len": 512, "batch_size": 24, "kv_cache_memory_bytes": 128 * 2**20}


def test_five_updates_a_kill_and_servers_of_ones_own(monkeypatch):
    base, tokenizer = small_policy(tied=True)
    engine = build_engine("servers", base, tokenizer, start=2, lora="adapter", max_lora_rank=9, **OPTIONS)
    try:
        policy = get_peft_model(base, LoraConfig(**SETTINGS["all layers, ranks and scales of their own"]))
        whole = size_of(checkpoint_weights(policy))
        trained = size_of((n, p) for n, p in policy.named_parameters() if p.requires_grad)
        optimizer, requests, ids = optimizer_of(policy), requests_of(8, length=160), reading_ids(tokenizer, most=511)
        for step in range(1, 6):
            update(policy, optimizer, step)
            if step > 1:  # servers that were not given this update
                stale = [gap_between(read, teacher_forced(policy, ids)).mean for read in read_by(engine, ids)]
                assert len(stale) == 2 and min(stale) > 1e-2
            moved = hand_over(engine, policy, step)
            assert moved.bytes == trained < whole / 10
            print(f"step {step}: {moved.bytes} bytes ({whole} merged), {moved.seconds:.2f} s")
            samples = list(engine.stream(requests, PARAMS))
            assert worst_gap(policy, samples, PARAMS) < 1e-4 and {s.weight_version for s in samples} == {step}
            assert engine.last_gap.worst < 1e-4
            assert all(gap_between(read, teacher_forced(policy, ids)).worst < 1e-4 for read in read_by(engine, ids))
        assert len(list(engine._folders.root.glob("v*"))) == 2, "the base and the newest adapter"

        row = engine.health()[0]
        os.kill(api_process(row["group"]), signal.SIGKILL)
        until = time.monotonic() + 400
        while engine.metrics()["servers/1/restarts"] < 1 or engine.metrics()["servers/up"] < 2:
            assert time.monotonic() < until, engine.health()
            time.sleep(0.2)
        assert all(gap_between(read, teacher_forced(policy, ids)).worst < 1e-4 for read in read_by(engine, ids))
        assert worst_gap(policy, list(engine.stream(requests, PARAMS)), PARAMS) < 1e-4

        process = engine._processes[0]
        monkeypatch.setenv("FLEET_KEY", process.key)
        options = {"urls": [process.url], "api_key_env": "FLEET_KEY", "served_model": "policy", "lora": "adapter"}
        other = build_engine("servers", policy, tokenizer, **options)
        update(policy, optimizer, 6)
        assert hand_over(other, policy, 6).bytes == whole + trained
        assert worst_gap(policy, list(other.stream(requests, PARAMS)), PARAMS) < 1e-4
        other.close()
    finally:
        engine.close()


def test_a_server_without_adapters_says_what_it_needs(monkeypatch):
    base, tokenizer = small_policy(tied=True)
    engine = build_engine("servers", base, tokenizer, start=1, **OPTIONS)
    try:
        process = engine._processes[0]
        monkeypatch.setenv("FLEET_KEY", process.key)
        policy = get_peft_model(base, LoraConfig(r=4, target_modules=["o_proj"]))
        other = build_engine("servers", policy, tokenizer, urls=[process.url], api_key_env="FLEET_KEY", lora="adapter")
        with pytest.raises(ModelError, match="takes no adapters; a server of one's own needs --enable-lora"):
            hand_over(other, policy, 1)
        other.close()
    finally:
        engine.close()


def read_by(engine, ids):
    return [read for _, read in engine._wait(engine._fleet.readings(ids))]
