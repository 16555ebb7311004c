"""Training stages of two processes, started by accelerate for real."""

from __future__ import annotations

import json
import signal
import time

import psutil
import pytest

ONE_STAGE = """
recipe: launching
output: {output}
model: base
stages:
  first: {{kind: sft, model: base, data: {{path: {data}}}, max_steps: 4, per_device_train_batch_size: 4}}
launch: {{num_processes: 2}}
"""
STEPS = [f"out first {step}" for step in (1, 2, 3, 4)]


@pytest.fixture
def pair(bench):
    bench.write(ONE_STAGE)
    return bench


def result(bench) -> dict:
    return json.loads((bench.output / "stages/first/done.json").read_text())["result"]


def test_two_processes_work_together(pair):
    out = pair.ok()
    assert result(pair)["metrics"] == {"steps": 4, "sum": 3.0}, "1 + 2 over the two ranks"
    assert pair.log == STEPS, "only rank 0 writes"
    assert "rank 0 of 2 did step 4" in out
    assert "rank 1 of 2 did step 4" in (pair.output / "stages/first/launch.log").read_text()
    assert result(pair)["cpu_seconds"] > 1.0, "the workers' time is counted"
    assert not (pair.output / "stages/first/launcher.json").exists()
    assert pair.ok().count("skipped") == 1


def test_failing_worker_is_reported_with_the_end_of_its_log(pair):
    failed = pair.run(COUNT_FAIL_AT=2)
    assert failed.returncode == 1
    assert "stage 'first' failed in its processes" in failed.stderr
    assert "step 2 went wrong on rank" in failed.stderr
    assert pair.log == STEPS[:1]


def test_stop_is_passed_to_all_ranks(pair):
    process = pair.start(COUNT_SLEEP=0.5)
    pair.wait_for(lambda: len(pair.log) >= 1)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "carry on with: " in err
    assert 1 <= len(pair.log) < 4
    out = pair.ok()
    assert "resumed at step" in out
    assert pair.log == STEPS
    assert result(pair)["metrics"]["sum"] == 3.0


def family(process) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def assert_gone(workers: list[psutil.Process]) -> None:
    """Left alone the workers would hang for an hour; on a machine full of work they may take many seconds to go."""

    def alive() -> list[psutil.Process]:
        return [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]

    deadline = time.monotonic() + 60
    while alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive()


def test_workers_die_with_the_run(pair):
    process = pair.start(COUNT_HANG_AT=2, COUNT_QUIET=1)  # else they would die of a closed pipe
    pair.wait_for(lambda: len(pair.log) >= 1)
    workers = family(process)
    assert len(workers) >= 3, "the launcher and two ranks"
    process.kill()
    process.communicate(timeout=120)
    assert_gone(workers)
    assert "taking over" in pair.ok()
    assert pair.log == STEPS


def test_second_signal_kills_the_workers_too(pair):
    process = pair.start(COUNT_HANG_AT=1)
    pair.wait_for(lambda: len(family(process)) >= 3)
    workers = family(process)
    process.send_signal(signal.SIGINT)
    pair.wait_for(lambda: (pair.output / "stages/first/stop").exists())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGINT
    assert_gone(workers)


@pytest.mark.slow
def test_a_failing_stage_is_restarted_up_to_its_cap(pair):
    failed = pair.run("launch.max_restarts=1", COUNT_FAIL_AT=3)
    assert failed.returncode == 1
    assert failed.stdout.count("restart 1 of 1 (launch.max_restarts)") == 1
    assert pair.log == STEPS[:2], "the second attempt went on from the second step"
    assert "resumed at step 2" in pair.ok()
    assert pair.log == STEPS
