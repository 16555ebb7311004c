"""Locks, folders that cannot be written, unusual paths, dry runs."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from reasonrl.errors import RunError
from reasonrl.pipeline.lock import process_record, wait_for_orphans

STEPS = [f"out first {step}" for step in (1, 2, 3, 4)] + [f"out second {step}" for step in (1, 2, 3)]


def test_second_process_is_refused_while_the_first_runs(bench):
    process = bench.start(COUNT_SLEEP=5)
    bench.wait_for(lambda: len(bench.log) >= 1)
    refused = bench.run()
    assert refused.returncode == 2
    assert f"in use by process {process.pid} on {socket.gethostname()}" in refused.stderr
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    bench.ok()
    assert bench.log == STEPS


def lock(bench, **changes) -> None:
    own = psutil.Process()
    record = {"pid": own.pid, "host": socket.gethostname(), "started": own.create_time(), **changes}
    bench.output.mkdir()
    (bench.output / ".lock").write_text(json.dumps(record))


def test_lock_of_a_living_process_is_respected(bench):
    lock(bench)
    refused = bench.run()
    assert refused.returncode == 2
    assert f"in use by process {os.getpid()}" in refused.stderr
    assert bench.log == []


def test_lock_of_a_dead_process_whose_id_was_given_anew_is_taken_over(bench):
    lock(bench, started=psutil.Process().create_time() - 1000)
    assert "taking over" in bench.ok()
    assert bench.log == STEPS


def test_lock_of_another_host_is_respected_and_says_how_to_drop_it(bench):
    lock(bench, host="elsewhere", pid=1)
    refused = bench.run()
    assert refused.returncode == 2
    assert "on elsewhere" in refused.stderr
    assert f"delete {bench.output / '.lock'}" in refused.stderr


@pytest.mark.parametrize("text", ["", "{", "[1]", "null"])
def test_torn_lock_is_taken_over(bench, text):
    bench.output.mkdir()
    (bench.output / ".lock").write_text(text)
    bench.ok()
    assert bench.log == STEPS


def test_lock_has_one_winner_among_many(bench):
    processes = [bench.start(COUNT_SLEEP=0.3) for _ in range(4)]
    statuses = []
    for process in processes:
        _, err = process.communicate(timeout=120)
        statuses.append(process.returncode)
        assert "Traceback" not in err
    assert sorted(statuses) == [0, 2, 2, 2]
    assert bench.log == STEPS


SLOW_WRITER = """
import sys, time
from pathlib import Path
from reasonrl.errors import RunError
from reasonrl.pipeline import lock
write = lock.write_json
lock.write_json = lambda path, value: (time.sleep(0.3), write(path, value))
time.sleep(max(0.0, float(sys.argv[2]) - time.time()))
try:
    with lock.run_lock(Path(sys.argv[1])):
        time.sleep(2)
        print("held")
except RunError:
    print("refused")
"""


def test_looking_and_taking_are_one(tmp_path):
    """A stale lock, and processes that all look at it before the first has written its own."""
    (tmp_path / ".lock").write_text("{}")
    start = str(time.time() + 2)
    command = [sys.executable, "-c", SLOW_WRITER, str(tmp_path), start]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert sorted(said) == ["held", "refused", "refused", "refused"]


def test_restart_waits_for_the_processes_of_a_killed_run(bench):
    bench.run(COUNT_KILL_AT=2)
    with subprocess.Popen(["sleep", "3"]) as orphan:
        record = bench.output / "stages/first/launcher.json"
        record.write_text(json.dumps(process_record(orphan.pid)))
        began = time.monotonic()
        process = bench.start()
        bench.wait_for(lambda: len(bench.log) > 1)
        assert time.monotonic() - began > 2.0
        assert orphan.poll() is not None or psutil.Process(orphan.pid).status() == psutil.STATUS_ZOMBIE
        process.communicate(timeout=60)
    assert not record.exists()
    assert bench.log == STEPS


def test_process_that_does_not_go_is_named(tmp_path):
    record = tmp_path / "launcher.json"
    record.write_text(json.dumps(process_record()))
    with pytest.raises(RunError, match=f"process {os.getpid()} on .* is still at work"):
        wait_for_orphans(record, patience=0.3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_output(bench):
    bench.root.chmod(0o555)
    try:
        refused = bench.run()
    finally:
        bench.root.chmod(0o755)
    assert refused.returncode == 2
    assert "cannot make the run directory" in refused.stderr


def test_output_that_cannot_be_made(bench):
    refused = bench.run("output=/proc/nowhere/run")
    assert refused.returncode == 2
    assert "cannot make the run directory /proc/nowhere/run" in refused.stderr
    assert "choose another `output`" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_output_that_cannot_be_written_to(bench):
    refused = bench.run("output=/proc/self/task")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert bench.log == []


@pytest.mark.parametrize("name", ["with space", "naïve-Ünïcode-结果", "quote's", "a=b"])
def test_unusual_paths(tmp_path, make_bench, name):
    bench = make_bench(tmp_path / name)
    bench.run(COUNT_KILL_AT=2)
    bench.ok()
    assert bench.log == STEPS
    assert bench.ok().count("skipped") == 2


def test_resume_command_survives_a_shell(tmp_path, make_bench):
    bench = make_bench(tmp_path / "it's a place")
    process = bench.start("recipe=with-dash", COUNT_SLEEP=0.3)
    bench.wait_for(lambda: len(bench.log) >= 1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    command = err.partition("carry on with: ")[2].splitlines()[0]
    assert shlex.split(command)[1:] == process.args[1:]


def test_dry_run_writes_nothing_and_says_what_would_happen(bench):
    out = bench.ok("--dry-run", "stages.first.model=tiny:qwen2")
    assert "[2/2] second (sft): would be started" in out
    assert "batch: 8 rows x 1 accumulation steps x 1 process = 8 rows an optimizer step" in out
    assert "(stand-in: ${stage:first} is not made yet)" in out
    assert "would count to 4" in out
    assert "versions: " in out
    assert "M parameters" in out
    assert not bench.output.exists()
    assert bench.log == []


def test_dry_run_lists_what_needs_the_hub_as_unchecked(bench):
    out = bench.ok("--dry-run", "stages.first.model=nobody/has-this-model")
    assert "unchecked, needs the hub: model nobody/has-this-model" in out


EVALUATED = """
recipe: evaluated
output: {output}
model: tiny:qwen2
data:
  test: {{world: arithmetic, split: test, n: 3}}
  far: {{hub: nobody/has-these-rows, split: test}}
stages:
  first: {{kind: sft, model: tiny:qwen2, data: {{path: {data}}}, max_steps: 2}}
  near: {{kind: eval, model: "${{stage:first}}", suites: {{sums: {{data: "${{data.test}}", max_tokens: 4}}}}}}
  far: {{kind: eval, model: "${{stage:first}}", suites: {{sums: {{data: "${{data.far}}", max_tokens: 4}}}}}}
"""


def test_dry_run_looks_at_rows_and_leaves_the_hub_unchecked(bench):
    bench.write(EVALUATED)
    out = bench.ok("--dry-run")
    assert "suites.sums.data: 3 rows from arithmetic" in out
    assert "tokenizer a stand-in" in out
    assert "first prompt '<|im_start|>user" in out
    assert "unchecked, needs the hub: data set nobody/has-these-rows" in out
    assert out.count("not rehearsed further") == 1
    assert not bench.output.exists()


def test_dry_run_goes_through_all_stages_before_it_fails(bench):
    (bench.root / "other.jsonl").write_text("not json")
    bench.write(EVALUATED)
    refused = bench.run("--dry-run", f"data.test={{path: {bench.root / 'other.jsonl'}, world: null, n: null}}")
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
    assert "other.jsonl" in refused.stdout
    assert "other.jsonl" in refused.stderr
    assert "[3/3] far (eval)" in refused.stdout, "the stages after the wrong one are looked at too"


def test_dry_run_of_a_run_that_is_there(bench):
    bench.ok()
    before = {path: path.stat().st_mtime_ns for path in bench.output.rglob("*")}
    assert bench.run("--dry-run").stdout.count("would be skipped (done)") == 2
    refused = bench.run("--dry-run", "stages.second.learning_rate=0.5")
    assert refused.returncode == 2
    assert "learning_rate: 0.2 -> 0.5" in refused.stderr
    assert {path: path.stat().st_mtime_ns for path in bench.output.rglob("*")} == before
