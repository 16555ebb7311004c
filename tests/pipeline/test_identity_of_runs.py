"""What a changed recipe, changed data or a grown stage means for a run directory that is there."""

from __future__ import annotations

import json
import os

import pytest

STEPS = [f"out first {step}" for step in (1, 2, 3, 4)] + [f"out second {step}" for step in (1, 2, 3)]


def done(bench, stage: str) -> dict:
    return json.loads((bench.output / "stages" / stage / "done.json").read_text())


def test_changed_identity_is_refused_with_the_difference(bench):
    bench.ok()
    before = sorted(path for path in bench.output.rglob("*"))
    config = (bench.output / "config.yaml").read_text()
    refused = bench.run("stages.first.learning_rate=0.3", "stages.second.completion_only_loss=false")
    assert refused.returncode == 2
    assert "learning_rate: 0.1 -> 0.3" in refused.stderr
    assert "completion_only_loss: true -> false" in refused.stderr, "all stages that changed are named at once"
    assert "--restart-stage first" in refused.stderr
    assert sorted(path for path in bench.output.rglob("*")) == before
    assert (bench.output / "config.yaml").read_text() == config
    assert bench.log == STEPS


def test_restart_moves_aside_and_makes_what_reads_it_anew(bench):
    bench.ok()
    old = done(bench, "second")
    out = bench.ok("stages.first.learning_rate=0.3", "--restart-stage", "first")
    assert "to be made anew: first, second" in out
    assert "second (sft): made anew, because what it reads has changed: ${stage:first}" in out
    assert bench.log == STEPS + STEPS
    kept = json.loads((bench.output / "stages/second.old-1/done.json").read_text())
    assert kept == old
    assert done(bench, "first")["key"] != json.loads((bench.output / "stages/first.old-1/done.json").read_text())["key"]
    assert bench.ok("stages.first.learning_rate=0.3").count("skipped") == 2


def test_restart_of_the_same_values_still_invalidates_what_reads_it(bench):
    bench.ok()
    bench.ok("--restart-stage", "first")
    assert bench.log == STEPS + STEPS
    assert bench.ok().count("skipped") == 2
    bench.ok("--restart-stage", "first")
    assert (bench.output / "stages/first.old-2").is_dir()
    assert bench.log == STEPS * 3


def test_kill_right_after_the_old_folder_was_set_aside(bench):
    bench.ok()
    killed = bench.run("--restart-stage", "first", DIE_AT="part:stage.json")
    assert killed.returncode == -9
    bench.ok()
    assert bench.log == STEPS + STEPS, "the restart is still a new attempt, so the second stage is made anew too"


def test_restart_of_an_unknown_stage(bench):
    refused = bench.run("--restart-stage", "fisrt")
    assert refused.returncode == 2
    assert "did you mean 'first'?" in refused.stderr
    assert not bench.output.exists()


def test_grown_stage_goes_on_and_what_reads_it_is_made_anew(bench):
    bench.ok()
    out = bench.ok("stages.first.max_steps=6")
    assert "extended at step 4" in out
    assert "max_steps: 4 -> 6" in out
    assert bench.log == [*STEPS, "out first 5", "out first 6", *STEPS[4:]]
    assert done(bench, "first")["extensible"]["max_steps"] == 6
    assert (bench.output / "stages/first/done.before-extension.json").exists()


def test_killed_extension_is_resumed_and_not_taken_for_done(bench):
    bench.ok()
    assert bench.run("stages.first.max_steps=6", COUNT_KILL_AT=6).returncode == -9
    assert not (bench.output / "stages/first/done.json").exists(), "nobody takes the half-grown stage for done"
    refused = bench.run()
    assert refused.returncode == 2
    assert "max_steps: 6 -> 4" in refused.stderr
    bench.ok("stages.first.max_steps=6")
    assert bench.log == [*STEPS, "out first 5", "out first 6", *STEPS[4:]]


def test_shrunk_stage_is_refused(bench):
    bench.ok()
    refused = bench.run("stages.first.max_steps=2")
    assert refused.returncode == 2
    assert "can grow but not shrink" in refused.stderr
    assert "max_steps: 4 -> 2" in refused.stderr
    assert bench.log == STEPS


def test_other_seed_is_another_result(bench):
    bench.ok()
    refused = bench.run("seed=4")
    assert refused.returncode == 2
    assert "seed: 3 -> 4" in refused.stderr


def test_changed_data_is_refused_and_touched_data_is_not(bench):
    bench.ok()
    rows = bench.root / "rows.jsonl"
    os.utime(rows, (1, 1))
    assert bench.ok().count("skipped") == 2
    rows.write_text(rows.read_text() * 2)
    refused = bench.run()
    assert refused.returncode == 2
    assert "rows.jsonl" in refused.stderr
    assert "sha256" in refused.stderr


def test_missing_data_leaves_nothing_behind(bench):
    (bench.root / "rows.jsonl").unlink()
    refused = bench.run()
    assert refused.returncode != 0
    assert "rows.jsonl" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not bench.output.exists()


def test_changed_versions_are_a_warning(bench):
    bench.run(COUNT_KILL_AT=3)
    path = bench.output / "stages/first/stage.json"
    record = json.loads(path.read_text())
    record["versions"]["trl"] = "0.1.0"
    path.write_text(json.dumps(record))
    out = bench.ok()
    assert "warning: versions changed since it began: trl 0.1.0 -> " in out
    assert bench.log == STEPS


LOOP = """
recipe: looping
output: {output}
model: base
stages:
  grow: {{kind: sft, model: "${{previous:grow}}", data: {{path: {data}}}, max_steps: 2, learning_rate: 0.1,
    save_steps: 1, save_total_limit: 3}}
  after: {{kind: sft, model: "${{stage:grow}}", data: {{path: {data}}}, max_steps: 1}}
  checkpoint: {{kind: sft, model: "${{stage:grow@step=1}}", data: {{path: {data}}}, max_steps: 1}}
loop: {{stages: [grow], times: 3}}
"""


def test_loop_runs_every_pass_on_the_one_before(bench):
    bench.write(LOOP)
    out = bench.ok()
    assert "[3/5] grow.3 (sft): started" in out
    names = [f"grow.{turn}" for turn in (1, 2, 3)]
    assert bench.log == [f"out {name} {step}" for name in names for step in (1, 2)] + [
        "out after 1",
        "out checkpoint 1",
    ]
    weights = [(bench.output / "stages" / name / "model/weights").read_text() for name in names]
    assert len(set(weights)) == 3
    assert done(bench, "grow.2")["inputs"].keys() == {"${stage:grow.1}"}
    bench.ok("--restart-stage", "grow.3")
    assert bench.log[8:] == ["out grow.3 1", "out grow.3 2", "out after 1", "out checkpoint 1"]


def test_checkpoint_of_a_step_survives_the_growth_of_its_stage(bench):
    bench.write(LOOP)
    bench.ok("loop.times=1")
    before = len(bench.log)
    out = bench.ok("loop.times=1", "stages.grow.max_steps=3")
    assert bench.log[before:] == ["out grow.1 3", "out after 1"]
    assert "checkpoint (sft): skipped" in out


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_foreign_output_is_refused_untouched(bench, kind):
    if kind == "file":
        bench.output.write_text("mine")
    else:
        bench.output.mkdir()
        (bench.output / "thesis.tex").write_text("mine")
        (bench.output / "environment.json").write_text('{"conda": true}')
    refused = bench.run()
    assert refused.returncode == 2
    assert "choose another `output`" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert (bench.output if kind == "file" else bench.output / "thesis.tex").read_text() == "mine"
    assert bench.log == []


def test_foreign_stage_folder_is_refused(bench):
    bench.ok()
    third = bench.recipe.read_text() + "  third: {kind: sft, model: base, data: {path: rows.jsonl}, max_steps: 1}\n"
    bench.recipe.write_text(third)
    (bench.output / "stages/third").mkdir()
    (bench.output / "stages/third/notes.txt").write_text("mine")
    refused = bench.run()
    assert refused.returncode == 2
    assert "--restart-stage third" in refused.stderr
    bench.ok("--restart-stage", "third")
    assert (bench.output / "stages/third.old-1/notes.txt").read_text() == "mine"


def test_a_stage_that_failed_before_it_saved_anything_takes_other_values(bench):
    failed = bench.run(COUNT_FAIL_AT=1)
    assert failed.returncode == 1
    out = bench.ok("stages.first.learning_rate=0.3", "stages.first.max_steps=2")
    assert "was begun with other values, but had saved nothing yet: learning_rate: 0.1 -> 0.3" in out
    assert (bench.output / "stages/first.old-1/failure.txt").exists(), "the old folder is kept all the same"
    assert done(bench, "first")["attempt"] == 1


def test_a_stage_that_failed_before_it_saved_anything_may_shrink(bench):
    assert bench.run(COUNT_FAIL_AT=1).returncode == 1
    assert "was begun with more, but had saved nothing yet: max_steps: 4 -> 2" in bench.ok("stages.first.max_steps=2")


def test_a_stage_that_failed_later_is_not_thrown_away(bench):
    assert bench.run(COUNT_FAIL_AT=2).returncode == 1
    for change in ("stages.first.learning_rate=0.3", "stages.first.max_steps=2"):
        refused = bench.run(change)
        assert refused.returncode == 2 and "--restart-stage first" in refused.stderr
    assert bench.ok().count("resumed at step 1") == 1
