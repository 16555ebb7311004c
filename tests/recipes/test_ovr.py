"""The recipes ovr, orz and step3vl at their own size, rehearsed: their sums, and what their arms change."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.recipe import load_recipe
from reasonrl.recipe.run_plan import run_lines

DATA = {
    "ovr": ["data.distilled.path=rows.jsonl", "data.text.path=rows.jsonl", "data.image.path=rows.jsonl"],
    "orz": ["data.train.path=rows.jsonl", "data.hard.path=rows.jsonl"],
    "step3vl": ["data.prompts.path=rows.jsonl", "data.preferences.path=rows.jsonl"],
}


@pytest.fixture(autouse=True)
def rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {
        "problem": "Which number is it?",
        "answer": "1",
        "solution": "It is 1.",
        "category": "other",
        "reference": "1",
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")


def stages(name, arm="default"):
    return load_recipe(name, DATA[name], arm=arm).recipe.stages


def test_the_sums_of_ovr_for_64_processes():
    done = CliRunner().invoke(main, ["train", "ovr", "--dry-run", *DATA["ovr"]], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    said = done.stdout
    assert "x 64 processes = 640 rows of 65,536 packed tokens: 41,943,040 an optimizer step" in said
    assert "512 prompts x 16 samples = 8192 samples a step / 64 processes = 128 each -> 4 critic steps of 2048" in said
    assert "schedule max_completion_length: 22,528 to step 300, 30,720 to step 700, then 47,104" in said
    [line] = re.findall(r"^  run: (.*)", said, re.MULTILINE)
    numbers = [int(one.replace(",", "")) for one in re.findall(r"\d[\d,]*", line)]
    steps, prompts, draws, samples, policy, critic, tokens = numbers
    assert (steps, prompts, draws, samples) == (900, 512, 460_800, 7_372_800)
    assert (policy, critic) == (900, 3_600)
    # 300 steps at 24k, 400 at 32k, 200 at 48k of the whole sequence, less 2,048 of the prompt.
    assert tokens == 8192 * sum(n * (length * 1024 - 2048) for n, length in ((300, 24), (400, 32), (200, 48)))
    page = (load_recipe("ovr", DATA["ovr"]).path.with_suffix(".md")).read_text()
    assert all(f"{number:,}" in page for number in (draws, samples, tokens))


def test_the_papers_values_stand_in_the_recipes():
    """Table 0 of what the papers say, in plain numbers."""
    said = (
        "prompts_per_step",
        "num_generations",
        "actor_steps",
        "learning_rate",
        "critic_learning_rate",
        "gamma",
        "lam",
    )
    table = {
        ("orz", "rl"): (128, 64, 1, 1e-6, 5e-6, 1, 1, 1000),
        ("ovr", "rl"): (512, 16, 1, 1e-6, 5e-6, 1, 1, 900),
        ("step3vl", "rlvr"): (512, 16, 4, 2e-6, 5e-6, 1, 1, 600),
        ("step3vl", "rlhf"): (512, 8, 4, 2e-6, 5e-6, 1, 1, 300),
        ("step3vl", "pacore"): (64, 16, 1, 2e-6, 5e-6, 1, 1, 500),
    }
    for (name, stage), values in table.items():
        found = stages(name)[stage]
        assert (*(getattr(found, key) for key in said), found.max_steps) == values, (name, stage)
        assert found.beta == 0 and found.temperature == found.top_p == 1 and found.normalize_advantages
    ovr, start = stages("ovr")["rl"], stages("ovr")["cold_start"]
    assert (ovr.critic_steps, ovr.warmup_steps, ovr.adam_beta2, ovr.weight_decay) == (4, 50, 0.95, 0)
    rows = start.per_device_train_batch_size * start.gradient_accumulation_steps * start.launch.num_processes
    assert (rows, start.max_length, start.num_train_epochs, start.learning_rate) == (640, 65536, 5, 2e-4)
    assert [stages("step3vl")[name].max_completion_length for name in ("rlvr", "rlhf", "pacore")] == [
        24576,
        32768,
        65536,
    ]


def test_arms_change_what_they_say():
    plain, other = stages("ovr"), stages("ovr", "plateau")
    assert [name for name in plain if plain[name] != other[name]] == ["rl"]
    assert run_lines(other["rl"])[1] == (
        "schedule max_completion_length: 22,528, 30,720, 47,104; the next when completions/mean_length rises by at most"
        " 1% over 50 steps"
    )
    last = stages("orz", "annealing")["rl"]
    assert last.max_steps == 100 and last.data.path == "rows.jsonl" and last.data.template is not None
    assert run_lines(last)[1] == "schedule learning_rate: straight lines through 1e-06 at step 0, 3e-07 at step 100"


def rows_of(arm, stage):
    """Rows that a stage of mini/ovr learns from in an arm."""
    from reasonrl.data_tools.worlds.grid import GridWorld

    data = load_recipe("mini/ovr", arm=arm).recipe.stages[stage].data
    return GridWorld().rows(300, **data.args)


def test_the_controls_of_the_miniature_learn_from_nothing_else():
    """Mappings of an arm merge with the recipe's: a mix must not keep what the control is to be without."""
    bare = rows_of("direct", "cold_start")
    assert {f"{row['task']}/{row['modality']}" for row in bare} == {"bare/text", "cell/text"}
    assert all(re.fullmatch(r"#\d", row["solution"]) for row in bare if row["task"] == "bare")
    taught = rows_of("default", "cold_start")
    assert [(row["field"], row["question"]) for row in bare] == [(row["field"], row["question"]) for row in taught]
    seen = {arm: {f"{row['task']}/{row['modality']}" for row in rows_of(arm, "rl")} for arm in
            ("default", "direct", "rl_only", "text_rl", "perception")}  # fmt: skip
    both = {"path/image", "path/text"}
    assert seen == {
        "default": both,
        "direct": both,
        "rl_only": both,
        "text_rl": {"path/text"},
        "perception": {"cell/image", "count/image"},
    }
