"""Every shipped recipe, as a user runs it: rehearsed, and trained in a cut-down form to its table and report."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.observe import read_metrics
from reasonrl.recipe import expand_stages, load_recipe, shipped_recipes

TREE = Path(__file__).resolve().parents[2]
ROWS = [{"question": f"What is {a} + {b}?", "answer": str(a + b)} for a in range(4) for b in range(4)]
SOLUTIONS = [
    {
        "problem": row["question"],
        "text": f"So {row['answer']}.\nDone.",
        "steps": [[0, 6], [6, 11]],
        "labels": [1, n % 2],
    }
    for n, row in enumerate(ROWS)
]
PROGRAMS = [
    {"problem": f"Print {n} times the number.", "tests": {"inputs": ["2\n"], "outputs": [f"{2 * n}\n"]}}
    for n in range(4)
]
DRAWN = [
    {
        "problem_id": str(n // 2),
        "id": str(n),
        "problem": row["question"],
        "text": f"So {n}.\n\nWait. The answer is {n}.",
        "correct": n % 3 == 0,
        "extracted": str(n),
    }
    for n, row in enumerate(ROWS)
]

_DIALOGUE = [
    "model=tiny:qwen2",
    "rollout.engine=transformers",
    *("rollout.max_model_len=null", "rollout.enable_prefix_caching=null"),
    *("stages.rl.prompts_per_step=4", "stages.rl.num_generations=2", "stages.rl.max_steps=2"),
    *("stages.rl.max_completion_length=16", "stages.rl.critic_steps=2", "stages.rl.warmup_steps=0"),
    *("stages.rl.bf16=false", "stages.rl.gradient_checkpointing=false", "stages.rl.save_steps=null"),
    *("stages.exam.rollout={}", "stages.before.rollout={}"),
    *(f"stages.{exam}.{key}" for exam in ("exam", "before") for key in ("n=1", "max_tokens=8")),
    *(f"stages.{exam}.suites=[aime24-cb1,aime24-cb3]" for exam in ("exam", "before")),
]

# Parts of these below: the plain engine, one process, a small PPO, an examination of a few rows.
PLAIN = ("rollout.engine=transformers", "rollout.start=null", "rollout.max_model_len=null")
ALONE = ("bf16=false", "gradient_checkpointing=false", "launch={num_processes: 1, deepspeed: null}")
TINY_PPO = ("prompts_per_step=4", "num_generations=2", "max_prompt_length=600", "tokens_per_microbatch=2048",
            "save_steps=1", "warmup_steps=0")  # fmt: skip
HELD = ("suites={held: {data: {path: rows.jsonl, columns: {problem: question}}}}", "protocol=null", "max_tokens=8")

# What brings each recipe down to some seconds of work; the files of rows are made beside it.
CUT_DOWN: dict[str, list[str]] = {
    "quickstart": [
        "data.lessons.n=64",
        "data.problems.n=64",
        "data.quiz.n=8",
        "data.exam.n=16",
        "stages.cold_start.max_steps=3",
        "stages.cold_start.per_device_train_batch_size=8",
        "stages.cold_start.logging_steps=1",
        "stages.rl.prompts_per_step=4",
        "stages.rl.max_steps=2",
        "stages.rl.eval_steps=1",
        "stages.rl.log_completions_steps=1",
        "stages.rl.max_completion_length=16",
        "stages.more_cold_start.data.n=64",
        "stages.more_cold_start.max_cpu_seconds=1.0",
        "stages.more_cold_start.per_device_train_batch_size=8",
        "stages.more_cold_start.logging_steps=1",
        *(f"stages.{exam}.suites.exam.{key}" for exam in ("exam_before", "exam_after", "exam_control")
          for key in ("n=2", "k=[1,2]", "max_tokens=16")),
    ],
    "gpu24": [
        "data.train.path=rows.jsonl",
        "model=tiny:qwen2",
        "stages.rl.rollout.engine=transformers",
        *(f"stages.rl.rollout.{key}=null" for key in ("lora", "gpu_memory_utilization", "max_model_len")),
        "stages.rl.model_init_kwargs={dtype: float32}",
        "stages.rl.bf16=false",
        "stages.rl.prompts_per_step=4",
        "stages.rl.num_generations=2",
        "stages.rl.max_completion_length=16",
        "stages.rl.max_steps=2",
    ],
    "prm": [
        "data.traces.path=solutions.jsonl",
        "data.problems.path=rows.jsonl",
        "data.test.path=solutions.jsonl",
        "data.contest.path=rows.jsonl",
        "data.transfer.path=drawn.jsonl",
        "model=tiny:qwen2",
        "stages.resegment.llm=null",
        "stages.generator.max_steps=2",
        "stages.generator.num_train_epochs=null",
        "stages.generator.bf16=false",
        "stages.generator.logging_steps=1",
        "stages.solutions.n=2",
        "stages.solutions.max_tokens=24",
        f"stages.annotate.judges=[{{name: '{TREE}/tests/recipes/step_judge.py:alternating'}}]",
        "stages.prm.solutions_per_step=4",
        "stages.prm.bf16=false",
        "stages.prm.warmup_steps=1",
        "stages.prm.eval_steps=2",
        *("stages.candidates.n=4", "stages.candidates.max_tokens=24"),
        *("stages.exam.best_of.contest.k=[2,4]", "stages.exam.search.candidates=[1,2]"),
        *(f"stages.exam.best_of.transfer_{name}.k=[2]" for name in ("words", "lines")),
        *("stages.exam.search.max_steps=2", "stages.exam.search.max_step_tokens=8"),
    ],
    "bcpg_nsa": [
        "data.train.path=rows.jsonl",
        "data.labels.path=solutions.jsonl",
        "model=tiny:qwen2",
        *("rollout.engine=transformers", "rollout.start=null", "rollout.max_model_len=null"),
        "rollout.enable_prefix_caching=null",
        # A random policy is right about nothing, but it ends now and then: one answer in seven.
        *("stages.sample.n=4", "stages.sample.max_tokens=40", "stages.sample.keep=null", "stages.sample.reward=stop"),
        "stages.sample.temperature=1.0",
        *("stages.judge.model=tiny:qwen2", "stages.judge.solutions_per_step=4", "stages.judge.max_length=400"),
        *("stages.label.segment={method: lines, model: null}", "stages.label.truncated=label"),
        'stages.label.judges=[{name: prm, args: {model: "${stage:judge}", threshold: 0.5}}]',
        *("stages.train.num_train_epochs=1", "stages.train.samples_per_step=16", "stages.train.save_steps=null"),
        *(f"stages.{name}.launch={{num_processes: 1, deepspeed: null}}" for name in ("train", "rft", "dpo")),
        *(f"stages.{name}.{key}=false" for name in ("judge", "train", "rft", "dpo")
          for key in ("bf16", "gradient_checkpointing")),
        *("stages.rft.num_train_epochs=1", "stages.rft.logging_steps=1", "stages.dpo.logging_steps=1"),
        *(f"stages.exam_{name}.{key}" for name in ("start", "rft", "dpo", "train") for key in
          ("suites={held: {data: {path: rows.jsonl, columns: {problem: question}}}}", "protocol=null", "max_tokens=8")),
    ],
    "bcpg_nsa_code": [
        "data.train.path=programs.jsonl",
        "model=tiny:qwen2",
        *("rollout.engine=transformers", "rollout.start=null", "rollout.max_model_len=null"),
        "rollout.enable_prefix_caching=null",
        *("stages.sample.n=8", "stages.sample.max_tokens=40", "stages.sample.keep=null"),
        *("stages.sample.temperature=1.0", "stages.sample.reward.args.requires_isolation=false"),
        "stages.label.segment={method: rules, shortest: 1, longest: 20}",
        f"stages.label.judges=[{{name: '{TREE}/tests/recipes/step_judge.py:alternating'}}]",
        *("stages.train.num_train_epochs=1", "stages.train.samples_per_step=16"),
        *("stages.train.bf16=false", "stages.train.gradient_checkpointing=false"),
        "stages.train.launch={num_processes: 1, deepspeed: null}",
        *(f"stages.exam_{name}.{key}" for name in ("start", "train") for key in
          ("suites={held: {data: {path: programs.jsonl}}}", "protocol=null", "max_tokens=8", "reward=code")),
    ],
    "mini/bcpg_nsa": [
        *(f"data.{name}.n={n}" for name, n in (("drill", 32), ("lessons", 64), ("problems", 6), ("exam", 6))),
        *(f"stages.{name}.{key}" for name in ("drill", "start")
          for key in ("max_steps=3", "per_device_train_batch_size=8", "logging_steps=1")),
        *("stages.sample.n=4", "stages.sample.max_tokens=40", "stages.sample.keep=null"),
        "stages.rft.data.keep=not correct",
        *("stages.rft.per_device_train_batch_size=8", "stages.rft.num_train_epochs=1", "stages.rft.logging_steps=1"),
        *("stages.train.samples_per_step=8", "stages.train.num_train_epochs=1", "stages.train.logging_steps=1"),
        *(f"stages.{exam}.max_tokens=16" for exam in ("exam_start", "exam_rft", "exam")),
    ],
    "mini/prm": [
        *(f"data.{name}.n={n}" for name, n in (("drill", 32), ("lessons", 64), ("problems", 24), ("exam", 12))),
        *("data.contest.n=32", "data.quest.n=4", "data.repairs_more.n=8", "data.repairs_less.n=8"),
        *(f"stages.{name}.{key}" for name in ("drill", "start")
          for key in ("max_steps=3", "per_device_train_batch_size=8", "logging_steps=1")),
        "stages.prm.max_steps=2",
        "stages.prm.solutions_per_step=4",
        "stages.exam.best_of.k=[2,4]",
        "stages.exam.search.candidates=[1,2]",
        "stages.exam.search.max_steps=3",
    ],
    "pacore": [
        *("data.contests.path=rows.jsonl", "data.programs.path=rows.jsonl", "data.exam.path=rows.jsonl"),
        "data.integers.n=4",
        "model=tiny:qwen2",
        *(f"rollout.{key}=null" for key in ("start", "max_model_len", "enable_prefix_caching")),
        *("rollout.engine=transformers", "stages.checkable.steps=[]"),
        *("stages.pool.n=3", "stages.tried.n=2", "stages.tried.keep=null", "stages.cached.n=3"),
        # A random policy is right about nothing, but it ends now and then.
        *(f"stages.{name}.reward=stop" for name in ("pool", "tried", "stage1", "stage2")),
        *(f"stages.{name}.max_tokens=16" for name in ("pool", "tried", "cached", "before", "after", "ablations")),
        *(f"stages.{name}.{key}" for name in ("episodes1", "episodes2") for key in ("steps=2", "prompts_per_step=2")),
        *(f"stages.{name}.{key}" for name in ("episodes1", "once", "episodes2")
          for key in ("least=1", "messages=0..1")),
        "stages.episodes1.keep=null",
        *(f"stages.{name}.{key}" for name in ("stage1", "stage2") for key in (
            "prompts_per_step=2", "num_generations=2", "max_steps=2", "critic_steps=2", "save_steps=1", "bf16=false",
            "max_completion_length=12", "max_prompt_length=1200", "tokens_per_microbatch=2048",
            "gradient_checkpointing=false", "launch={num_processes: 1, deepspeed: null}")),
        "stages.tried.model=${stage:stage1@step=1}",
        *(f"stages.{name}.{key}" for name in ("before", "after", "ablations")
          for key in ("majority=[2]", "pass_k=[2]")),
        *(f"stages.{name}.runs={{low: {{rounds: [2]}}, medium: {{rounds: [3]}}, high: {{rounds: [2, 2]}}}}"
          for name in ("before", "after")),
        'stages.ablations.runs={"[32,2]": {rounds: [2, 2]}, "[32,4]": {rounds: [2, 3]}, "[32,8]": {rounds: [1]},'
        ' "[4]": {rounds: [3]}, "[4] no compaction": {rounds: [3]}}',
    ],
    "rlvr_8b": [
        "data.train.path=rows.jsonl",
        *("model=tiny:qwen2", "stages.rl.reward=math"),
        *(f"stages.rl.rollout.{key}=null" for key in ("start", "max_model_len")),
        *("stages.rl.rollout.engine=transformers", "stages.rl.launch={num_processes: 1, deepspeed: null}"),
        *("stages.rl.bf16=false", "stages.rl.gradient_checkpointing=false", "stages.rl.max_steps=2"),
        *("stages.rl.prompts_per_step=4", "stages.rl.num_generations=2", "stages.rl.max_completion_length=16"),
        "stages.rl.save_steps=null",
    ],
    "mini/pacore": [
        *(f"data.{name}.n={n}" for name, n in
          (("drill", 32), ("lessons", 64), ("frame", 32), ("problems", 8), ("pool_problems", 6))),
        *("data.quiz.n=4", "data.test.n=4"),
        *(f"stages.{name}.{key}" for name in ("drill", "start", "warmup")
          for key in ("max_steps=3", "per_device_train_batch_size=8", "logging_steps=1")),
        *(f"stages.{name}.{key}" for name in ("solo", "synthesis")
          for key in ("max_steps=2", "prompts_per_step=2", "num_generations=2", "max_completion_length=12")),
        *("stages.pool.n=2", "stages.pool.max_tokens=12", "stages.episodes.keep=null", "stages.episodes.least=1"),
        # An untrained policy writes no last line.
        *("stages.episodes.compaction=after_think", "stages.episodes.messages=0..1"),
        *("stages.episodes.steps=2", "stages.episodes.prompts_per_step=2"),
        *(f"stages.{name}.max_tokens=12" for name in ("trial", "greedy", "cached", "before", "after")),
        *("stages.trial.n=2", "stages.cached.n=8"),
        *(f"stages.{name}.majority=[2]" for name in ("before", "after")),
    ],
    "dialogue_reason": ["data.train.path=rows.jsonl", *_DIALOGUE],
    "dialogue_reason_qwq": [
        *("data.train.path=rows.jsonl", "stages.plays.data.path=rows.jsonl"),
        *_DIALOGUE,
        *("stages.plays.max_tokens=16", "stages.plays.data.limit=4", "stages.plays.reward=stop"),
        "stages.start.data.keep=null",
        *("stages.start.max_steps=2", "stages.start.num_train_epochs=null", "stages.start.max_length=null"),
        *("stages.start.gradient_accumulation_steps=1", "stages.start.trl_args={}"),
    ],
    "mini/dialogue": [
        *("data.drill.n=64", "data.lessons.n=64", "data.problems.n=64"),
        *("data.k1.n=10", "data.k2.n=10", "data.k3.n=9", "data.k5.n=10"),
        *(f"stages.{name}.{key}" for name in ("drill", "cold_start")
          for key in ("max_steps=3", "per_device_train_batch_size=8", "logging_steps=1")),
        *("stages.rl.prompts_per_step=4", "stages.rl.max_steps=2", "stages.rl.save_steps=1"),
        *("stages.rl.max_completion_length=16", "stages.rl.log_completions_steps=1"),
        *("stages.exam_10.model=${stage:rl@step=1}", "stages.exam_10.suites.k1.max_tokens=12"),
        "stages.exam_10.suites.k5.max_tokens=12",
        *(f"stages.exam.suites.{suite}.max_tokens=12" for suite in ("k1", "k2", "k3", "k5", "form")),
        *("stages.exam.suites.form.data.n=3", "stages.written.data.n=5", "stages.written.max_tokens=12"),
    ],
    "mini/ovr": [
        *(f"data.{name}.n={n}" for name, n in (("clean", 32), ("sights", 64), ("lessons", 32), ("problems", 16))),
        *(f"data.{name}.n=4" for name in ("trials", "pictures", "twins", "pictures_400", "twins_400", "cells")),
        *(f"stages.{name}.{key}" for name in ("see", "base", "cold_start")
          for key in ("max_steps=3", "per_device_train_batch_size=8", "logging_steps=1")),
        *(f"stages.rl.{key}" for key in ("max_steps=2", "prompts_per_step=2", "num_generations=2", "save_steps=1",
          "max_completion_length=12", "log_completions_steps=1")),
        *(f"stages.{name}.max_tokens=12" for name in ("exam_base", "exam_cold_start", "exam", "trial", "sights_before",
          "sights_after", "words_before", "words_after")),
        "stages.trial.n=2",
    ],
    "ovr": [
        *("data.distilled.path=solutions.jsonl", "data.text.path=rows.jsonl", "data.image.path=rows.jsonl"),
        *("model=tiny:qwen2_5_vl", *PLAIN),
        *("stages.lessons.sources.distilled.columns={solution: text}", "stages.lessons.require=[problem,solution]"),
        *(f"stages.{name}.steps=[]" for name in ("lessons", "prompts", "problems")),
        *(f"stages.cold_start.{key}" for key in ("num_train_epochs=1", "packing=false", "max_length=512",
          "gradient_accumulation_steps=1", "warmup_steps=0", "logging_steps=1", *ALONE)),
        *("stages.attempts.n=2", "stages.attempts.max_tokens=16"),
        *(f"stages.rl.{key}" for key in (*TINY_PPO, *ALONE, "critic_steps=2", "max_completion_length=16", "max_steps=3",
          "schedules=null")),
        "stages.final.models=${stage:rl@all}",
        *(f"stages.{exam}.{key}" for exam in ("exam_base", "exam_cold_start", "exam") for key in HELD),
    ],
    "orz": [
        *("data.train.path=rows.jsonl", "data.hard.path=rows.jsonl", "model=tiny:qwen2", *PLAIN),
        *(f"stages.rl.{key}" for key in (*TINY_PPO, *ALONE, "critic_steps=4", "max_completion_length=16",
          "max_steps=2")),
        *(f"stages.exam.{key}" for key in HELD),
    ],
    "step3vl": [
        *("data.prompts.path=rows.jsonl", "data.preferences.path=rows.jsonl", "model=tiny:qwen2_5_vl", *PLAIN),
        *(f"stages.{name}.steps=[]" for name in ("prompts", "problems")),
        *("stages.attempts.n=2", "stages.attempts.max_tokens=16", "stages.attempts.reward=stop"),
        *("stages.episodes.keep=null", "stages.episodes.least=1", "stages.episodes.messages=0..1"),
        *("stages.episodes.steps=2", "stages.episodes.prompts_per_step=4"),
        *(f"stages.{name}.{key}" for name in ("rlvr", "rlhf", "pacore") for key in (*TINY_PPO, *ALONE, "reward=stop",
          "critic_steps=2", "max_completion_length=16", "max_steps=2")),
        *("stages.rlvr.actor_steps=2", "stages.rlhf.actor_steps=2", *(f"stages.exam.{key}" for key in HELD)),
    ],
    "text_rl": ["data.train.path=rows.jsonl", "stages.rl.prompts_per_step=2", "stages.rl.max_completion_length=16"],
    "visual_rl": [
        "data.lessons.n=32",
        "data.problems.n=32",
        "data.quiz.n=8",
        "data.exam.n=16",
        "stages.cold_start.max_steps=3",
        "stages.cold_start.per_device_train_batch_size=8",
        "stages.cold_start.logging_steps=1",
        "stages.rl.prompts_per_step=4",
        "stages.rl.max_steps=2",
        "stages.rl.eval_steps=1",
        "stages.rl.log_completions_steps=1",
        "stages.more_cold_start.data.n=32",
        "stages.more_cold_start.max_cpu_seconds=0.5",
        "stages.more_cold_start.per_device_train_batch_size=8",
        "stages.more_cold_start.logging_steps=1",
        *(f"stages.{exam}.suites.exam.{key}" for exam in ("exam_before", "exam_after", "exam_control")
          for key in ("n=2", "k=[1,2]")),
    ],
}  # fmt: skip


# The big recipes whose stages another one has too run to their end by hand.
BIG = (
    "bcpg_nsa",
    "bcpg_nsa_code",
    "dialogue_reason",
    "dialogue_reason_qwq",
    "gpu24",
    "mini/bcpg_nsa",
    "mini/dialogue",
    "mini/ovr",
    "mini/pacore",
    "orz",
    "ovr",
    "pacore",
    "prm",
    "rlvr_8b",
    "step3vl",
)
RUN = [pytest.param(name, marks=pytest.mark.slow if name in BIG else ()) for name in CUT_DOWN]


def reasonrl(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "reasonrl", *arguments], cwd=cwd, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def called(*arguments: str, cwd: Path) -> str:
    """What the command line prints, called in this process, which has imported everything already; it must succeed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def stages_of(name: str, folder: Path) -> list[str]:
    """The stages of a recipe whose rows lie in a folder."""
    overrides = [re.sub(r"\w+\.jsonl", lambda found: str(folder / found[0]), one) for one in CUT_DOWN[name]]
    return [instance.name for instance in expand_stages(load_recipe(name, overrides).recipe)]


def write_rows(folder: Path) -> None:
    """Questions with answers, labelled solutions, samples, and programming problems."""
    written = {"rows": ROWS, "solutions": SOLUTIONS, "drawn": DRAWN, "programs": PROGRAMS}
    for name, rows in written.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with some rows of questions and answers."""
    write_rows(tmp_path)
    return tmp_path


def test_the_table_above_knows_every_recipe():
    assert set(CUT_DOWN) == set(shipped_recipes())


@pytest.mark.parametrize("name", CUT_DOWN)
def test_a_dry_run_goes_through_all_stages_and_writes_nothing(name, folder):
    overrides = [one for one in CUT_DOWN[name] if re.match(r"(stages\.\w+\.)?data\.(\w+\.)?path=", one)]
    before = files_in(folder)
    said = called("train", name, "--dry-run", *overrides, cwd=folder)
    assert "dry run: nothing wrong was found" in said
    assert re.findall(r"^\[\d+/\d+\] (\S+) \(", said, re.MULTILINE) == stages_of(name, folder)
    assert files_in(folder) == before


@pytest.mark.parametrize("name", RUN)
def test_it_trains_to_the_end_writes_known_names_and_a_second_start_does_nothing_again(name, folder):
    """One test a recipe: its run is what costs."""
    printed = reasonrl("train", name, *CUT_DOWN[name], cwd=folder).stdout
    run = folder / "runs" / name.replace("/", "-")
    stages = stages_of(name, folder)
    assert {path.name for path in (run / "stages").iterdir()} == set(stages)
    for stage in stages:
        assert json.loads((run / "stages" / stage / "done.json").read_text())["result"]["wall_seconds"] > 0
    report = (run / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in report and not re.search(r"<script|src=\"https?:", report)
    check_names(name, run)
    if name == "quickstart":
        check_quickstart(run, printed)
    again = called("train", "--if-needed", name, *CUT_DOWN[name], cwd=folder)
    assert again.count("skipped (done ") == len(stages) and "started" not in again


def check_quickstart(run: Path, printed: str) -> None:
    """It ends in a table of before and after."""
    rows = ["before (cold start)", "after (PPO)", "control (more cold start)"]
    assert all(printed.count(f" {row} ") >= 3 for row in rows)
    table = run / "stages" / "table"
    assert {path.name for path in table.iterdir()} >= {"table.md", "table.csv", "table.json", "table.png"}
    with (table / "table.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert {cell["row"] for cell in cells} == set(rows)
    assert {cell["metric"] for cell in cells} == {"accuracy", "greedy", "pass@2"}
    exam = json.loads((run / "stages" / "exam_after" / "results.json").read_text())["suites"]["exam"]
    assert exam["n_problems"] == 16 and exam["n_samples"] == 32
    lines = read_metrics(run / "stages" / "rl" / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2] and all("eval/accuracy_low" in line for line in lines)


def names_of(run: Path) -> dict[str, set[str]]:
    """Every metric name that a run wrote, by where it stands."""
    found: dict[str, set[str]] = {"metrics.jsonl": set(), "results.json": set(), "done.json": set()}
    for file in run.glob("stages/*/metrics.jsonl"):
        found["metrics.jsonl"].update(name for line in read_metrics(file) for name in line)
    for file in run.glob("stages/*/results.json"):
        if json.loads((file.parent / "done.json").read_text())["identity"]["kind"] != "eval":
            continue  # docs/prm_eval.md has those of prm_eval
        suites: dict[str, Any] = json.loads(file.read_text())["suites"]
        found["results.json"].update(name for entry in suites.values() for name in entry)
    for file in run.glob("stages/*/done.json"):
        record = json.loads(file.read_text())
        if record["identity"]["kind"] in ("sft", "ppo"):
            found["done.json"].update(record["result"]["metrics"])
    return found


def check_names(name: str, run: Path) -> None:
    """The glossary has every name that a run writes."""
    glossary = (TREE / "docs" / "metrics.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"`([^`\s]+)`", glossary))
    # Alarms stand in a table of their own.
    explained |= {
        f"alarm/{name}" for name in re.findall(r"^\| `(\w+)` \|", glossary.split("## Alarms")[1], re.MULTILINE)
    }
    families = [re.compile(re.sub(r"<\w+>", r"[^/]+", name)) for name in explained if "<" in name]
    for place, names in names_of(run).items():
        missing = sorted(one for one in names - explained if not any(form.fullmatch(one) for form in families))
        assert not missing, f"{place} of {name} holds names that docs/metrics.md does not explain: {missing}"
    assert len(names_of(run)["metrics.jsonl"]) > (12 if "prm" in name or "bcpg" in name else 25)


def test_recipes_can_be_listed_shown_and_copied(folder):
    listed = called("recipes", "ls", cwd=folder).splitlines()
    summaries = {line.split()[0]: line.split(maxsplit=1)[1] for line in listed}
    assert set(summaries) == set(CUT_DOWN)
    assert all(len(summary) > 15 for summary in summaries.values())
    for name in CUT_DOWN:
        shown = called("recipes", "show", name, cwd=folder)
        assert shown == shipped_recipes()[name].read_text(encoding="utf-8")
        called("recipes", "cp", name, "mine", cwd=folder)
        assert (folder / "mine" / f"{name}.yaml").read_text(encoding="utf-8") == shown


@pytest.mark.parametrize("name", CUT_DOWN)
def test_each_recipe_has_a_short_readme_with_its_command_cost_and_expected_number(name):
    text = shipped_recipes()[name].with_suffix(".md").read_text(encoding="utf-8")
    assert f"reasonrl train {name}" in text
    assert all(f"## {heading}" in text for heading in ("Command", "Cost", "Expected"))
