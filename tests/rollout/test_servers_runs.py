"""Whole runs over real vLLM servers (on CPU), from the command line: two processes that share a server, a trainer that
is killed, servers that somebody else has started and that take no weights.

Minutes; run by hand in an environment with vLLM: `pytest -m slow tests/rollout/test_servers_runs.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (docs/servers.md)", exc_type=ImportError)
sys.path.insert(0, str(Path(__file__).parent))
from servers_help import free_port, gone

from reasonrl.models import resolve_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

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
    return [sys.executable, "-m", "reasonrl", "train", "recipe.yaml", "output=run"]


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
    with plain_server(model, tmp_path) as url:
        exam = EXAM.replace("URL", url)
        run(tmp_path / "exam", recipe=exam)
        rows = json.loads(next((tmp_path / "exam").rglob("results.json")).read_text())
        assert "quiz" in json.dumps(rows)
        by_transformers = exam.replace(f"{{engine: servers, urls: [{url}]}}", "{engine: transformers}")
        run(tmp_path / "greedy", "stages.exam.suites.quiz.greedy=true", recipe=exam)
        run(tmp_path / "reference", "stages.exam.suites.quiz.greedy=true", recipe=by_transformers)
        assert greedy_texts(tmp_path / "greedy") == greedy_texts(tmp_path / "reference")
        other = tmp_path / "other"
        other.mkdir()
        for file in Path(model).iterdir():
            (other / file.name).write_bytes(file.read_bytes())
        said = run(tmp_path / "wrong", f"model={other}", recipe=exam, fails=True)
        assert re.search(rf"was started with '{re.escape(model)}'.*from '{re.escape(str(other))}'", said)
        training = RECIPE.replace("start: 1, max_model_len: 256, kv_cache_memory_bytes: 67108864", f"urls: [{url}]")
        said = run(tmp_path / "training", recipe=training, fails=True)
        assert f"server {url} takes no weights" in said and "VLLM_SERVER_DEV_MODE=1" in said
        assert not (tmp_path / "training/run/stages/rl/metrics.jsonl").exists() or not steps_of(tmp_path / "training")


def greedy_texts(folder: Path) -> list[str]:
    """Of the greedy samples of an exam, by row."""
    import pandas

    table = pandas.concat(map(pandas.read_parquet, sorted((folder / "run/stages/exam").rglob("*.parquet"))))
    greedy = table[table["greedy"]] if "greedy" in table else table
    return [text for _, text in sorted(zip(greedy["id"], greedy["text"], strict=True))]


def test_a_server_with_vllms_own_reload_can_be_trained_with_where_nothing_is_tied(tmp_path):
    """Developer endpoints without our worker: weights go through vLLM's `reload_weights`. Tied heads do not follow on
    CPU, which the reading after the transfer finds.
    """
    training = RECIPE.replace("start: 1, max_model_len: 256, kv_cache_memory_bytes: 67108864", "urls: [URL]")
    for tied in (False, True):
        model = resolve_model(f"tiny:qwen2:tie_word_embeddings={str(tied).lower()}")
        with plain_server(model, tmp_path, VLLM_SERVER_DEV_MODE="1") as url:
            recipe = training.replace("URL", url).replace("tiny:qwen2", model)
            folder = tmp_path / f"tied-{tied}"
            said = run(folder, recipe=recipe, fails=tied)
            if tied:
                assert "read the same text differently" in said
            else:
                assert all(step["sampling/logprob_difference"] < 1e-5 for step in steps_of(folder))
