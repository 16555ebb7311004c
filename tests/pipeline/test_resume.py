"""Killed, stopped and failing runs, in real processes: what a restart does again; its result is the unbroken run's."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

STEPS = [f"out first {step}" for step in (1, 2, 3, 4)] + [f"out second {step}" for step in (1, 2, 3)]


def made(bench, stage: str) -> tuple[str, str]:
    """Key and weights of a finished stage."""
    folder = bench.output / "stages" / stage
    done = json.loads((folder / "done.json").read_text())
    return done["key"], (folder / done["result"]["model"] / "weights").read_text()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, make_bench):
    bench = make_bench(tmp_path_factory.mktemp("unbroken"))
    bench.ok()
    return {stage: made(bench, stage)[1] for stage in ("first", "second")}


def weights(bench) -> dict[str, str]:
    return {stage: made(bench, stage)[1] for stage in ("first", "second")}


def test_run_directory_of_a_whole_run(bench):
    out = bench.ok("stages.first.logging_steps=3")
    assert "[1/2] first (sft): started" in out
    assert bench.log == STEPS
    environment = json.loads((bench.output / "environment.json").read_text())
    assert environment["seed"] == 3
    assert {"torch", "trl", "transformers", "python"} <= environment["versions"].keys()
    assert environment["host"]["cores"] >= 1
    assert "logging_steps: 3" in (bench.output / "config.yaml").read_text()
    assert (bench.output / "config.input.yaml").read_text() == bench.recipe.read_text()
    record = json.loads((bench.output / "stages/second/done.json").read_text())
    assert record["result"]["model"] == "model"
    assert record["result"]["wall_seconds"] > 0
    assert record["result"]["cpu_seconds"] > 0
    assert (bench.output / "report.html").exists()
    assert not (bench.output / ".lock").exists()
    assert [path.name for path in bench.output.rglob(".tmp-*")] == []


def test_a_run_with_nothing_left_says_so_and_fails_unless_that_is_fine(bench):
    assert "nothing left" not in bench.ok()
    assert "nothing left to do: all 2 stages" in bench.ok()
    command = [sys.executable, "-m", "reasonrl", "train", str(bench.recipe)]
    again = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert again.returncode == 3 and "nothing left to do: all 2 stages" in again.stderr and "max_steps" in again.stderr
    fine = subprocess.run([*command, "--if-needed"], capture_output=True, text=True, timeout=240)
    assert fine.returncode == 0 and "nothing left to do: all 2 stages" in fine.stdout


def test_finished_run_is_skipped_whatever_operational_fields_say(bench):
    bench.ok()
    before = {path: path.read_bytes() for path in bench.output.glob("stages/*/*.json")}
    out = bench.ok("stages.first.save_steps=7", "stages.first.save_total_limit=1")
    assert re.findall(r"skipped \(done .* ago\)", out).__len__() == 2
    assert bench.log == STEPS
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("step", [1, 3])
def test_kill_in_a_stage_resumes_at_its_last_save(bench, unbroken, step):
    killed = bench.run(COUNT_KILL_AT=step)
    assert killed.returncode == -signal.SIGKILL
    assert not (bench.output / "stages/first/done.json").exists()
    out = bench.ok()
    assert "taking over" in out
    assert f"resumed at step {step - 1}" in out if step > 1 else "resumed from its start" in out
    assert bench.log == STEPS, "no step twice, none left out"
    assert weights(bench) == unbroken


@pytest.mark.parametrize("moment", ["part", "before", "after"])
@pytest.mark.parametrize("name", ["done.json", "stage.json", "environment.json", "config.yaml"])
def test_kill_while_a_record_is_written(bench, unbroken, moment, name):
    killed = bench.run(DIE_AT=f"{moment}:{name}")
    assert killed.returncode == -signal.SIGKILL
    for path in bench.output.rglob("*.json"):
        if not path.name.startswith(".tmp-"):
            json.loads(path.read_text())
    out = bench.ok()
    assert bench.log == STEPS
    assert weights(bench) == unbroken
    assert ("[1/2] first (sft): skipped" in out) == (name == "done.json" and moment == "after")
    assert [path.name for path in bench.output.rglob(".tmp-*")] == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_first_signal_saves_and_says_how_to_resume(bench, unbroken, number, status):
    process = bench.start("stages.first.save_steps=5", COUNT_SLEEP=0.2)
    bench.wait_for(lambda: len(bench.log) >= 2)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == status
    assert "saving and stopping at the next safe point" in out
    assert "Traceback" not in err
    command = shlex.split(err[err.index("carry on with: ") + len("carry on with: ") :].splitlines()[0])
    assert command[1:] == [*process.args[1:]], "the very command that was stopped"
    assert 2 <= len(bench.log) < 7
    assert not (bench.output / ".lock").exists()
    bench.ok("stages.first.save_steps=5")
    assert bench.log == STEPS
    assert weights(bench) == unbroken


def test_stage_that_never_asks_is_the_last_to_run(bench, unbroken):
    process = bench.start(COUNT_SLEEP=0.2, COUNT_DEAF=1)
    bench.wait_for(lambda: len(bench.log) >= 1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped after stage 'first'" in err
    assert bench.log == STEPS[:4]
    bench.ok()
    assert bench.log == STEPS
    assert weights(bench) == unbroken


def test_second_signal_kills_at_once(bench):
    process = bench.start(COUNT_SLEEP=30)
    bench.wait_for(lambda: (bench.output / "stages/first/stage.json").exists())
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert "next safe point" in _read_until(process, "next safe point")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == -signal.SIGTERM
    assert bench.ok().count("done in") == 3


def _read_until(process, text: str) -> str:
    for line in process.stdout:
        if text in line:
            return line
    return ""


def test_restart_is_no_part_of_the_command_that_resumes(bench):
    bench.ok()
    process = bench.start("--restart-stage", "second", COUNT_SLEEP=0.3)
    bench.wait_for(lambda: len(bench.log) > len(STEPS))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "--restart-stage" not in err
    out = bench.ok()
    assert "[2/2] second (sft): resumed at step" in out
    assert bench.log == [*STEPS, *STEPS[4:]]


def test_failing_stage_is_named_and_resumed(bench, unbroken):
    failed = bench.run(COUNT_FAIL_AT=3)
    assert failed.returncode == 1
    assert "stage 'first' failed: ValueError: step 3 went wrong" in failed.stderr
    failure = bench.output / "stages/first/failure.txt"
    assert str(failure) in failed.stderr
    assert "counting_stage.py" in failure.read_text()
    bench.ok()
    assert not failure.exists()
    assert weights(bench) == unbroken


@pytest.mark.parametrize("content", ["", "{", "[]", '{"key": 1}', "\x00\x00"])
def test_corrupted_done_json_is_said_and_made_again(bench, unbroken, content):
    bench.ok()
    path = bench.output / "stages/first/done.json"
    path.write_text(content)
    out = bench.ok()
    assert f"{path} cannot be read" in out
    assert "resumed at step 4" in out
    assert bench.log == STEPS
    assert weights(bench) == unbroken


def test_corrupted_stage_json_is_refused_and_can_be_restarted(bench, unbroken):
    bench.run(COUNT_KILL_AT=3)
    path = bench.output / "stages/first/stage.json"
    path.write_text("{")
    refused = bench.run()
    assert refused.returncode == 2
    assert "--restart-stage first" in refused.stderr
    bench.ok("--restart-stage", "first")
    assert weights(bench) == unbroken


def test_clock_counts_over_attempts(bench):
    process = bench.start(COUNT_SLEEP=0.5)
    bench.wait_for(lambda: len(bench.log) >= 2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    bench.ok()
    done = json.loads((bench.output / "stages/first/done.json").read_text())
    assert 1.0 < done["result"]["wall_seconds"] < 600


def test_a_stopped_or_failed_run_has_a_report(bench):
    assert bench.run(COUNT_FAIL_AT=2).returncode == 1
    report = bench.output / "report.html"
    assert "first" in report.read_text()
    before = report.read_text()
    process = bench.start(COUNT_SLEEP=0.3)
    bench.wait_for(lambda: any("second" in line for line in bench.log))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130 and report.read_text() != before
