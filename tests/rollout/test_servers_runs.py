"""Whole runs over real vLLM servers (on CPU), from the command line: two processes that share a server, a trainer that
is killed, servers that somebody else has started and that take no weights.

Minutes; run by hand in an environment with vLLM: `pytest -m slow tests/rollout/test_servers_runs.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed (docs/servers.md)", exc_type=ImportError)
sys.path.insert(0, str(Path(__file__).parent))
from servers_help import free_port, gone
from vllm_help import requests_of, small_policy, worst_gap

from reasonrl.errors import ModelError
from reasonrl.models import load_policy, resolve_model
from reasonrl.models.weights import checkpoint_weights
from reasonrl.rollout import SamplingParams, build_engine
from reasonrl.rollout.transformers_engine import TransformersEngine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

RECIPE = """\
recipe: small
model: tiny:qwen2
rollout: {engine: servers, start: 1, max_model_len: 256, kv_cache_memory_bytes: 67108864}
stages:
  rl:
    kind: ppo
    data: {world: arithmetic, n: 256, args: {operations: 2}}
    reward: length_reward.py:score
    prompts_per_step: 8
    num_generations: 2
    max_completion_length: 16
    max_steps: 3
    learning_rate: 1.0e-3
    save_steps: 1
    eval_data: {world: arithmetic, split: validation, n: 8, args: {operations: 2}}
    eval_steps: 3
"""
EXAM = """\
recipe: exam
model: tiny:qwen2
stages:
  exam:
    kind: eval
    max_tokens: 16
    rollout: {engine: servers, urls: [URL]}
    suites: {quiz: {data: {world: arithmetic, split: test, n: 8, args: {operations: 2}}, n: 4, k: [1, 2]}}
"""
REWARD = '''\
def score(prompts, completions, **columns):
    """Whether a response is long: something a random model can be paid for."""
    return [float(len(c if isinstance(c, str) else c[0]["content"]) % 2) for c in completions]
'''
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def prepare(folder: Path, recipe: str = RECIPE) -> list[str]:
    """The command of a run in this folder."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(recipe)
    (folder / "length_reward.py").write_text(REWARD)
    return [sys.executable, "-m", "reasonrl", "train", "--if-needed", "recipe.yaml", "output=run"]


def run(folder: Path, *overrides: str, recipe: str = RECIPE, fails: bool = False) -> str:
    command = [*prepare(folder, recipe), *overrides]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=500)
    assert bool(done.returncode) == fails, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def steps_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "run/stages/rl/metrics.jsonl").read_text().splitlines()]


def servers_of(folder: Path) -> list[int]:
    """Servers and their keepers that run and were started by a run in this folder."""
    names = (b"reasonrl-servers-", b"vllm.entrypoints")
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            words = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            if any(name in words for name in names) and process.cwd() == str(folder):
                found.append(process.pid)
    return found


def test_two_processes_that_share_a_server_draw_what_one_draws(tmp_path):
    said = run(tmp_path / "one"), run(tmp_path / "two", "stages.rl.launch.num_processes=2")
    one, two = steps_of(tmp_path / "one"), steps_of(tmp_path / "two")
    assert [step["step"] for step in two] == [1, 2, 3]
    for alone, together in zip(one, two, strict=True):
        assert max(alone["sampling/logprob_difference"], together["sampling/logprob_difference"]) < 1e-5
        for name in ("completions/mean_length", "reward", "entropy"):
            assert together[name] == pytest.approx(alone[name], abs=1e-3), name
        assert together["servers/all"] == together["servers/up"] == 1
        assert together["servers/1/samples"] == alone["servers/1/samples"], "those of both processes"
        assert together["servers/1/restarts"] == together["servers/1/failures"] == 0
    assert two[-1]["eval/accuracy"] == one[-1]["eval/accuracy"]
    for text in said:
        assert text.count("rollout: starting 1 vLLM server (output:") == 1 and "set aside" not in text
    for name in ("one", "two"):
        assert (tmp_path / name / "run/stages/rl/server-1.log").read_text().count("startup complete") == 1
        assert not servers_of(tmp_path / name)


def test_a_killed_trainer_takes_its_server_along_and_the_run_goes_on(tmp_path):
    trainer = subprocess.Popen(
        prepare(tmp_path), cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in trainer.stdout:
        if line.startswith("step  1/3") or line.startswith("step 1/3"):
            break
    servers = servers_of(tmp_path)
    assert servers, "the server runs"
    time.sleep(0.3)
    trainer.kill()
    trainer.wait()
    assert all(gone(pid, 15) for pid in servers) and not servers_of(tmp_path)
    run(tmp_path)
    assert [step["step"] for step in steps_of(tmp_path)] == [1, 2, 3]
    whole = tmp_path / "whole"
    run(whole)
    for broken, unbroken in zip(steps_of(tmp_path), steps_of(whole), strict=True):
        for name in ("completions/mean_length", "reward", "entropy"):
            assert broken[name] == pytest.approx(unbroken[name], abs=1e-3), name


@contextlib.contextmanager
def plain_server(model: str, folder: Path, **environment: str) -> Iterator[str]:
    """A vLLM server as somebody else starts it, without our worker; its root."""
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--port", str(port)]
    command += ["--host", "127.0.0.1", "--skip-tokenizer-init", "--logprobs-mode", "processed_logprobs"]
    command += ["--generation-config", "vllm", "--enforce-eager", "--max-model-len", "256", "--dtype", "float32"]
    command += ["--kv-cache-memory-bytes", str(64 * 2**20), "--no-enable-chunked-prefill", "--max-num-seqs", "32"]
    kept = {name: value for name, value in ENVIRONMENT.items() if name != "VLLM_SERVER_DEV_MODE"}
    with (folder / "plain.log").open("wb") as log:
        server = subprocess.Popen(
            command,
            env={**kept, "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + 400
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            assert server.poll() is None and time.monotonic() < until, (folder / "plain.log").read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        for child in psutil.Process(server.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_server_that_takes_no_weights_is_good_for_evaluations_only(tmp_path):
    model = resolve_model("tiny:qwen2")
    policy, tokenizer = load_policy(model)
    policy.eval()
    greedy = SamplingParams(24, temperature=0.0)
    with plain_server(model, tmp_path) as url:
        engine = build_engine("servers", None, tokenizer, path=model, urls=[url])
        theirs = {sample.request.id: sample.text for sample in engine.stream(requests_of(8), greedy)}
        drawn = SamplingParams(24, 0.7)
        assert worst_gap(policy, list(engine.stream(requests_of(8), drawn)), drawn) < 1e-4
        engine.close()
        ours = TransformersEngine(policy, tokenizer).stream(requests_of(8), greedy)
        assert theirs == {sample.request.id: sample.text for sample in ours}
        with pytest.raises(ModelError, match=rf"server {url} takes no weights.*VLLM_SERVER_DEV_MODE=1"):
            build_engine("servers", policy, tokenizer, urls=[url])
        shutil.copytree(model, tmp_path / "other")
        with pytest.raises(ModelError, match=rf"was started with '{model}', and .* from '{tmp_path / 'other'}'"):
            build_engine("servers", None, tokenizer, path=str(tmp_path / "other"), urls=[url])
        run(tmp_path / "exam", recipe=EXAM.replace("URL", url))
        assert "quiz" in next((tmp_path / "exam").rglob("results.json")).read_text()


@pytest.mark.parametrize("tied", [False, True])
def test_with_vllms_own_reload_only_heads_of_their_own_follow(tied, tmp_path):
    """Developer endpoints without our worker: weights go through vLLM's `reload_weights`. Tied heads do not follow on
    CPU, which the reading after the transfer finds.
    """
    policy, tokenizer = small_policy(tied=tied)
    policy.save_pretrained(tmp_path / "model")
    with plain_server(str(tmp_path / "model"), tmp_path, VLLM_SERVER_DEV_MODE="1") as url:
        engine = build_engine("servers", policy, tokenizer, urls=[url])
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        try:
            if tied:
                with pytest.raises(ModelError, match="read the same text differently"):
                    engine.sync_weights(checkpoint_weights(policy), 1)
                return
            engine.sync_weights(checkpoint_weights(policy), 1)
            drawn = SamplingParams(24)
            assert worst_gap(policy, list(engine.stream(requests_of(8), drawn)), drawn) < 1e-4
        finally:
            engine.close()
