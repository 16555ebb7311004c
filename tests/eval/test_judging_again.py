"""A newer grader judges the stored samples again, and draws none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from eval_world import SeededEngine, content, evaluate, problems

from reasonrl.errors import RunError
from reasonrl.eval.samples import read_samples
from reasonrl.pipeline.keys import Growth, differences, growth, identify
from reasonrl.recipe import expand_stages, load_recipe
from reasonrl.rewards.math import GRADER_VERSION

OWN_FILES = ("samples.jsonl", "problems.jsonl", "settings.json")


def as_an_older_grader_left_it(directory: Path) -> list[dict[str, Any]]:
    """Samples with an older version, in which every fifth right one was taken for wrong; the rows that were changed."""
    rows = read_samples(directory)
    missed = [row for row in rows if row["verdict"] == "correct"][::5]
    for row in rows:
        row["grader"] = int(GRADER_VERSION) - 1
    for row in missed:
        row |= {"verdict": "wrong", "right": False, "correct": False, "score": 0.0, "class": "= 0", "reason": "old"}
    (directory / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [{name: row[name] for name in ("id", "metric", "index")} for row in missed]


def test_stored_samples_are_judged_again_and_none_is_drawn(tmp_path: Path) -> None:
    first = evaluate(tmp_path, count=80)
    expected = content(tmp_path)
    missed = as_an_older_grader_left_it(tmp_path / "sums")
    files = {name: (tmp_path / "sums" / name).read_bytes() for name in OWN_FILES}
    assert len(missed) > 20
    engine = SeededEngine()
    again = evaluate(tmp_path, count=80, engine=engine)
    assert engine.served == [] and again == first
    assert content(tmp_path) == expected, "results and samples are read with the new verdicts"
    assert {name: (tmp_path / "sums" / name).read_bytes() for name in OWN_FILES} == files, "lines are never rewritten"
    own = [row for row in read_samples(tmp_path / "sums", "own") if row["reason"] == "old"]
    assert len(own) == len(missed)
    record = json.loads((tmp_path / "sums" / "regraded.json").read_text())
    assert (record["grader"], record["judged_again"]) == (int(GRADER_VERSION), 400)
    assert record["changed"] == [{**key, "before": "wrong", "now": "correct"} for key in missed]
    grown = evaluate(tmp_path, count=80, n=5, engine=engine)
    assert len(engine.served) == 80 and grown == evaluate(tmp_path / "direct", count=80, n=5)


def test_samples_of_this_grader_are_left_alone(tmp_path: Path) -> None:
    evaluate(tmp_path)
    evaluate(tmp_path, n=6)
    assert not (tmp_path / "sums" / "regraded.json").exists()
    assert {row["grader"] for row in read_samples(tmp_path / "sums")} == {int(GRADER_VERSION)}


def test_a_corrected_gold_is_judged_again_and_none_is_drawn(tmp_path: Path) -> None:
    evaluate(tmp_path)
    rows = problems(40)
    said = read_samples(tmp_path / "sums")[0]["extracted"]
    rows[0]["answer"] = str(int(said) + 1)
    engine = SeededEngine()
    evaluate(tmp_path, rows=rows, engine=engine)
    assert engine.served == []
    right = {row["extracted"]: row["right"] for row in read_samples(tmp_path / "sums") if row["id"] == "p0"}
    assert right[said] is False
    assert content(tmp_path) == (evaluate(tmp_path / "direct", rows=rows) and content(tmp_path / "direct"))


def test_a_corrected_gold_is_refused_where_the_reward_may_read_more_than_is_stored(tmp_path: Path) -> None:
    evaluate(tmp_path, reward="stop")
    rows = problems(40)
    rows[7]["answer"] = "nothing"
    with pytest.raises(RunError, match="the answers of 1 problems have changed, such as 'p7'"):
        evaluate(tmp_path, rows=rows, reward="stop")


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
        ("compound", {}, {"math": int(GRADER_VERSION)}),
        ("{name: cosine, args: {max_tokens: 8}}", {}, {"math": int(GRADER_VERSION)}),
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
    command = [sys.executable, "-m", "reasonrl", "train", "--if-needed", str(tmp_path / "recipe.yaml")]

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
    samples = stage / "unseen" / "samples.jsonl"
    rows = read_samples(samples.parent)
    texts = [row["text"] for row in rows]
    samples.write_text("".join(json.dumps({**row, "grader": 1, "verdict": "fault"}) + "\n" for row in rows))
    said = run()
    assert "grader: 1 -> " in said and "extended" in said
    now = read_samples(samples.parent)
    assert [row["text"] for row in now] == texts and "fault" not in {row["verdict"] for row in now}
    assert f'"grader": {GRADER_VERSION}' in (stage / "done.json").read_text()
    assert "skipped" in run()
