"""Studies with several runs at a time: real processes, what they share, how they stop, die and go on."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from study_recipe import RUNS, STUDY

from reasonrl.cli import main
from reasonrl.errors import RunError
from reasonrl.pipeline import stages
from reasonrl.pipeline.planning import Action
from reasonrl.pipeline.study import run_study
from reasonrl.pipeline.study_plan import plan_study
from reasonrl.pipeline.study_shares import device_shares, environments, visible_devices
from reasonrl.recipe import load_runs

MADE = [f"{run} first {step}" for run in RUNS[:2] for step in (1, 2)] + [f"{run} second 1" for run in RUNS]


@pytest.fixture
def study(bench):
    bench.write(STUDY)
    return bench


@pytest.fixture
def counting(monkeypatch):
    """This process too takes the counting stage for `sft`, as the driver does; torch stays out."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setitem(stages._KINDS, "sft", stages.StageKind("counting_stage", launched=True))


def done(output: Path, run: str, stage: str) -> dict:
    return json.loads((output / run / "stages" / stage / "done.json").read_text())


def weights(output: Path, run: str, stage: str) -> str:
    record = done(output, run, stage)
    home = output / run / "stages" / stage / (record["shared_from"] or ".")
    return (home / record["result"]["model"] / "weights").read_text()


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


def test_a_shared_stage_is_made_once_and_waited_for_no_longer_than_it_takes(study, tmp_path):
    """hot-seed0 shares default-seed0's first stage, and is through before that run's second stage goes on."""
    both = study.output / "both"
    held = f"default-seed0 second {both}/hot-seed0/stages/second/done.json"
    out = study.ok("--study", "both", "--jobs", "2", COUNT_HOLD=held)
    assert sorted(study.log) == sorted(MADE)
    assert study.log.index("hot-seed0 second 1") < study.log.index("default-seed0 second 1")
    assert done(both, "hot-seed1", "first")["shared_from"] == "../../../default-seed1/stages/first"
    lines = out.splitlines()
    assert all(line.startswith("study both") or re.match(r"[a-z]+-seed\d \| \S", line) for line in lines), out
    assert [line for line in lines if line.startswith("study both, run")] == [
        f"study both, run {number} of 4: arm {run.split('-')[0]}, seed {run[-1]}"
        for number, run in enumerate(RUNS, start=1)
    ]
    study.ok("--study", "both", f"output={tmp_path}/one")
    for run in RUNS:
        assert weights(both, run, "second") == weights(tmp_path / "one/both", run, "second")
    again = study.ok("--study", "both", "--jobs", "3")
    assert again.count("skipped") == 8 and len(study.log) == 2 * len(MADE)


def test_a_stop_reaches_all_runs_and_the_study_goes_on(study):
    process = study.start("--study", "both", "--jobs", "2", COUNT_SLEEP=0.2, COUNT_HOLD="default-seed0 first no")
    study.wait_for(lambda: "default-seed1 first 1" in study.log)
    study.wait_for((study.output / "both/default-seed0/stages/first/stage.json").exists)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 143, out + err
    assert "stopped study 'both' with 0 of 4 runs done; everything is saved -> carry on with" in err
    assert "--study both --jobs 2" in err
    assert "default-seed0 | stopped in stage 'first'; everything is saved" in out and "default-seed1 | stopped" in out
    assert "run 3 of 4" not in out
    study.ok("--study", "both")
    assert sorted(study.log) == sorted(MADE)


def test_killing_the_parent_ends_its_runs_and_a_rerun_resumes_them(study):
    process = study.start("--study", "once", "--jobs", "2", COUNT_HOLD="default-seed0 second never")
    study.wait_for((study.output / "once/hot-seed0/stages/second/done.json").exists)
    runs = children_of(process)
    assert runs
    process.kill()
    process.communicate(timeout=60)
    study.wait_for(lambda: not any(run.is_running() and run.status() != psutil.STATUS_ZOMBIE for run in runs), 10)
    out = study.ok("--study", "once")
    assert "default-seed0" in out and "second (sft): resumed" in out
    assert sorted(study.log) == sorted(line for line in MADE if "seed0" in line)


def test_a_failing_arm_stops_the_others_in_good_order_and_is_named(study):
    misbehave = {"COUNT_FAIL_AT": 3, "COUNT_IN": "longer-seed0", "COUNT_HOLD": "default-seed0 second never"}
    failed = study.run("--study", "apart", "--jobs", "2", **misbehave)
    assert failed.returncode == 1, failed.stdout
    assert (
        "run longer-seed0 of study 'apart' failed: stage 'first' failed: ValueError: step 3 went wrong" in failed.stderr
    )
    assert "--study apart --jobs 2" in failed.stderr
    assert "longer-seed0 failed; default-seed0 will save and stop at the next safe point" in failed.stdout
    assert "default-seed0 | stopped in stage 'second'; everything is saved" in failed.stdout
    study.ok("--study", "apart")
    assert len(study.log) == len(set(study.log)) == 7


@pytest.mark.slow
def test_a_killed_run_is_named_and_the_study_resumes(study):
    misbehave = {"COUNT_KILL_AT": 2, "COUNT_IN": "default-seed1", "COUNT_HOLD": "default-seed0 second never"}
    failed = study.run("--study", "both", "--jobs", "2", **misbehave)
    assert failed.returncode == 1
    assert "run default-seed1 of study 'both' failed: its process was killed by SIGKILL" in failed.stderr
    assert "default-seed0 | stopped in stage" in failed.stdout
    study.ok("--study", "both", "--jobs", "2")
    assert sorted(study.log) == sorted(MADE)


@pytest.mark.slow
def test_ctrl_c_in_the_terminal_is_asked_once_and_a_second_one_kills(study):
    """A terminal sends SIGINT to the whole group: the runs are not in it, and are asked by the study alone."""
    hold = {"COUNT_HOLD": "default-seed0 first never", "COUNT_DEAF": 1}
    process = study.start("--study", "once", "--jobs", "2", **hold)
    study.wait_for((study.output / "once/default-seed0/stages/first/stage.json").exists)
    assert all(os.getpgid(run.pid) != os.getpgid(process.pid) for run in children_of(process))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "carry on with" in err, out + err
    hang = study.start("--study", "once", "--jobs", "2", COUNT_HANG_AT=1)
    study.wait_for(lambda: len(children_of(hang)) == 1)
    study.wait_for(lambda: "started" in (study.output / "once/default-seed0/stages/first/stage.json").read_text())
    runs = children_of(hang)
    study.wait_for(lambda: (study.output / "once/default-seed0/.lock").exists())
    hang.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        hang.wait(timeout=2)
    hang.send_signal(signal.SIGINT)
    hang.communicate(timeout=60)
    assert hang.returncode == -signal.SIGINT
    study.wait_for(lambda: not any(run.is_running() and run.status() != psutil.STATUS_ZOMBIE for run in runs), 10)


@pytest.mark.slow
def test_restarts_reach_the_runs_that_share(study):
    study.ok("--study", "both", "--jobs", "4")
    study.ok("--study", "both", "--jobs", "4", "--restart-stage", "first")
    assert len(study.log) == 16
    both = study.output / "both"
    assert done(both, "hot-seed0", "first")["product"] == done(both, "default-seed0", "first")["product"]
    assert study.ok("--study", "both").count("skipped") == 8


def test_what_is_shared_is_planned_as_the_runs_in_turn_would(study, counting):
    """After a study: the plan of a restart, of a longer first stage and of a lost one, against what is on disk."""
    study.ok("--study", "once")
    runs = load_runs(study.recipe, [], [("default", 0), ("hot", 0)])

    def plan(pairs=runs, restart=()):
        return [
            [stage.action for stage in run.stages] for run in plan_study(pairs, study.output / "once", restart=restart)
        ]

    assert plan() == [[Action.SKIP] * 2] * 2
    assert plan(restart=["first"]) == [[Action.RESTART, Action.REDO], [Action.SHARE, Action.REDO]]
    longer = load_runs(study.recipe, ["stages.first.max_steps=5"], list(runs))
    assert plan(longer) == [[Action.EXTEND, Action.REDO], [Action.SHARE, Action.REDO]]
    remade = plan_study(longer, study.output / "once")[1]
    (need,) = remade.needs
    assert need.folder == study.output / "once/default-seed0/stages/first" and not need.is_met()
    (study.output / "once/default-seed0/stages/first/done.json").unlink()
    assert plan() == [[Action.RESUME, Action.SKIP], [Action.SKIP] * 2]
    kept = plan_study(runs, study.output / "once")[1]
    assert [one.stage for one in kept.needs] == ["first"] and not kept.needs[0].is_met(), "its source is to be resumed"
    refused = load_runs(study.recipe, ["stages.second.weight_decay=0.5"], list(runs))
    with pytest.raises(RunError, match=r"(?s)run default-seed0: stage 'second'.*run hot-seed0: stage 'second'"):
        plan(refused)


def test_cores_and_gpus_are_shared_out(study, counting, monkeypatch):
    assert device_shares(["0", "1", "2", "3", "4"], 2) == [["0", "1"], ["2", "3"]]
    assert device_shares(["4", "6"], 3) == [["4"], ["6"], ["4"]]
    assert device_shares([], 2) == [[], []]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5a")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    planned = plan_study(load_runs(study.recipe, [], [("default", 0), ("hot", 0)]), study.output / "once")
    said: list[str] = []
    first, second = environments(planned, 2, said.append)
    assert (first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]) == ("3", "GPU-5a")
    assert first["OMP_NUM_THREADS"] == first["REASONRL_CORES"] == str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert said[0].endswith("on GPUs 3, GPU-5a")
    wide = load_runs(study.recipe, ["launch.num_processes=2"], [("default", 0), ("hot", 0)])
    with pytest.raises(RunError, match="num_processes = 2, but with --jobs 2 each run has 1 of the GPUs"):
        environments(plan_study(wide, study.output / "once"), 2, said.append)
    many = load_runs(study.recipe, ["launch.num_processes=2", "launch.num_machines=2"], [("default", 0), ("hot", 0)])
    with pytest.raises(RunError, match="one run at a time"):
        environments(plan_study(many, study.output / "once"), 2, said.append)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert visible_devices() == []
    (alone,) = environments(planned, 1, said.append)
    assert alone["OMP_NUM_THREADS"] == "7" and "REASONRL_CORES" not in alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs", "2"], "give --study NAME with it"),
        (["--study", "both", "--if-needed"], "ends with status 0 anyway"),
        (["--study", "both", "--jobs", "0"], "0 is not in the range x>=1"),
        (["--study", "both", "--jobs", "-3"], "-3 is not in the range x>=1"),
    ],
)
def test_what_makes_no_sense_is_refused(study, options, message):
    refused = CliRunner().invoke(main, ["train", str(study.recipe), *options])
    assert refused.exit_code == 2 and message in refused.stderr
    assert not study.output.exists()


def test_the_library_refuses_no_jobs_and_a_dry_run_ignores_them(study):
    with pytest.raises(RunError, match="jobs: is 0; allowed: 1"):
        run_study(study.recipe, "both", jobs=0)
    assert not study.output.exists()


TRAINED = """
recipe: trained
output: {output}
model: "tiny:qwen2:num_hidden_layers=1,hidden_size=32,num_attention_heads=2,intermediate_size=64"
data:
  train: {{world: arithmetic, n: 64}}
  exam: {{world: arithmetic, split: test, n: 8}}
stages:
  base: {{kind: sft, data: "${{data.train}}", max_steps: 3, per_device_train_batch_size: 4, learning_rate: 1.0e-3}}
  tuned: {{kind: sft, model: "${{stage:base}}", data: "${{data.train}}", max_steps: 2, per_device_train_batch_size: 4}}
  check: {{kind: eval, model: "${{stage:tuned}}", suites: {{quiz: {{data: "${{data.exam}}", n: 2, max_tokens: 8}}}}}}
arms:
  hot: {{stages.tuned.learning_rate: 1.0e-2}}
studies:
  full: {{arms: [default, hot], seeds: [0, 1]}}
"""


@pytest.mark.slow
def test_real_runs_side_by_side_make_what_they_make_in_turn(bench, tmp_path):
    """The command itself, real trainings and evaluations: models by their bytes, samples, verdicts and tables."""
    bench.write(TRAINED)
    outputs = {}
    for jobs in (1, 2):
        output = tmp_path / f"jobs{jobs}"
        command = ["train", str(bench.recipe), "--study", "full", "--jobs", str(jobs), f"output={output}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        ended = subprocess.run(
            [sys.executable, "-m", "reasonrl", *command], env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        outputs[jobs] = output / "full"
        assert ended.stdout.count("base (sft): shared from") == 2

    def hashes(pattern: str, root: Path) -> dict[str, str]:
        return {
            str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(root.glob(pattern))
        }

    for pattern, count in (("*/stages/*/**/model.safetensors", 6), ("study.*", 2), ("*/stages/check/**/samples*", 4)):
        one, two = hashes(pattern, outputs[1]), hashes(pattern, outputs[2])
        assert one == two and len(one) >= count, (pattern, one.keys())
