"""The server in front of a real vLLM server of a tiny model, driven by the `openai` client.

In an environment with vLLM: python -m pytest -m slow tests/pacore/test_server_vllm.py
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here"),
]


@pytest.fixture(scope="module")
def vllm_server(tmp_path_factory):
    """Its base_url."""
    from reasonrl.models import resolve_model

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", resolve_model("tiny:qwen2")]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    command += ["--generation-config", "vllm", "--max-model-len", "1024", "--dtype", "float32", "--max-num-seqs", "32"]
    command += ["--kv-cache-memory-bytes", str(128 * 2**20)]
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    log = tmp_path_factory.mktemp("vllm") / "vllm.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out, start_new_session=True)
    try:
        end = time.monotonic() + 1500
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
                time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        import psutil

        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
        process.kill()
        process.wait()


def test_the_openai_client_through_the_server_to_vllm(vllm_server, tmp_path):
    import openai
    from serving import Serving

    with Serving(vllm_server) as server:  # its model is asked from vLLM
        client = openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=600)
        assert next(one.id for one in client.models.list()) == "tiny-pacore-low"
        fields = {
            "model": "tiny-pacore-low",
            "messages": [{"role": "user", "content": "1 + 1 = ?"}],
            "max_tokens": 24,
            "seed": 1,
        }
        whole = client.chat.completions.create(**fields, temperature=0)
        records = whole.pacore["rounds"]
        assert [one["calls"] for one in records] == [4, 1] and records[0]["failed"] == 0
        assert 0 < whole.usage.completion_tokens <= 5 * 24 and whole.usage.prompt_tokens > 0
        events = list(client.chat.completions.create(**fields, temperature=0, stream=True))
        said = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
        assert said == whole.choices[0].message.content
        drawn = client.chat.completions.create(**fields, extra_body={"pacore": {"rounds": [6, 2]}, "top_k": 50})
        assert [one["calls"] for one in drawn.pacore["rounds"]] == [6, 2, 1]
        # A prompt beyond vLLM's 1,024 tokens is asked again with fewer messages.
        long = client.chat.completions.create(**{**fields, "max_tokens": 120}, extra_body={"pacore": {"rounds": [24]}})
        last = long.pacore["rounds"][-1]
        assert last["shown"] + last["left_out"] == long.pacore["rounds"][0]["messages"]
    rows = tmp_path / "in.jsonl"
    rows.write_text("".join(json.dumps({"problem": f"{k} + 1 = ?", "answer": k + 1}) + "\n" for k in range(4)))
    words = [
        sys.executable,
        "-m",
        "reasonrl",
        "pacore",
        "run",
        str(rows),
        "--out",
        str(tmp_path / "run"),
        "--model",
        "tiny",
    ]
    words += ["--endpoint", vllm_server, "--rounds", "4", "--max-tokens", "16"]
    subprocess.run(words, check=True, timeout=600)
    assert len((tmp_path / "run" / "results.jsonl").read_text().splitlines()) == 4
