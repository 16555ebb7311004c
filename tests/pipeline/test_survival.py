"""What a run survives: a hundred random kills, a full disk in the middle of a checkpoint, a signal while it draws."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

KILLS = int(os.environ.get("REASONRL_KILLS", "100"))
FILES = ("done.json", "stage.json", "config.yaml", "config.input.yaml", "environment.json", "clock.json", ".lock")
PPO = """
recipe: surviving
output: {output}
model: tiny:qwen2
stages:
  rl:
    kind: ppo
    data: {{world: arithmetic, n: 16}}
    reward: math
    prompts_per_step: 4
    num_generations: 2
    max_completion_length: {length}
    max_steps: 3
    save_steps: 1
    save_total_limit: 1
    learning_rate: 1.0e-3
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


def made(bench, stage: str) -> str:
    folder = bench.output / "stages" / stage
    done = json.loads((folder / "done.json").read_text())
    return (folder / done["result"]["model"] / "weights").read_text()


def test_random_kills_lose_nothing(make_bench, tmp_path):
    """Each start dies at a random moment: around the writing of any record, or in a random step."""
    calm = make_bench(tmp_path / "calm")
    calm.ok()
    wanted = [made(calm, stage) for stage in ("first", "second")]
    drawn, kills, runs = random.Random(12), 0, 0
    while kills < KILLS:
        bench = make_bench(tmp_path / f"run{runs}")
        runs += 1
        while True:
            if kills < KILLS and drawn.random() < 0.9:
                moment = {"COUNT_KILL_AT": drawn.randint(1, 4)}
                if drawn.random() < 0.7:
                    moment = {"DIE_AT": f"{drawn.choice(('part', 'before', 'after'))}:{drawn.choice(FILES)}"}
                ended = bench.run(**moment)
            else:
                ended = bench.run()
            assert ended.returncode in (0, -signal.SIGKILL), (kills, ended.stdout, ended.stderr)
            kills += ended.returncode != 0
            if ended.returncode == 0:
                break
        assert [made(bench, stage) for stage in ("first", "second")] == wanted, f"after {kills} kills"
    print(f"\n{kills} kills over {runs} runs, 0 losses")


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def train(recipe: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "reasonrl", "train", "--if-needed", str(recipe)]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=2400)


def weights(output: Path) -> dict:
    from safetensors.torch import load_file

    parts = (output / "stages/rl" / part for part in ("model", "critic"))
    return {f"{file}": t for part in parts for one in part.glob("*.safetensors") for file, t in load_file(one).items()}


def same(one: dict, other: dict) -> bool:
    return set(one) == set(other) and all(bool((one[name] == other[name]).all()) for name in one)


def written(folder: Path, output: Path, length: int = 8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "surviving.yaml").write_text(PPO.format(output=output, length=length))
    return folder / "surviving.yaml"


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    root = tmp_path_factory.mktemp("unbroken")
    done = train(written(root, root / "run"))
    assert done.returncode == 0, done.stderr
    return weights(root / "run")


@contextlib.contextmanager
def small_disk(place: Path, mib: int) -> Iterator[None]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_in_a_checkpoint_leaves_what_a_restart_can_use(unbroken, tmp_path):
    disk = tmp_path / "disk"
    with small_disk(disk, 16):  # one checkpoint of 10 MiB fits beside a whole one only in part
        recipe = written(tmp_path, disk / "run")
        full = train(recipe)
        assert full.returncode == 1, full.stdout + full.stderr
        assert "No space left" in full.stderr or "28" in full.stderr, full.stderr
        whole = list(disk.glob("run/stages/rl/checkpoints/checkpoint-*/complete.json"))
        torn = [
            path
            for path in disk.glob("run/stages/rl/checkpoints/checkpoint-*")
            if not (path / "complete.json").exists()
        ]
        print(f"\nwhole {len(whole)}, torn {torn}: {full.stderr.strip().splitlines()[-1][:300]}")
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        again = train(recipe)
        assert again.returncode == 0, again.stdout + again.stderr
        assert same(weights(disk / "run"), unbroken)


def test_a_signal_while_samples_are_drawn_is_obeyed_at_the_end_of_the_step(unbroken, tmp_path):
    recipe = written(tmp_path, tmp_path / "run")
    process = subprocess.Popen(
        [sys.executable, "-m", "reasonrl", "train", "--if-needed", str(recipe)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = tmp_path / "run/stages/rl/metrics.jsonl"
    while not (lines.exists() and lines.read_text().strip()):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)  # the second step draws now
    out, _ = process.communicate(timeout=1200)
    assert process.returncode == 143 and "carry on with" in out, out
    assert 1 <= len(lines.read_text().splitlines()) < 3
    again = train(recipe)
    assert again.returncode == 0, again.stderr
    assert same(weights(tmp_path / "run"), unbroken)
