"""Pictures over two real vLLM servers (on CPU); run by `test_vllm_images.py` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from reasonrl.errors import ModelError
from reasonrl.rollout import Request, SamplingParams, build_engine

sys.path.insert(0, str(Path(__file__).parent))
from test_servers_vllm import api_process
from test_vllm_runs import REWARD
from vision_help import image_of, load_vision, prompt_of, small_qwen_vl, with_video
from vllm_images_cases import (
    PARAMS,
    moved,
    requests_of,
    test_another_image_changes_the_logprobs,  # noqa: F401 (runs here too, over servers)
    worst_gap,
)

RECIPE = """\
recipe: small
model: tiny:{kind}
rollout: {{engine: servers, start: 1, max_model_len: 512, kv_cache_memory_bytes: 67108864}}
stages:
  rl:
    kind: ppo
    data: {{world: visual, n: 64, args: &counting {{kinds: count, difficulty: 1, size: 56, modality: mixed}}}}
    reward: length_reward.py:score
    prompts_per_step: 8
    num_generations: 2
    max_completion_length: 8
    max_steps: 3
    learning_rate: 1.0e-3
  exam:
    kind: eval
    model: ${{stage:rl}}
    max_tokens: 8
    suites: {{quiz: {{data: {{world: visual, split: test, n: 8, args: *counting}}, n: 2, k: [1, 2]}}}}
"""
OPTIONS = {"max_model_len": 256, "kv_cache_memory_bytes": 64 * 2**20}


@pytest.fixture(scope="module")
def loaded():
    return load_vision() if os.environ["REASONRL_VISION_KIND"] == "llava" else with_video(small_qwen_vl())


@pytest.fixture(scope="module")
def engine(loaded):
    model, processor = loaded
    engine = build_engine("servers", model, processor.tokenizer, processor=processor, start=2, batch_size=8, **OPTIONS)
    yield engine
    engine.close()


def by_id(samples):
    return {sample.request.id: sample for sample in samples}


def test_samples_are_those_of_vllm_in_process(engine, loaded):
    model, processor = loaded
    here = build_engine("vllm", model, processor.tokenizer, processor=processor, **OPTIONS)
    requests = requests_of(processor)
    try:
        for params in (PARAMS, SamplingParams(12, 0.7, top_p=0.9), SamplingParams(24, temperature=0)):
            theirs, ours = by_id(engine.stream(requests, params)), by_id(here.stream(requests, params))
            assert set(theirs) == set(ours) == {request.id for request in requests}
            assert worst_gap(loaded, theirs.values(), params) < 1e-4 or params.temperature == 0
            for name, sample in theirs.items():
                assert sample.token_ids == ours[name].token_ids and sample.request == ours[name].request
                assert np.abs(np.array(sample.logprobs_sampled) - ours[name].logprobs_sampled).max() < 1e-4
    finally:
        here.close()
    assert engine.metrics()["servers/1/samples"] and engine.metrics()["servers/2/samples"]


def test_updates_arrive_in_tower_and_text_of_both_servers(engine, loaded):
    model, processor = loaded
    generator = torch.Generator().manual_seed(3)
    for version in (1, 2, 3):
        moved(model, generator, tower_alone=version % 2 == 0)
        pictured = [request for request in requests_of(processor) if request.images]
        assert worst_gap(loaded, list(engine.stream(pictured, PARAMS))) > 1e-2
        with pytest.raises(ModelError, match="read the same text differently"):
            engine._verify(engine._reading(version))
        engine.sync_weights(engine.weights_of(model), version)
        assert engine.last_gap.worst < 1e-4
        samples = list(engine.stream(requests_of(processor), PARAMS))
        assert {sample.weight_version for sample in samples} == {version}
        assert worst_gap(loaded, samples) < 1e-4


def test_a_server_killed_in_mid_batch_costs_no_sample(engine, loaded):
    base, params = requests_of(loaded[1]), SamplingParams(64)
    requests = [
        Request(f"{turn}-{one.id}", one.prompt_ids, one.seed + turn, images=one.images)
        for turn in range(6)
        for one in base
    ]
    unbroken = by_id(engine.stream(requests, params))
    pid, samples = api_process(engine.health()[0]["group"]), []
    for sample in engine.stream(requests, params):
        if not samples:
            os.kill(pid, signal.SIGKILL)
        samples.append(sample)
    assert len(samples) == len(requests)
    assert {name: s.token_ids for name, s in by_id(samples).items()} == {n: s.token_ids for n, s in unbroken.items()}
    assert engine.metrics()["servers/1/retries"] > 0


def test_what_does_not_fit_is_refused(engine, loaded):
    model, processor = loaded
    image = image_of(1)
    ids = prompt_of(processor, "2+2=", [image])
    once = tuple(token for token in ids if token != processor.image_token_id)
    for prompt, images in [((*once, processor.image_token_id), (image,)), (ids, (image, image)), (once, (image,))]:
        with pytest.raises(ModelError, match=r"'x' has \d+ image tokens .* but its \d images become \d+ -> make"):
            list(engine.stream([Request("x", prompt, 1, images=images)], SamplingParams(2)))
    with pytest.raises(ModelError, match="without its processor -> build the engine"):
        build_engine("servers", model, processor.tokenizer, start=1)


def run(folder: Path, *overrides: str) -> tuple[list[dict], dict]:
    """The metrics of the PPO stage and the results of the exam of a run in a process of its own."""
    folder.mkdir()
    (folder / "small.yaml").write_text(RECIPE.format(kind=os.environ["REASONRL_VISION_KIND"]))
    (folder / "length_reward.py").write_text(REWARD)
    command = [sys.executable, "-m", "reasonrl", "train", "--if-needed", "small.yaml", "output=run", *overrides]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = next((folder / "run").rglob("metrics.jsonl")).read_text().splitlines()
    return [json.loads(line) for line in lines], json.loads(next((folder / "run").rglob("results.json")).read_text())


def test_ppo_and_an_exam_of_its_checkpoint_are_those_of_vllm_in_process(tmp_path):
    steps, exam = run(tmp_path / "servers")
    theirs, same_exam = run(tmp_path / "vllm", "rollout.engine=vllm", "rollout.start=null")
    assert len(steps) == len(theirs) == 3 and exam == same_exam
    assert any(step["reward_std"] > 0 for step in steps)
    for ours, other in zip(steps, theirs, strict=True):
        for name in ("reward", "completions/mean_length", "entropy", "policy_loss", "sampling/logprob_difference"):
            assert ours[name] == pytest.approx(other[name], abs=1e-4), name
