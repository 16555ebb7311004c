"""Two real vLLM servers (on CPU), started by the engine: what they draw, a kill in mid-batch, new weights in both.

A minute and more; run by hand in an environment with vLLM: `pytest -m slow tests/rollout/test_servers_vllm.py`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch

from reasonrl.errors import ModelError
from reasonrl.models.weights import checkpoint_weights
from reasonrl.rollout import SamplingParams, build_engine
from reasonrl.rollout.agreement import LIMIT_FLOAT32, gap_between, reading_ids, teacher_forced
from reasonrl.rollout.transformers_engine import TransformersEngine

pytest.importorskip("vllm", reason="vLLM is not installed (docs/servers.md)", exc_type=ImportError)
sys.path.insert(0, str(Path(__file__).parent))
from servers_help import gone, group_members
from vllm_help import check_texts_end_samples, requests_of, small_policy, worst_gap

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def loaded():
    return small_policy(tied=True)


@pytest.fixture(scope="module")
def engine(loaded):
    engine = build_engine(
        "servers", *loaded, start=2, max_model_len=512, batch_size=24, kv_cache_memory_bytes=128 * 2**20
    )
    yield engine
    groups = [row["group"] for row in engine.health()]
    folder = engine._folders.root
    engine.close()
    assert not any(group_members(group) for group in groups) and not folder.exists()


def by_id(samples):
    return {sample.request.id: sample for sample in samples}


def api_process(group: int) -> int:
    """The process that answers requests: the one whose command names the server's module."""
    for pid in group_members(group):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"vllm.entrypoints.openai.api_server" in words and not any(b"servers_keeper" in word for word in words):
            return pid
    raise AssertionError("no server in the group")


def test_logprobs_are_those_of_the_distribution_that_was_drawn_from(engine, loaded):
    for params in (SamplingParams(24), SamplingParams(24, 0.6), SamplingParams(24, 1.3, top_p=0.7)):
        samples = list(engine.stream(requests_of(12), params))
        assert len(samples) == 12 and worst_gap(loaded[0], samples, params) < 1e-4
        assert worst_gap(loaded[0], samples, SamplingParams(24, temperature=0.9)) > 1e-2
    assert engine.last_gap.mean < LIMIT_FLOAT32
    figures = engine.metrics()
    assert figures["servers/1/samples"] == figures["servers/2/samples"] == 18


def test_draws_depend_on_the_seed_alone_and_greedy_equals_transformers(engine, loaded):
    params = SamplingParams(32)
    together = by_id(engine.stream(requests_of(12), params))
    alone = by_id(sample for request in requests_of(12)[::5] for sample in engine.stream([request], params))
    assert all(alone[name].token_ids == together[name].token_ids for name in alone)
    greedy = SamplingParams(32, temperature=0)
    theirs = by_id(engine.stream(requests_of(12), greedy))
    ours = by_id(TransformersEngine(*loaded).stream(requests_of(12), greedy))
    assert {name: theirs[name].text for name in ours} == {name: ours[name].text for name in ours}


def test_texts_end_samples(engine, loaded):
    check_texts_end_samples(engine, loaded[1])


def test_a_server_without_the_key_does_nothing(engine):
    url = engine.health()[0]["url"]
    for path in ("/v1/models", "/collective_rpc", "/pause", "/health"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(url + path, b"{}" if path[1] in "cp" else None))
        assert caught.value.code == 401


def test_new_weights_are_in_both_servers(engine, loaded):
    model, tokenizer = loaded
    for version in (1, 2):
        with torch.no_grad():
            generator = torch.Generator().manual_seed(version)
            for parameter in model.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
        ids = reading_ids(tokenizer, most=511)
        trainer = teacher_forced(model, ids)
        before = [gap_between(read, trainer).mean for _, read in engine._wait(engine._fleet.readings(ids))]
        assert len(before) == 2 and min(before) > 1e-2
        start = time.monotonic()
        engine.sync_weights(checkpoint_weights(model), version)
        print(f"sync {time.monotonic() - start:.2f} s, gap {engine.last_gap.mean:.2g}")
        after = [gap_between(read, trainer).worst for _, read in engine._wait(engine._fleet.readings(ids))]
        assert len(after) == 2 and max(after) < 1e-4
        params = SamplingParams(16)
        samples = list(engine.stream(requests_of(12), params))
        assert worst_gap(model, samples, params) < 1e-4
        assert {sample.weight_version for sample in samples} == {version}
    assert len(list(engine._folders.root.glob("v*"))) == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_server_killed_in_mid_batch_costs_no_sample_and_comes_back(engine, loaded, temperature):
    requests, params = requests_of(60), SamplingParams(96, temperature)
    unbroken = by_id(engine.stream(requests, params))
    before, row = engine.metrics(), engine.health()[0]
    pid, members, samples = api_process(row["group"]), group_members(row["group"]), []
    start = time.monotonic()
    for sample in engine.stream(requests, params):
        samples.append(sample)
        if len(samples) == 8:
            os.kill(pid, signal.SIGKILL)
    print(f"with a kill {time.monotonic() - start:.1f} s, then", engine.health()[0]["why_out"])
    assert len(samples) == 60 and len(by_id(samples)) == 60
    broken = by_id(samples)
    assert {name: broken[name].text for name in broken} == {name: unbroken[name].text for name in broken}
    assert engine.metrics()["servers/1/retries"] > before["servers/1/retries"]
    assert all(gone(member) for member in members), "its engine process went with it"
    until = time.monotonic() + 400
    restarts = before["servers/1/restarts"] + 1  # on a busy machine the loss is noticed late
    while engine.metrics()["servers/up"] < 2 or engine.metrics()["servers/1/restarts"] < restarts:
        assert time.monotonic() < until, engine.health()
        time.sleep(0.2)
    print(f"back after {time.monotonic() - start:.1f} s")
    assert engine.metrics()["servers/1/restarts"] == restarts
    again = by_id(engine.stream(requests, params))
    assert {name: again[name].text for name in again} == {name: unbroken[name].text for name in again}
    assert engine.metrics()["servers/1/samples"] > before["servers/1/samples"] + 8
    assert worst_gap(loaded[0], list(again.values()), params) < 1e-4, "it came back with the present weights"


def test_servers_of_ones_own(engine, loaded, monkeypatch):
    """The same servers, as if somebody else had started them."""
    process = engine._processes[0]
    monkeypatch.setenv("FLEET_KEY", process.key)
    other = build_engine("servers", *loaded, urls=[process.url], api_key_env="FLEET_KEY")
    samples = list(other.stream(requests_of(6), SamplingParams(16, 0.7)))
    assert len(samples) == 6 and worst_gap(loaded[0], samples, SamplingParams(16, 0.7)) < 1e-4
    other.close()


def test_options_that_vllm_refuses_are_told_with_its_words(loaded):
    with pytest.raises(ModelError, match=r"rollout.start: server 1 ended while it started .*(?s:.)*max_model_len"):
        build_engine("servers", *loaded, start=1, max_model_len=4096)
