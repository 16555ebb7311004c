"""Training on synthesis in recipes: pool, episodes, PPO on them in their order, the second filter, the examination."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from reasonrl.cli import main
from reasonrl.data_tools.worlds.worksheet import PATTERN, WorksheetWorld, message_of, read_sheet, write_solution
from reasonrl.eval.exams.record import read_units
from reasonrl.eval.rollouts.rows import COLUMNS, read_rollouts
from reasonrl.observe.records import read_records
from reasonrl.pacore.pools import SAMPLE_COLUMNS

REWARD = {"name": "exact", "args": {"pattern": PATTERN, "groups": "all"}}
WORLD = {"compaction": "world:worksheet", "prompt": "world:worksheet"}
POOL = {"kind": "rollout", "logs": {"path": "samples.jsonl"}, "reward": REWARD, "verify": "all", "model": "tiny:qwen2"}
EPISODES = {"kind": "episodes", "data": "${stage:pool}", "keep": "0 < acc < 1", "messages": "2..4", **WORLD}
PPO = {
    "kind": "ppo",
    "data": "${stage:episodes}",
    "shuffle_dataset": False,
    "reward": REWARD,
    "advantage": "group",
    "prompts_per_step": 3,
    "num_generations": 2,
    "max_completion_length": 6,
    "learning_rate": 1e-3,
    "save_steps": 1,
}
EXAM = {
    "kind": "pacore_eval",
    "data": "${stage:pool}",
    "majority": [3],
    "pass_k": [2],
    "max_tokens": 6,
    "reward": REWARD,
    "draws": 8,
    **WORLD,
    "runs": {
        "[4]": {"rounds": [4]},
        "[2,2] itself": {"rounds": [2, 2], "first": "model"},
        "erased": {"rounds": [3], "control": "erased"},
        "bare": {"rounds": [2], "control": "none"},
    },
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight answers of the law to each of 12 problems, as a log."""
    monkeypatch.chdir(tmp_path)
    rows = []
    for problem in WorksheetWorld().rows(12, split="test"):
        draw, sheet = random.Random(problem["problem"]), read_sheet(problem["problem"])
        texts = [write_solution(sheet, draw) for _ in range(8)]
        rows += [{**problem, "id": f"{problem['id']}#{number}", "text": text} for number, text in enumerate(texts)]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def call(*words: str, status: int = 0) -> str:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == status, result.output
    return result.output


def recipe(folder: Path, **stages: Any) -> str:
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({"recipe": "r", "model": "tiny:qwen2", "output": "run", "stages": stages}))
    return str(path)


def test_a_pool_becomes_episodes_and_ppo_trains_on_them_in_their_order(folder: Path) -> None:
    stages = {"pool": POOL, "episodes": {**EPISODES, "steps": 2, "prompts_per_step": 3}, "rl": {**PPO, "max_steps": 2}}
    assert "2 steps x 3 = 6 episodes, |M| ~ U(2..4)" in call("train", recipe(folder, **stages), "--dry-run")
    call("train", recipe(folder, **stages))
    run = folder / "run" / "stages"
    pool: dict[str, list[dict[str, Any]]] = {}
    for row in read_rollouts(run / "pool" / "rollouts.parquet"):
        pool.setdefault(row["problem_id"], []).append(row)
    mixed = {name for name, group in pool.items() if 0 < sum(row["correct"] for row in group) < 8}
    short = read_records(run / "episodes" / "episodes.jsonl")
    _are_draws(short, pool, mixed)
    figures = json.loads((run / "episodes" / "done.json").read_text())["result"]["metrics"]
    assert figures["problems"] == len(mixed) and figures["episodes"] == 6 and figures["read"] == 12
    assert _asked(run) == [row["prompt"][0]["content"] for row in short]  # in order; samples share an instance's draw
    # A longer training goes on from the same draws.
    stages["episodes"]["steps"], stages["rl"]["max_steps"] = 4, 4
    call("train", recipe(folder, **stages))
    long = read_records(run / "episodes" / "episodes.jsonl")
    assert long[:6] == short and _asked(run) == [row["prompt"][0]["content"] for row in long]
    _are_draws(long, pool, mixed)
    lines = read_records(run / "rl" / "metrics.jsonl")
    for line, some in zip(lines, (long[at : at + 3] for at in range(0, 12, 3)), strict=True):
        assert line["synthesis/messages"] == pytest.approx(sum(row["shown"] for row in some) / 3)
        shares = [row["messages_right"] / row["shown"] for row in some]
        assert line["synthesis/input_accuracy"] == pytest.approx(sum(shares) / 3)
        assert line["synthesis/emergent_count"] == 2 * sum(row["messages_right"] == 0 for row in some)
        assert line["synthesis/cross_check_rate"] == 0


def _asked(run: Path) -> list[str]:
    """The problem texts of a training's prompts, one an instance."""
    rows = [row for path in sorted((run / "rl" / "completions").glob("*.parquet")) for row in _parquet(path)]
    rows = sorted(rows, key=lambda row: row["step"])
    asked = [row["prompt"].partition("user\n")[2].partition("<|im_end|>")[0] for row in rows]
    assert asked[::2] == asked[1::2]
    return asked[::2]


def _parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    found: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return found


def _are_draws(rows: list[dict[str, Any]], pool: dict[str, list[dict[str, Any]]], mixed: set[str]) -> None:
    for row in rows:
        group = pool[row["pool_id"]]
        messages = [message_of(one["text"]) for one in group]
        assert len(set(row["chosen"])) == row["shown"] and 2 <= row["shown"] <= 4
        wanted = "\n".join([group[0]["problem"], *(messages[place] for place in row["chosen"])])
        assert row["prompt"] == [{"role": "user", "content": wanted}]
        assert row["messages_right"] == sum(group[place]["correct"] for place in row["chosen"])
        assert row["difficulty"] == read_sheet(group[0]["problem"]).operations  # the problem's own columns come along
    names = [row["pool_id"] for row in rows]
    for at in range(0, len(names) - len(mixed) + 1, len(mixed)):
        assert set(names[at : at + len(mixed)]) == mixed


def test_the_second_filter_and_the_examination(folder: Path) -> None:
    """Problems whose synthesis accuracy is wanted, by a rollout on one visit of each; and rounds against votes."""
    plain = {key: value for key, value in EXAM.items() if key != "runs"}
    stages = {
        "pool": POOL,
        "once": {**EPISODES, "visits": 1},
        "tried": {"kind": "rollout", "data": "${stage:once}", "n": 2, "max_tokens": 6, "reward": REWARD},
        "again": {**EPISODES, "only_data": "${stage:tried}", "visits": 2},
        "exam": {**EXAM, "model": "tiny:qwen2"},
        "plain": {**plain, "pass_k": [2, 4]},
        "table": {"kind": "compare", "rows": {"a": "${stage:exam}", "b": "${stage:plain}"}, "baseline": "b"},
    }
    call("train", recipe(folder, **stages))
    run = folder / "run" / "stages"
    once, again = (read_records(run / name / "episodes.jsonl") for name in ("once", "again"))
    tried = {row["pool_id"] for row in read_rollouts(run / "tried" / "rollouts.parquet")}
    assert {row["pool_id"] for row in once} == tried == {row["pool_id"] for row in again}
    assert len(again) == 2 * len(once) and again[: len(once)] == once
    entry = json.loads((run / "exam" / "results.json").read_text())["suites"]["rounds"]
    answers = read_records(run / "exam" / "rounds" / "answers.jsonl")
    _figures_are_the_cache_s(run, entry, answers)
    row = next(row for row in answers if row["run"] == "[2,2] itself")
    assert row["inputs"] == 2 and row["tokens"] <= 5 * 6
    whole = json.loads((run / "exam" / "done.json").read_text())["result"]["metrics"]
    assert whole["rounds/[4]"] == 0 and whole["rounds/[4] over the vote"] < 0  # an untrained model
    # A kill in between: what is there is kept, and the rest comes out as before.
    path = run / "exam" / "rounds" / "answers.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:17]) + lines[17][:20])
    for name in ("results.json", "done.json"):
        (run / "exam" / name).unlink()
    assert "17 answers kept" in call("train", recipe(folder, **stages))
    assert path.read_bytes().splitlines(keepends=True) == lines
    assert json.loads((run / "exam" / "results.json").read_text())["suites"]["rounds"] == entry
    assert "over the vote at equal tokens" in (run / "exam" / "rounds.md").read_text()
    assert (run / "exam" / "rounds.png").stat().st_size > 5000


def _figures_are_the_cache_s(run: Path, entry: dict[str, Any], answers: list[dict[str, Any]]) -> None:
    cached: dict[str, list[bool]] = {}
    for row in read_rollouts(run / "pool" / "rollouts.parquet"):
        cached.setdefault(row["problem_id"], []).append(bool(row["correct"]))
    units = {unit.id: unit.values for unit in read_units(run / "exam", "rounds")}
    assert {name: values["solo"] for name, values in units.items()} == {
        name: pytest.approx(sum(rights) / 8) for name, rights in cached.items()
    }
    wrong = {row["id"] for row in answers if row["run"] == "[4]" and not row["inputs_right"]}
    assert wrong == {name for name, rights in cached.items() if not any(rights[:4])}
    assert {name for name, values in units.items() if "emergent [4]" in values} == wrong
    assert entry["runs"]["[4]"]["emergent_count"] == len(wrong) and entry["runs"]["bare"]["emergent_count"] == 0
    assert {row["shown"] for row in answers if row["run"] == "bare"} == {0}
    assert {row["shown"] for row in answers if row["run"] == "erased"} == {3}


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({**EPISODES, "visits": 1, "keep": "mean > 0"}, "mean"),
        ({**EPISODES, "visits": 1, "messages": "4..2"}, "allowed: fewest..most, such as 16..24"),
        ({**EPISODES}, "give steps and prompts_per_step as of the ppo stage, or visits"),
        ({**EPISODES, "visits": 1, "steps": 3}, "keep one or the others"),
        ({**EPISODES, "visits": 1, "data": {"world": "worksheet", "n": 4}}, "means nothing for a pool"),
        ({**EXAM, "model": None}, "is missing, and runs ask it"),
        ({**EXAM, "model": "x", "runs": {"a": {"rounds": [2], "first": "model", "control": "none"}}}, "first: cached"),
        ({**EXAM, "runs": {}, "majority": [], "pass_k": []}, "and so are majority and pass_k"),
    ],
)
def test_what_a_recipe_may_not_say(folder: Path, stage: dict[str, Any], message: str) -> None:
    assert message in call("train", recipe(folder, pool=POOL, it=stage), status=2)


def test_a_pool_without_usable_problems_ends_the_stage(folder: Path) -> None:
    stages = {"pool": POOL, "it": {**EPISODES, "visits": 1, "least": 9}}
    assert "no problem of the pool is left" in call("train", recipe(folder, **stages), status=1)


def test_names_that_stand_twice_agree() -> None:
    from reasonrl.pacore.plan import LEVELS
    from reasonrl.pacore.pools import FIGURES
    from reasonrl.recipe import episodes_stage, pacore_eval_stage

    assert frozenset(COLUMNS) == SAMPLE_COLUMNS
    assert episodes_stage.POOL_FIGURES == FIGURES and tuple(LEVELS) == pacore_eval_stage.LEVELS
