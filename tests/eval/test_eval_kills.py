"""Ten kill -9 at random moments of an evaluation with a rollout engine on a tiny model: no sample twice, generations
repeated at most those in flight, figures and samples those of an unbroken run.
"""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from command_world import write_suite
from eval_world import content

from reasonrl.observe.records import read_records

pytestmark = pytest.mark.slow

KILLS, BATCH, PROBLEMS, N = 10, 4, 40, 6
# What the command line does, with a line in a file for every sample that the engine hands over.
PROGRAM = """
import sys
from reasonrl.rollout import {module} as engine
stream = engine.{name}.stream
def noted(self, requests, params):
    with open({log!r}, "a", buffering=1) as file:
        for sample in stream(self, requests, params):
            file.write(sample.request.id + "\\n")
            yield sample
engine.{name}.stream = noted
from reasonrl.cli import main
main()
"""
ENGINES = {"transformers": ("transformers_engine", "TransformersEngine"), "vllm": ("vllm_engine", "VLLMEngine")}


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_ten_kills_at_random_moments_then_the_unbroken_result(engine: str, tmp_path: Path) -> None:
    if engine == "vllm" and importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    write_suite(tmp_path, PROBLEMS)
    module, name = ENGINES[engine]

    def start(folder: str) -> subprocess.Popen[bytes]:
        program = PROGRAM.format(module=module, name=name, log=str(tmp_path / f"{folder}.log"))
        command = [sys.executable, "-c", program, "eval", "--model", "tiny:qwen2", "--engine", engine, "--n", str(N)]
        command += ["--suites", str(tmp_path / "sums.yaml"), "--output", str(tmp_path / folder), "--max-tokens", "48"]
        command += [f"rollout.batch_size={BATCH}", "rollout.dtype=float32"] if engine == "vllm" else []
        command += [] if engine == "vllm" else [f"rollout.batch_size={BATCH}"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL)

    assert start("whole").wait(300) == 0
    arrived, log = tmp_path / "out" / "sums" / "unjudged.jsonl", tmp_path / "out.log"
    draw, kills = random.Random(), 0
    while kills < KILLS:
        process = start("out")
        there = len(log.read_text().splitlines()) if log.exists() else 0
        end = time.monotonic() + 120
        # Half of the kills fall anywhere in the start and the judging, half among the samples.
        if kills % 2:
            while process.poll() is None and time.monotonic() < end:
                if log.exists() and len(log.read_text().splitlines()) > there:
                    break
                time.sleep(0.002)
            time.sleep(draw.uniform(0, 0.3))
        else:
            time.sleep(draw.uniform(1, 12))
        if process.poll() is not None:
            assert process.returncode == 0 and kills >= 4, "it ended before enough kills"
            break
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
        assert not (tmp_path / "out" / "results.json").exists() or not arrived.exists()
    assert start("out").wait(300) == 0
    rows = read_records(tmp_path / "out" / "sums" / "samples.jsonl")
    assert len(rows) == PROBLEMS * N == len({(row["id"], row["metric"], row["index"]) for row in rows})
    drawn = Counter(log.read_text().splitlines())
    # A sample is on the disk before the next is taken: of what was handed over, a kill can cost one.
    assert len(drawn) == PROBLEMS * N and sum(drawn.values()) - PROBLEMS * N <= kills
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    print(f"{engine}: {kills} kills, {sum(drawn.values()) - PROBLEMS * N} samples drawn twice")
