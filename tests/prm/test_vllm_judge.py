"""Judges on vLLM: in this process, and a real server that 200 real GSM8K solutions are sent to.

Tiny random weights keep the form of replies and nothing else: what counts is that everything is asked once, read,
counted and kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed (docs/rollout.md, vLLM on CPU)", exc_type=ImportError)
sys.path.insert(0, str(Path(__file__).parent))
from judge_world import solution_of

from reasonrl.models import resolve_model
from reasonrl.observe.records import read_records
from reasonrl.prm.annotation import Folder
from reasonrl.prm.judges import Judged, Task, build_judge
from reasonrl.prm.labels import validate
from reasonrl.prm.steps import spans_of

pytestmark = pytest.mark.slow

DATA = os.environ.get("REASONRL_DATA")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model with room for questions: its tokens are single characters."""
    folder = tmp_path_factory.mktemp("judge") / "model"
    shutil.copytree(resolve_model("tiny:qwen2"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 8192}))
    return str(folder)


def test_a_model_in_this_process_is_asked_about_everything_once(model: str) -> None:
    kinds = [["right", "right"], ["right", "error", "propagation"], ["error"], ["right"]]
    tasks = [Task(solution_of(k, k[-1] == "right", n), place=n) for n in range(3) for k in kinds]
    tasks = [Task(task.solution, 0, place) for place, task in enumerate(tasks)]
    tasks.append(Task(solution_of(["right"] * 150, True, 99), 0, len(tasks)))  # more than the model can read
    settings = {"longest_reason": 8, "max_tokens": 600, "temperature": 1.0, "at_once": 5, "max_model_len": 8192}
    judge = build_judge("vllm", {"model": model, **settings})
    kept: list[Judged] = []
    try:
        found = list(judge.judge(tasks, kept.append))
    finally:
        judge.close()
    assert found == kept and sorted(one.task.place for one in found) == list(range(len(tasks)))
    *rest, last = sorted(found, key=lambda one: one.task.place)
    assert "context" in last.failure and last.usage.asked == 0
    labelled = [one for one in rest if one.labels is not None]
    assert labelled
    for one in labelled:
        solution = one.task.solution
        record = {"text": solution.text, "steps": spans_of(solution.steps), "correct": solution.correct}
        assert validate({**record, "labels": one.labels, "kinds": one.kinds}) == []
        # Of a character that is no UTF-8, each of its bytes becomes a sign of its own.
        assert one.reasons is not None and max(map(len, one.reasons)) <= 3 * 8
    for one in rest:
        assert one.labels is not None or one.usage.asked == 3, "asked again until the questions are used up"
        assert one.usage.completion_tokens > 0 and one.usage.prompt_tokens > 1000 * one.usage.asked


@contextlib.contextmanager
def server_of(model: str, folder: Path) -> Iterator[str]:
    """`docs/annotation.md`'s command, on CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--port", str(port)]
    command += ["--served-model-name", "judge", "--host", "127.0.0.1", "--max-model-len", "8192", "--dtype", "float32"]
    command += ["--generation-config", "vllm", "--enforce-eager", "--max-num-seqs", "32", "--no-enable-chunked-prefill"]
    command += ["--kv-cache-memory-bytes", str(2**30)]
    quiet = {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_LOGGING_LEVEL": "ERROR"}
    with (folder / "server.log").open("wb") as log:
        environment = {**os.environ, **quiet, "OMP_NUM_THREADS": "1"}
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        until = time.monotonic() + 300
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            assert server.poll() is None and time.monotonic() < until, (folder / "server.log").read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.timeout(1800)
@pytest.mark.skipif(not DATA, reason="REASONRL_DATA is not set: no real solutions to label")
def test_real_solutions_are_labelled_by_a_real_server(model: str, tmp_path: Path) -> None:
    def annotate(*words: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "reasonrl", "annotate", "recipe.yaml", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1500)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return dict(json.loads((tmp_path / "run/stages/annotate/index.json").read_text()))

    with server_of(model, tmp_path) as url:
        endpoint = {"base_url": url, "model": "judge", "max_concurrency": 32}
        form = {"reply": "exact", "longest_reason": 8, "max_tokens": 600, "temperature": 1.0, "re_asks": 0}
        stage = {
            "kind": "annotate",
            "data": {
                "path": f"{DATA}/gsm8k/test.jsonl",
                "limit": 200,
                "columns": {"problem": "question", "solution": "answer"},
            },
            "segment": {"shortest": 120, "longest": 400},
            "judges": [{"name": "endpoint", "args": {"endpoint": endpoint, "seed": None, **form}}],
            "shard_size": 40,
        }
        recipe = {"recipe": "gsm8k_labels", "output": "run", "stages": {"annotate": stage}}
        (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
        first = annotate()
        assert first["rows"] == 200 == first["solutions"] + first["failed"] and first["solutions"] > 0
        stage_folder = tmp_path / "run/stages/annotate"
        failed = read_records(stage_folder / "failed.jsonl")
        assert len(failed) == first["failed"] > 0 and all(line["retry"] and line["reason"] for line in failed)
        asked = first["usage"]["asked"]
        assert asked == 200 and first["usage"]["completion_tokens"] > 0
        again = annotate("--retry-failed")
    records = list(Folder(stage_folder).labelled())
    assert len({record["id"] for record in records}) == len(records) == again["solutions"] > first["solutions"]
    assert again["failed"] == 200 - again["solutions"]
    assert again["usage"]["asked"] - asked == first["failed"], "only what had failed was asked about again"
    assert not [fault for record in records for fault in validate(record)]
