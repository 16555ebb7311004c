"""A newer grader judges the stored samples again, and draws none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from eval_world import SeededEngine, evaluate

from reasonrl.pipeline.keys import Growth, differences, growth, identify
from reasonrl.recipe import expand_stages, load_recipe
from reasonrl.rewards.math import GRADER_VERSION

FILES = ("results.json", "sums/samples.parquet", "sums/settings.json")


def as_an_older_grader_left_it(directory: Path) -> list[dict[str, object]]:
    """Samples with an older version, in which every fifth right one was taken for wrong; the rows that were changed."""
    path = directory / "sums" / "samples.parquet"
    table = pandas.read_parquet(path)
    table["grader"] = int(GRADER_VERSION) - 1
    missed = table.index[table["verdict"] == "correct"][::5]
    table.loc[missed, "verdict"] = "wrong"
    table.loc[missed, ["right", "correct"]] = False
    table.loc[missed, "score"] = 0.0
    table.to_parquet(path)
    return table.loc[missed, ["id", "metric", "index"]].to_dict("records")


def test_stored_samples_are_judged_again_and_none_is_drawn(tmp_path: Path) -> None:
    first = evaluate(tmp_path, count=80)
    expected = {name: (tmp_path / name).read_bytes() for name in FILES}
    missed = as_an_older_grader_left_it(tmp_path)
    assert len(missed) > 20
    engine = SeededEngine()
    again = evaluate(tmp_path, count=80, engine=engine)
    assert engine.served == [] and again == first
    assert {name: (tmp_path / name).read_bytes() for name in FILES} == expected
    record = json.loads((tmp_path / "sums" / "regraded.json").read_text())
    assert (record["grader"], record["judged_again"]) == (int(GRADER_VERSION), 400)
    assert record["changed"] == [{**key, "before": "wrong", "now": "correct"} for key in missed]


def test_samples_of_this_grader_are_left_alone(tmp_path: Path) -> None:
    evaluate(tmp_path)
    evaluate(tmp_path, n=6)
    assert not (tmp_path / "sums" / "regraded.json").exists()
    assert set(pandas.read_parquet(tmp_path / "sums" / "samples.parquet")["grader"]) == {int(GRADER_VERSION)}


RECIPE = """
recipe: judged
output: {output}
model: tiny:qwen2
stages:
  rl:
    kind: ppo
    data: {{world: arithmetic, n: 8}}
    reward: {reward}
    advantage: rloo
    prompts_per_step: 2
    num_generations: 2
    max_completion_length: 8
    max_steps: 1
  exam:
    kind: eval
    suites: {{unseen: {{data: {{world: arithmetic, split: test, n: 3}}, max_tokens: 4, reward: {reward}}}}}
"""


@pytest.mark.parametrize(
    ("reward", "extensible", "identity"),
    [
        ("math", {"grader": int(GRADER_VERSION)}, None),
        ("[{name: math, weight: 0.9}, {name: format, weight: 0.1}]", {}, {"math": int(GRADER_VERSION)}),
        ("format", {}, None),
    ],
)
def test_the_grader_is_part_of_what_a_stage_is(
    reward: str, extensible: dict[str, int], identity: dict[str, int] | None, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(output=tmp_path / "out", reward=reward))
    rl, exam = expand_stages(load_recipe(str(recipe)).recipe)
    judged = identify(exam, 0, {}, tmp_path)
    assert {name: judged.extensible[name] for name in judged.extensible if name == "grader"} == extensible
    assert judged.identity.get("versions") == identity
    older = {**judged.extensible, "grader": int(GRADER_VERSION) - 1}
    if extensible:
        assert growth(older, judged.extensible) is Growth.GROWN
        assert growth(judged.extensible, older) is Growth.SHRUNK
        assert differences(older, judged.extensible) == [f"grader: {older['grader']} -> {GRADER_VERSION}"]
    trained = identify(rl, 0, {}, tmp_path).identity.get("versions")
    assert trained == (None if reward == "format" else {"math": int(GRADER_VERSION)})


RUN = """
recipe: judged
output: {output}
stages:
  exam:
    kind: eval
    model: tiny:qwen2
    suites: {{unseen: {{data: {{world: arithmetic, split: test, n: 12}}, max_tokens: 4}}}}
"""


def test_a_run_of_an_older_grader_is_extended(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RUN.format(output=tmp_path / "out"))
    command = [sys.executable, "-m", "reasonrl", "train", str(tmp_path / "recipe.yaml")]

    def run() -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    run()
    stage = tmp_path / "out" / "stages" / "exam"
    for name in ("stage.json", "done.json"):
        text = (stage / name).read_text()
        assert f'"grader": {GRADER_VERSION}' in text
        (stage / name).write_text(text.replace(f'"grader": {GRADER_VERSION}', '"grader": 1'))
    samples = stage / "unseen" / "samples.parquet"
    table = pandas.read_parquet(samples)
    texts = list(table["text"])
    table["grader"], table["verdict"] = 1, "fault"
    table.to_parquet(samples)
    said = run()
    assert "grader: 1 -> " in said and "extended" in said
    table = pandas.read_parquet(samples)
    assert list(table["text"]) == texts and "fault" not in set(table["verdict"])
    assert f'"grader": {GRADER_VERSION}' in (stage / "done.json").read_text()
    assert "skipped" in run()
