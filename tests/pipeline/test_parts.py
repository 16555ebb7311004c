"""Parts of the pipeline by themselves: keys, growth, fingerprints, records, contexts, commands, clocks."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from reasonrl.errors import DataError, Interrupted, RunError
from reasonrl.pipeline.context import StageContext, StageResult
from reasonrl.pipeline.environment import changed_versions, environment_record, redacted_command
from reasonrl.pipeline.files import read_json, write_json
from reasonrl.pipeline.fingerprints import HASHED_UP_TO, file_identity, fingerprints
from reasonrl.pipeline.keys import Growth, StageIdentity, differences, growth
from reasonrl.pipeline.progress import LineProgress, StageClock, duration
from reasonrl.pipeline.runner import resume_command
from reasonrl.pipeline.stages import stage_kind, stage_module
from reasonrl.recipe import LaunchConfig, PPOStage, Reference, SFTStage


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (3, 3, Growth.EQUAL),
        (3, 4, Growth.GROWN),
        (4, 3, Growth.SHRUNK),
        (1.5, 2, Growth.GROWN),
        (None, None, Growth.EQUAL),
        (None, 5, Growth.SHRUNK),
        (5, None, Growth.SHRUNK),
        (True, 1, Growth.SHRUNK),
        (["a"], ["a", "b"], Growth.GROWN),
        (["a", "b"], ["b", "a", "c"], Growth.SHRUNK),
        ({"n": 1, "m": 2}, {"n": 2, "m": 2}, Growth.GROWN),
        ({"n": 1, "m": 2}, {"n": 2, "m": 1}, Growth.SHRUNK),
        ({"n": 1}, {"n": 1, "shard": 7}, Growth.GROWN),
        ({"n": 1, "shard": 7}, {"n": 1}, Growth.SHRUNK),
        ("a", "ab", Growth.SHRUNK),
    ],
)
def test_growth(before, now, expected):
    assert growth(before, now) is expected


def test_key_depends_on_name_identity_and_inputs_but_not_on_what_may_grow():
    def key(name="a", identity=(("x", 1),), extensible=(("n", 1),), inputs=(("i", "k"),)):
        return StageIdentity(name, dict(identity), dict(extensible), dict(inputs))

    base = key()
    assert key(extensible=[("n", 2)]).key == base.key
    assert len({base.key, key(name="b").key, key(identity=[("x", 2)]).key, key(inputs=[("i", "l")]).key}) == 4
    assert key(extensible=[("n", 2)]).product(0) != base.product(0), "what reads the final product sees it grow"
    assert key(extensible=[("n", 2)]).product(0, whole=False) == base.product(0, whole=False)
    assert base.product(1) != base.product(0), "made anew"
    again = StageIdentity("a", {"y": 2, "x": 1}, {}, {})
    assert again.key == StageIdentity("a", {"x": 1, "y": 2}, {}, {}).key


def test_differences_name_leaves():
    before = {"lr": 0.1, "data": {"path": "a", "limit": None}, "old": 1}
    now = {"lr": 0.2, "data": {"path": "a", "limit": 3}, "new": [1, 2]}
    assert differences(before, now) == [
        "lr: 0.1 -> 0.2",
        "data.limit: null -> 3",
        "new: absent -> [1, 2]",
        "old: 1 -> absent",
    ]


def test_big_files_are_not_read(tmp_path):
    small, big = tmp_path / "small", tmp_path / "big"
    small.write_bytes(b"abc")
    with big.open("wb") as file:
        file.truncate(HASHED_UP_TO)
    assert file_identity(small) == {
        "bytes": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }
    os.utime(big, ns=(5, 5))
    assert file_identity(big) == {"bytes": HASHED_UP_TO, "mtime_ns": 5}
    big.chmod(0o000)
    assert file_identity(big)["bytes"] == HASHED_UP_TO


def test_fingerprints_of_data_rewards_and_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards").mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / "shards" / name).write_text(name)
    recipe = tmp_path / "recipe"
    recipe.mkdir()
    (recipe / "mine.py").write_text("def score(): ...")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    settings = {"prompts_per_step": 1, "max_completion_length": 8, "max_steps": 1}
    stage = PPOStage(
        model="model",
        data={"path": "shards/*.jsonl"},
        reward=[{"name": "mine.py:score"}, {"name": "math"}],
        **settings,
    )
    found = fingerprints(stage, recipe)
    assert {key: sorted(files) for key, files in found.items()} == {
        "model": ["model/config.json"],
        "data": ["shards/a.jsonl", "shards/b.jsonl"],
        "reward.0.name": ["mine.py"],
    }
    folder = PPOStage(model="tiny:qwen2", data={"path": "shards"}, reward="math", **settings)
    assert sorted(fingerprints(folder, recipe)["data"]) == ["shards/a.jsonl", "shards/b.jsonl"]
    nothing = SFTStage(model="tiny:qwen2", data={"path": "shards/*.csv"})
    with pytest.raises(DataError, match=r"data: no file at 'shards/\*\.csv'"):
        fingerprints(nothing, recipe)


def test_result_survives_its_record(tmp_path):
    result = StageResult(
        model=tmp_path / "model",
        data=Path("/elsewhere/rows"),
        metrics={"accuracy": 0.5, "verdicts": {"wrong": 3}},
        cpu_seconds=2.0,
        checkpoints={300: tmp_path / "checkpoint-300"},
    )
    record = json.loads(json.dumps(result.to_json(tmp_path)))
    assert record["model"] == "model"
    moved = StageResult.from_json(record, tmp_path / "moved")
    assert moved.model == tmp_path / "moved/model"
    assert moved.data == Path("/elsewhere/rows")
    assert moved.checkpoints == {300: tmp_path / "moved/checkpoint-300"}
    assert StageResult.from_json(record, tmp_path) == result


@pytest.fixture
def context(tmp_path) -> StageContext:
    for name in ("model", "critic", "checkpoint-3"):
        (tmp_path / "rl" / name).mkdir(parents=True)
    folder = tmp_path / "rl"
    done = StageResult(
        model=folder / "model",
        critic=folder / "critic",
        checkpoints={3: folder / "checkpoint-3", 6: folder / "checkpoint-6"},
    )
    return StageContext("next", tmp_path / "next", "r", 0, tmp_path, LaunchConfig(), results={"rl": done})


def test_references_become_folders(context, tmp_path):
    assert context.model_of("some/model") == "some/model"
    assert context.model_of(Reference("rl")) == str(tmp_path / "rl/model")
    assert context.model_of(Reference("rl", "critic")) == str(tmp_path / "rl/critic")
    assert context.model_of(Reference("rl", step=3)) == str(tmp_path / "rl/checkpoint-3")
    assert context.is_available(Reference("rl"))
    assert not context.is_available(Reference("later"))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (Reference("rl", step=4), r"no checkpoint of step 4 \(kept: 3, 6\)"),
        (Reference("rl", step=6), r"checkpoint-6 is gone.*--restart-stage rl"),
        (Reference("rl", step="all"), "needs one model"),
        (Reference("sft"), r"needs stage 'sft', which is not done \(done: rl\)"),
    ],
)
def test_references_that_lead_nowhere(context, reference, message):
    with pytest.raises(RunError, match=message):
        context.model_of(reference)
    with pytest.raises(RunError, match="made no data"):
        context.data_of(Reference("rl"))


def test_stop_flag_reaches_the_stage(context):
    context.raise_if_stopping()
    context.stop.set(15)
    assert context.should_stop()
    assert context.stop.exit_status == 143
    with pytest.raises(Interrupted):
        context.raise_if_stopping()


def test_secrets_stay_out_of_the_environment_record(monkeypatch):
    monkeypatch.setenv("JUDGE_API_KEY", "sk-secret-1")
    command = [
        "reasonrl",
        "train",
        "r.yaml",
        "judge.api_key=sk-secret-2",
        "--hf-token",
        "sk-secret-3",
        "x.max_tokens=512",
    ]
    monkeypatch.setattr(sys, "argv", command)
    record = environment_record(seed=7)
    assert "sk-secret" not in json.dumps(record)
    assert record["command"] == [*command[:3], "judge.api_key=[redacted]", "--hf-token", "[redacted]", command[-1]]
    assert record["seed"] == 7
    harmless = ["tokens_per_microbatch=16384", "model.tokenizer=Qwen/x", "author=me", "--keyboard", "x", "monkey=1"]
    assert redacted_command(harmless) == harmless


def test_changed_versions():
    assert changed_versions({"torch": "1", "trl": "2"}, {"torch": "1", "trl": "3", "vllm": "4"}) == [
        "trl 2 -> 3",
        "vllm absent -> 4",
    ]


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["/venv/bin/reasonrl", "train", "r.yaml", "--restart-stage", "rl", "a=1"], "reasonrl train r.yaml a=1"),
        (["reasonrl", "train", "my recipe.yaml", "--restart-stage=rl"], "reasonrl train 'my recipe.yaml'"),
    ],
)
def test_resume_command(arguments, command):
    assert resume_command(arguments) == command


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.44, "0.4 s"), (12.4, "12 s"), (185, "3 min 5 s"), (3600, "1 h"), (7800, "2 h 10 min"), (273600, "3 d 4 h")],
)
def test_duration(seconds, words):
    assert duration(seconds) == words


def test_progress_tells_the_time_left_from_this_attempt_alone(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    lines: list[str] = []
    progress = LineProgress(lines.append, "[1/2] rl", interval=30)
    for done in range(40, 50):
        clock[0] += 10.0
        progress.report(done, 100, "steps", "waiting for scores")
    assert lines[-1] == "[1/2] rl: 48/100 steps, about 8 min 40 s left in this stage (waiting for scores)"
    assert len(lines) == 3, "one every 30 s"


def test_loading_does_not_count_as_work(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    lines: list[str] = []
    progress = LineProgress(lines.append, "exam", interval=30)
    for at, done in ((0, 0), (150, 0), (152, 1), (190, 200)):
        clock[0] = at
        progress.report(done, 1000, "samples", "")
    assert lines == ["exam: 0/1000 samples", "exam: 200/1000 samples, about 2 min 40 s left in this stage"]
    progress.report(0, 1000, "samples", "")  # a second model
    clock[0] = 221
    progress.report(1, 1000, "samples", "")
    assert "left" in lines[-1]


def test_clock_goes_on_where_it_was(tmp_path):
    path = tmp_path / "clock.json"
    write_json(path, {"cpu_seconds": 100.0, "wall_seconds": 200.0})
    clock = StageClock(path)
    sum(range(300_000))
    assert 100.0 < clock.cpu_seconds() < 105.0
    clock.save()
    assert read_json(path)["wall_seconds"] > 200.0
    path.write_text("torn")
    assert StageClock(path).cpu_seconds() < 5.0


def test_unknown_kind_names_the_known():
    with pytest.raises(RunError, match=r"'pppo' is not available; available: sft, ppo, .*compare.*did you mean 'ppo'"):
        stage_kind("pppo")
    assert callable(stage_module("compare").run)


def test_write_json_leaves_the_old_file_if_the_value_is_no_json(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]
