"""Scripts of `reasonrl launch`: their shell is sound, they name the right machines, and the torchrun form runs."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.errors import RecipeError
from reasonrl.recipe import load_recipe

LAUNCH = "launch={num_processes: 16, num_machines: 2, max_restarts: 3, slurm: {partition: gpu, time: '24:00:00'}}"
SERVED = LAUNCH.replace("max_restarts: 3", "server_machines: 2, max_restarts: 3")


def written(folder: Path, *words: str) -> dict[str, str]:
    done = CliRunner().invoke(main, ["launch", "quickstart", *words, "--out", str(folder)])
    assert done.exit_code == 0, done.output
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def sound(folder: Path) -> None:
    """By bash itself, and by shellcheck where it is installed."""
    for script in folder.iterdir():
        subprocess.run(["bash", "-n", str(script)], check=True)
        if shutil.which("shellcheck"):
            found = subprocess.run(["shellcheck", "-S", "warning", str(script)], capture_output=True, text=True)
            assert found.returncode == 0, found.stdout


def test_slurm(tmp_path):
    scripts = written(tmp_path / "one", LAUNCH, "--slurm")
    script = scripts["quickstart.sbatch"]
    wanted = ("--nodes=2", "--gpus-per-node=8", "--partition=gpu", "--time=24:00:00", "--requeue", "--signal=B:TERM@")
    for line in wanted:
        assert f"#SBATCH {line}" in script
    assert "exec reasonrl train --if-needed quickstart 'launch=" in script and "vllm serve" not in script
    assert "@" not in re.sub(r"\[@\]|\$\{hosts\[@\]:\d+\}|B:TERM@180", "", script), "every place is filled in"
    served = written(
        tmp_path / "two",
        SERVED,
        "model=tiny:qwen2",
        "rollout.engine=servers",
        "rollout.start=2",
        "rollout.tensor_parallel_size=4",
        "rollout.max_model_len=4096",
        "--slurm",
    )["quickstart.sbatch"]
    assert "#SBATCH --nodes=4" in served and "SLURM_PROCID >= 2" in served and "${hosts[@]:2}" in served
    assert "--tensor-parallel-size 4" in served and "i < 2" in served and "--max-model-len 4096" in served
    assert "rollout.start=null" in served and "rollout.max_model_len=null" in served
    for folder in ("one", "two"):
        sound(tmp_path / folder)


def test_torchrun_and_ray(tmp_path):
    scripts = written(tmp_path / "shell", SERVED, "--torchrun", "--address", "10.0.0.1:29400")
    assert list(scripts) == ["machine-0.sh", "machine-1.sh", "server.sh"]
    assert 'reasonrl node "10.0.0.1:29400" --rank 1' in scripts["machine-1.sh"]
    keys = {re.search(r'REASONRL_KEY="(\w{32})"', text)[1] for text in scripts.values()}
    assert len(keys) == 1
    sound(tmp_path / "shell")
    ray = written(tmp_path / "ray", LAUNCH, "--ray")["quickstart_ray.py"]
    ast.parse(ray)
    assert "MACHINES, DEVICES" in ray and "= 2, 8, " in ray
    refused = CliRunner().invoke(main, ["launch", "quickstart", SERVED, "--ray", "--out", str(tmp_path / "no")])
    assert refused.exit_code == 2 and "server machines" in refused.output
    nothing = CliRunner().invoke(main, ["launch", "quickstart", LAUNCH])
    assert nothing.exit_code == 2 and "--slurm" in nothing.output


def test_machines_that_cannot_share_the_processes_are_refused():
    with pytest.raises(RecipeError, match=r"3 machines .* cannot share equally -> use 18"):
        load_recipe("quickstart", ["launch={num_processes: 16, num_machines: 3}"])


@pytest.mark.slow
def test_the_torchrun_scripts_train_on_two_ranks(tmp_path):
    """Two machines are this one twice, over gloo."""
    recipe = tmp_path / "pair.yaml"
    recipe.write_text(
        "recipe: pair\nmodel: tiny:qwen2\nstages:\n  it: {kind: sft, data: {world: arithmetic, n: 32}, max_steps: 2,"
        " per_device_train_batch_size: 4}\nlaunch: {num_processes: 2, num_machines: 2}\n"
    )
    words = ["launch", str(recipe), f"output={tmp_path / 'run'}", "--torchrun", "--address", "127.0.0.1:29417"]
    done = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "scripts")])
    assert done.exit_code == 0, done.output
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    machines = [
        subprocess.Popen(
            ["bash", str(tmp_path / "scripts" / f"machine-{rank}.sh")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [machine.communicate(timeout=550)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert (tmp_path / "run/stages/it/done.json").exists() and (tmp_path / "run/stages/it/launch-1.log").exists()
