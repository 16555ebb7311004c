"""The `bcpg` stage through the whole run: what it makes, what a recipe may not say, damaged rows, kills, processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "trainers"))
from logged_world import TINY, sample_rows

from reasonrl.errors import DataError, RecipeError
from reasonrl.models import load_tokenizer
from reasonrl.pipeline import train
from reasonrl.recipe import load_recipe

RECIPE = f"""\
recipe: bcpg-test
model: {TINY}
stages:
  train:
    kind: bcpg
    model: ${{model}}
    data: {{path: rows.jsonl}}
    samples_per_step: 8
    learning_rate: 3e-3
    num_train_epochs: 2
    warmup_ratio: 0.2
    logging_steps: 1
"""


def write(folder: Path, rows: list[dict] | None = None, recipe: str = RECIPE) -> Path:
    folder.mkdir(exist_ok=True)
    rows = sample_rows(load_tokenizer(TINY), problems=6) if rows is None else rows
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    return folder / "recipe.yaml"


def test_a_run_with_every_control(tmp_path, monkeypatch) -> None:
    """Stages of one run over the same rows: the weights differ where they should, a reference is moved."""
    monkeypatch.chdir(tmp_path)
    more = "".join(
        f"  {name}: {{kind: bcpg, model: '${{model}}', data: {{path: rows.jsonl}}, samples_per_step: 12, max_steps: 1,"
        f" logging_steps: 1, {keys}}}\n"
        for name, keys in {
            "random": "mined: random_steps",
            "uniform": "mined: uniform",
            "plain": "mined: none",
            "topr": "method: topr",
            "moved": "reference_model: '${stage:train}'",
        }.items()
    )
    said: list[str] = []
    train(load_recipe(write(tmp_path, recipe=RECIPE + more)), say=said.append)
    stages = tmp_path / "runs" / "bcpg-test" / "stages"
    results = {path.parent.name: json.loads(path.read_text())["result"] for path in stages.glob("*/done.json")}
    found = results["train"]["metrics"]
    assert found["steps"] == 6
    assert (found["samples"], found["problems"], found["samples_truncated"]) == (24, 6, 1)
    assert any("a start value" in line and "tau = " in line for line in said)
    assert found["tau"] == pytest.approx(7.922 / (found["tau"] and _mean_wrong(tmp_path)))
    lines = {name: json.loads((stages / name / "metrics.jsonl").read_text().splitlines()[0]) for name in results}
    # The same mass is weighted, whatever carries it; here a step is twelve of the samples, the same in all stages.
    assert lines["random"]["reweighted"] == pytest.approx(lines["topr"]["reweighted"])
    assert lines["random"]["objective"] != pytest.approx(lines["plain"]["objective"])
    assert lines["plain"]["reweighted"] == 0
    assert lines["uniform"]["reweighted"] == 1
    assert lines["plain"]["log_ratio/lowest"] == pytest.approx(0, abs=1e-5)
    assert lines["moved"]["log_ratio/lowest"] < -0.01
    assert results["topr"]["metrics"]["tau"] == 0
    assert set(results["train"]["checkpoints"]) == {"5", "6"}


def _mean_wrong(folder: Path) -> float:
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    wrong = [len(row["completion_ids"]) for row in rows if not row["correct"]]
    return sum(wrong) / len(wrong)


def test_an_adapter_with_recomputed_activations_ends_with_the_same_weights(tmp_path, monkeypatch) -> None:
    """LoRA with gradient checkpointing: the merged models are equal, they differ from the start, and lines agree."""
    from safetensors.torch import load_file

    monkeypatch.chdir(tmp_path)
    keys = "kind: bcpg, model: '${model}', data: {path: rows.jsonl}, samples_per_step: 8, max_steps: 2, lora: {r: 4}"
    stages = "".join(
        f"  {name}: {{{keys}, learning_rate: 1e-2, logging_steps: 1, gradient_checkpointing: {on}}}\n"
        for name, on in (("plain", "false"), ("recomputed", "true"))
    )
    train(load_recipe(write(tmp_path, recipe=RECIPE.split("  train:")[0] + stages)), say=lambda line: None)
    run = tmp_path / "runs" / "bcpg-test" / "stages"
    models = [load_file(run / name / "model" / "model.safetensors") for name in ("plain", "recomputed")]
    assert all((models[0][name] - tensor).abs().max() < 1e-6 for name, tensor in models[1].items())
    lines = [
        json.loads((run / name / "metrics.jsonl").read_text().splitlines()[-1]) for name in ("plain", "recomputed")
    ]
    assert lines[0]["objective"] == pytest.approx(lines[1]["objective"], rel=1e-5)
    assert lines[1]["grad_norm"] > 0 and lines[1]["log_ratio/lowest"] < -1e-4, "the adapter learns"


def test_supervised_rows_are_picked_from_what_a_stage_made(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = f"""\
recipe: picked
model: {TINY}
stages:
  label: {{kind: annotate, data: {{path: rows.jsonl}}, judges: [{{name: oracle, args: {{column: labels}}}}]}}
  right:
    kind: sft
    model: ${{model}}
    data: {{path: "${{stage:label}}", keep: correct, columns: {{solution: text}}}}
    max_steps: 1
"""
    rows = sample_rows(load_tokenizer(TINY), problems=4)
    for row in rows:
        row["answer"] = "3"
        row["steps"] = row["steps"] or [[0, len(row["text"])]]
        row["labels"] = row["labels"] or [1]
    resolved = load_recipe(write(tmp_path, rows, recipe))
    train(resolved, say=lambda line: None)
    done = json.loads((tmp_path / "runs" / "picked" / "stages" / "right" / "done.json").read_text())
    assert done["result"]["metrics"]["examples"] == sum(row["correct"] for row in rows)
    first = "  first: {kind: sft, model: tiny:qwen2, data: {path: rows.jsonl}}\n  label"
    write(tmp_path, rows, recipe.replace("${stage:label}", "${stage:first}").replace("  label", first))
    with pytest.raises(RecipeError, match="makes no data"):
        load_recipe(tmp_path / "recipe.yaml")


def test_dpo_learns_from_pairs_of_what_was_sampled(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = f"""\
recipe: pairs
model: {TINY}
stages:
  pairs:
    kind: dpo
    model: ${{model}}
    data: {{path: rows.jsonl}}
    learning_rate: 3e-3
    per_device_train_batch_size: 12
    num_train_epochs: 8
    logging_steps: 1
"""
    rows = sample_rows(load_tokenizer(TINY), problems=6)
    for row in rows[:4]:
        row["correct"], row["reward"] = True, 1.0
    train(load_recipe(write(tmp_path, rows, recipe)), say=lambda line: None)
    stage = tmp_path / "runs" / "pairs" / "stages" / "pairs"
    found = json.loads((stage / "done.json").read_text())["result"]["metrics"]
    right = [sum(row["correct"] for row in rows if row["problem_id"] == f"p{number}") for number in range(6)]
    assert found["pairs"] == sum(max(count, 4 - count) for count in right if 0 < count < 4)
    assert (found["problems"], found["problems_one_sided"]) == (5, 1)
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert lines[-1]["loss"] < 0.6
    assert lines[-1]["rewards/accuracies"] > 0.75
    assert (stage / "model" / "model.safetensors").is_file()


def test_pairs_use_all_samples_alike_and_no_pair_twice() -> None:
    from collections import Counter

    import numpy

    from reasonrl.trainers.dpo import make_pairs
    from reasonrl.trainers.logged_rows import LoggedSample

    def sample(number: int, wrong: bool) -> LoggedSample:
        ids = numpy.array([number])
        return LoggedSample(str(number), "p", numpy.array([7]), ids, float(not wrong), wrong, truncated=False)

    for right, wrong in ((2, 3), (2, 2), (4, 1), (3, 6)):
        samples = [sample(n, n >= right) for n in range(right + wrong)]
        for at_most in (None, 1, 4, 100):
            pairs = [(row["chosen_ids"][0], row["rejected_ids"][0]) for row in make_pairs(samples, at_most, 0).rows]
            assert len(pairs) == (max(right, wrong) if at_most is None else min(at_most, right * wrong))
            assert len(set(pairs)) == len(pairs)
            assert all(one < right <= other for one, other in pairs)
            for side in zip(*pairs, strict=True):
                times = Counter(side).values()
                assert max(times) - min(times) <= 1
            if at_most is None:
                assert len({n for pair in pairs for n in pair}) == right + wrong


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["beta=1.5"], "beta"),
        (["tau=often"], "allowed: auto, or a number from 0"),
        (["mined=label"], "did you mean"),
        (["mined=oracle"], "whose reader knows the labels"),
        (["world=reflective"], "mined: oracle only"),
        (["method=topr", "tau=0.1"], "topr has no constraint"),
        (["epsilon=0.1"], "method: grpo_offline"),
        (["batch_size=4"], "samples_per_step"),
        (["warmup_steps=3"], "both say how long to warm up"),
        (["eval_data={path: rows.jsonl}"], "add a stage of kind: eval"),
    ],
)
def test_what_a_recipe_may_not_say(tmp_path, monkeypatch, keys, message) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, []), [f"stages.train.{key}" for key in keys])
    assert message in str(caught.value)


def damaged(row: dict, how: str) -> None:
    if how == "no log-probabilities":
        row["logprobs_sampled"] = None
    elif how == "log-probabilities of another length":
        row["logprobs_sampled"] = row["logprobs_sampled"][1:]
    elif how == "a log-probability that is none":
        row["logprobs_sampled"][1] = float("nan")
    elif how == "one above zero":
        row["logprobs_sampled"][0] = 0.5
    elif how == "another length":
        row["length"] += 1
    elif how == "unknown verdict":
        row["correct"] = None
    elif how == "a reward that is no number":
        row["reward"] = float("nan")
    elif how == "steps with a gap":
        row["steps"][-1][0] += 1
    elif how == "labels of another number":
        row["labels"] = [*row["labels"], 1]
    elif how == "a label that is none":
        row["labels"][0] = 2
    elif how == "ids of another text":
        row["completion_ids"][0] += 1
    elif how == "an unknown id":
        row["completion_ids"][-1] = 5_000
    elif how == "no ids":
        row["completion_ids"] = []
    elif how == "the id of another row":
        row["id"] = "p0#0"
    elif how == "pictures":
        row["images"] = ["page.png"]
    elif how == "nothing it answers":
        del row["problem_id"], row["problem"]


HOW = {
    "no log-probabilities": "has no logprobs_sampled",
    "log-probabilities of another length": "numbers for",
    "a log-probability that is none": r"logprobs_sampled\[1\] is nan",
    "one above zero": r"logprobs_sampled\[0\] is 0.5",
    "another length": "but completion_ids has",
    "unknown verdict": "verdict is unknown",
    "a reward that is no number": "reward is nan",
    "steps with a gap": "do not partition the text",
    "labels of another number": "one of 1, 0, null for each",
    "a label that is none": "one of 1, 0, null for each",
    "ids of another text": "completion_ids decode to",
    "an unknown id": "holds 5000",
    "no ids": "at least one",
    "the id of another row": "stands on a row before",
    "pictures": "has images, which logged samples are not trained on yet",
    "nothing it answers": "neither problem_id nor problem",
}


@pytest.mark.parametrize("how", HOW)
def test_damaged_rows_are_refused_by_name_or_set_aside(tmp_path, monkeypatch, how) -> None:
    from reasonrl.trainers.logged_rows import Reading, read_logged

    tokenizer = load_tokenizer(TINY)
    rows = sample_rows(tokenizer, problems=6)
    place = next(n for n, row in enumerate(rows) if row["labels"] and len(row["completion_ids"]) > 4 and n > 5)
    sound = read_logged([(f"r:{n}", row) for n, row in enumerate(rows)], tokenizer, "bcpg", Reading(vocabulary=300))
    damaged(rows[place], how)
    placed = [(f"rows.jsonl:{number}", row) for number, row in enumerate(rows, start=1)]
    with pytest.raises(DataError, match=f"rows.jsonl:{place + 1}.*{HOW[how]}.*damaged: set_aside"):
        read_logged(placed, tokenizer, "bcpg", Reading(vocabulary=300))
    data = read_logged(placed, tokenizer, "bcpg", Reading(vocabulary=300, damaged="set_aside"))
    assert len(data.samples) == len(rows) - 1
    assert sum(data.set_aside.values()) == 1
    assert f"rows.jsonl:{place + 1}" in (data.first_fault or "")
    # The group's mean still holds a reward that is known.
    others = [n for n in range(len(rows)) if n != place]
    known = how not in ("unknown verdict", "a reward that is no number", "the id of another row", "nothing it answers")
    assert (data.advantages == [sound.advantages[n] for n in others]) is known


def test_cut_off_answers_earn_nothing_weigh_one_and_may_be_left_out() -> None:
    from reasonrl.trainers.logged_rows import Reading, read_logged

    tokenizer = load_tokenizer(TINY)
    rows = sample_rows(tokenizer, problems=2)
    cut = next(row for row in rows if row["finish_reason"] == "length")
    assert not cut["correct"] and 1 in cut["labels"]
    cut["reward"] = 1.0  # what a reward found in it
    placed = [(f"r:{number}", row) for number, row in enumerate(rows)]
    kept = read_logged(placed, tokenizer, "bcpg", Reading())
    [one] = [sample for sample in kept.samples if sample.truncated]
    assert (one.id, one.reward, one.mined) == (cut["id"], 0.0, None)
    assert kept.counts["samples_truncated"] == 1
    assert kept.counts["wrong_unlabelled"] == 0
    fewer = read_logged(placed, tokenizer, "bcpg", Reading(truncated="leave_out", max_length=60))
    assert fewer.counts["left_out_truncated"] == 1
    assert len(fewer.samples) == len(rows) - 1 - fewer.counts["left_out_long"]
    # Its reward still counts in its group's mean.
    left = {sample.id: advantage for sample, advantage in zip(fewer.samples, fewer.advantages, strict=True)}
    whole = {sample.id: advantage for sample, advantage in zip(kept.samples, kept.advantages, strict=True)}
    assert all(whole[name] == advantage for name, advantage in left.items())


def weights(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / "runs" / "bcpg-test" / "stages" / "train" / "model" / "model.safetensors")


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    write(folder)
    command = [sys.executable, "-m", "reasonrl", "train", "--if-needed", "recipe.yaml", *more]
    return subprocess.Popen(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out


@pytest.mark.slow
def test_killed_runs_and_two_processes_end_with_the_same_weights(tmp_path) -> None:
    longer = "stages.train.num_train_epochs=12"
    finish(start(tmp_path / "whole", longer))
    draw, seen = random.Random(2), 0
    stage = tmp_path / "killed" / "runs" / "bcpg-test" / "stages" / "train"
    lines = stage / "metrics.jsonl"
    for turn in range(4):
        process = start(tmp_path / "killed", longer)
        while process.poll() is None:
            found = len(lines.read_text().splitlines()) if lines.exists() else 0
            # First while the reference is being read, then between steps.
            if (turn == 0 and (stage / "reference").exists()) or (turn and found >= seen + 7):
                time.sleep(draw.uniform(0, 0.3) if turn else 0)
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it was killed"
        seen = found
    finish(start(tmp_path / "killed", longer))
    finish(start(tmp_path / "two", longer, "stages.train.launch.num_processes=2"))
    whole, killed, two = (weights(tmp_path / name) for name in ("whole", "killed", "two"))
    assert [json.loads(line)["step"] for line in lines.read_text().splitlines()] == list(range(1, 37))
    for name, tensor in whole.items():
        assert (tensor - killed[name]).abs().max() == 0, name
        assert (tensor - two[name]).abs().max() < 1e-3, name
