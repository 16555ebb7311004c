"""Studies: runs of every arm and seed, what they share, and the table over them."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from study_recipe import RUNS, STUDY

from reasonrl.recipe import load_recipe


@pytest.fixture
def study(bench):
    bench.write(STUDY)
    return bench


def done(bench, run: str, stage: str) -> dict:
    return json.loads((bench.output / "both" / run / "stages" / stage / "done.json").read_text())


def weights(bench, run: str, stage: str) -> str:
    record = done(bench, run, stage)
    folder = bench.output / "both" / run / "stages" / stage
    home = folder / record["shared_from"] if record["shared_from"] else folder
    return (home / record["result"]["model"] / "weights").read_text()


def test_equal_stages_are_made_once_a_seed(study):
    out = study.ok("--study", "both")
    made = [f"{run} first {step}" for run in RUNS[:2] for step in (1, 2)] + [f"{run} second 1" for run in RUNS]
    assert sorted(study.log) == sorted(made), "hot runs share the first stage of their seed, not of another"
    assert out.count("shared from") == 2
    assert done(study, "default-seed0", "first")["shared_from"] is None
    assert done(study, "hot-seed1", "first")["shared_from"] == "../../../default-seed1/stages/first"
    assert weights(study, "hot-seed1", "first") == weights(study, "default-seed1", "first")
    assert len({weights(study, run, "second") for run in RUNS}) == 4
    again = study.ok("--study", "both")
    assert again.count("skipped") == 8
    assert sorted(study.log) == sorted(made)


def test_dry_run_shows_equal_stages_once_a_seed(study):
    out = study.ok("--study", "both", "--dry-run")
    assert out.count("would be started") == 6
    assert re.findall(r"\] first \(sft\): as in (\S+)", out) == RUNS[:2]
    assert not study.output.exists()


def test_killed_study_goes_on_with_the_run_it_was_in(study):
    assert study.run("--study", "both", DIE_AT="before:done.json").returncode == -9
    study.ok("--study", "both")
    assert len(study.log) == 8
    assert len(set(study.log)) == 8


def test_restart_reaches_the_runs_that_share(study):
    study.ok("--study", "both")
    study.ok("--study", "both", "--restart-stage", "first")
    assert len(study.log) == 16, "first twice again, and every second stage, which reads it"
    assert done(study, "hot-seed0", "first")["product"] == done(study, "default-seed0", "first")["product"]
    assert study.ok("--study", "both").count("skipped") == 8


def test_link_is_dropped_when_its_source_was_made_anew(study):
    study.ok("--study", "both")
    shared = study.output / "both/default-seed0"
    study.ok(f"output={shared}", "seed=0", "--restart-stage", "first")
    before = len(study.log)
    out = study.ok("--study", "both")
    assert re.search(r"first \(sft\): shared from .*default-seed0", out)
    assert study.log[before:] == ["hot-seed0 second 1"]


def test_unknown_study(study):
    refused = study.run("--study", "bth")
    assert refused.returncode == 2
    assert "did you mean 'both'?" in refused.stderr
    assert not study.output.exists()


def test_wrong_arm_is_found_before_anything_runs(study):
    study.recipe.write_text(study.recipe.read_text().replace("learning_rate: 0.9", "learning_rte: 0.9"))
    refused = study.run("--study", "both")
    assert refused.returncode == 2
    assert "learning_rte" in refused.stderr
    assert study.log == []


EVALUATED = """
recipe: evaluated
output: {output}
model: tiny:qwen2
data:
  test: {{world: arithmetic, split: test, n: 3}}
stages:
  before: {{kind: eval, model: tiny:qwen2, suites: {{sums: {{data: "${{data.test}}", n: 2, max_tokens: 4}}}}}}
  after: {{kind: eval, model: tiny:qwen2, suites: {{sums: {{data: "${{data.test}}", n: 3, max_tokens: 4}}}}}}
  table: {{kind: compare, rows: {{before: "${{stage:before}}", after: "${{stage:after}}"}}, baseline: before}}
arms:
  longer: {{stages.after.suites.sums.max_tokens: 6}}
studies:
  both: {{arms: [default, longer], seeds: [0, 1], overrides: ["data.test.n=2"]}}
"""


def test_study_ends_in_one_table_over_arms_and_seeds(bench):
    bench.write(EVALUATED)
    out = bench.ok("--study", "both")
    table = json.loads((bench.output / "both/study.json").read_text())
    assert table["seeds"] == {"default": [0, 1], "longer": [0, 1]}
    places = {(line["arm"], line["label"], line["versus"]) for line in table["lines"]}
    assert ("longer", "after", "row before") in places
    assert ("longer", "after", "arm default") in places
    assert "each seed" in out and "Seeds: default: 0, 1; longer: 0, 1." in out
    assert (bench.output / "both/study.md").exists()
    assert (
        load_recipe(bench.output / "both/longer-seed0/config.yaml").recipe.data["test"].n == 2
    )  # the study's override
    assert done(bench, "longer-seed0", "before")["shared_from"] is not None
    assert done(bench, "longer-seed0", "after")["shared_from"] is None


def test_a_stop_in_a_runs_last_stage_ends_the_study(study):
    """The last stage never asks whether to stop, and finishes: the study must not go on with the next run."""
    process = study.start("--study", "both", COUNT_SLEEP=0.5, COUNT_DEAF=1)
    # From this file on the last stage's only step is under way.
    study.wait_for((study.output / "both/default-seed0/stages/second/stage.json").exists)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, out + err
    assert "stopped before run 2 of study 'both'" in err and "--study both" in err
    assert study.log == [f"default-seed0 {step}" for step in ("first 1", "first 2", "second 1")]
    assert study.ok("--study", "both").count("skipped") == 2


def test_a_run_and_a_study_share_an_output(study):
    study.ok("--study", "both")
    assert "started" in study.ok(), "the study's folder does not stand in the way of a run of the recipe itself"
    assert study.ok().count("skipped") == 2
    (study.output / "notes").mkdir()
    (study.output / "environment.json").unlink()
    refused = study.run()
    assert refused.returncode == 2 and "no run of reasonrl wrote it (it holds config.input.yaml" in refused.stderr


@pytest.mark.parametrize("jobs", [[], ["--jobs", "2"]], ids=["in turn", "side by side"])
def test_a_study_shares_what_another_study_and_the_plain_run_have_made(study, jobs):
    text = study.recipe.read_text()
    study.recipe.write_text(text.replace("studies:\n", "studies:\n  more: {arms: [hot], seeds: [0, 1, 3]}\n"))
    study.ok("--study", "both")
    study.ok("seed=3")
    made = list(study.log)
    out = study.ok("--study", "more", *jobs)
    assert out.count("shared from") == 5 and "[2/2] second (sft): done" in out
    assert study.log[len(made) :] == ["hot-seed3 second 1"]
    for run, stage, source in [
        ("hot-seed0", "first", "../../../../both/default-seed0/stages/first"),
        ("hot-seed1", "second", "../../../../both/hot-seed1/stages/second"),
        ("hot-seed3", "first", "../../../../stages/first"),
    ]:
        record = json.loads((study.output / "more" / run / "stages" / stage / "done.json").read_text())
        assert record["shared_from"] == source
    made = list(study.log)
    study.ok("--study", "more", *jobs, "--restart-stage", "first")
    assert sorted(study.log[len(made) :]) == sorted(
        f"hot-seed{seed} {step}" for seed in (0, 1, 3) for step in ("first 1", "first 2", "second 1")
    ), "what is made anew is not taken from another study"
