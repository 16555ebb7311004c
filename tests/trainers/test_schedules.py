"""Values that change during PPO: what each step used, mixes, plateaus, and a stop in the middle of it all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import torch
from helpers import make_run
from pydantic import ValidationError

from reasonrl.errors import ModelError
from reasonrl.observe import is_time_field, read_metrics
from reasonrl.recipe.ppo_stage import PPOStage
from reasonrl.recipe.schedules import Schedules as Given
from reasonrl.trainers.sampler import MixedStream
from reasonrl.trainers.schedules import Scheduled

SCHEDULES = {
    "max_completion_length": {
        "values": [6, 9, 12],
        "plateau": {"metric": "completions/mean_length", "window": 1, "rise": 10.0},
    },
    "temperature": {"values": [1.0, 0.5], "at": [0, 4], "between": "linear"},
    "learning_rate": {"values": [1e-3, 1e-4], "at": [2]},
    "critic_learning_rate": {"values": [1e-3, 4e-3], "at": [3]},
    "data": {"column": "answer", "weights": [{"0": 1, "1": 1}, {"2": 3, "3": 1}], "at": [2]},
}


def plain(schedules):
    return Given.model_validate(schedules).model_dump()


def timeless(lines):
    return [{name: value for name, value in line.items() if not is_time_field(name)} for line in lines]


def test_every_step_uses_its_values_and_a_stop_changes_nothing(tmp_path):
    settings = {"max_steps": 5, "schedules": plain(SCHEDULES), "lr_scheduler_type": "linear", "actor_steps": 2}
    whole = make_run(tmp_path / "whole", **settings)
    drawn, original = [], whole.trainer.engine.stream

    def seen(requests, params):
        drawn.append((params.max_tokens, params.temperature))
        return original(requests, params)

    whole.trainer.engine.stream = seen
    whole.trainer.train()
    lines = whole.metrics
    # The length grows by a rule that always holds, one step after two steps have been seen.
    assert [line["schedule/max_completion_length"] for line in lines] == [6, 6, 9, 9, 12]
    assert drawn == [(6, 1.0), (6, 0.875), (9, 0.75), (9, 0.625), (12, 0.5)]
    assert [line["completions/max_length"] <= line["schedule/max_completion_length"] for line in lines] == [True] * 5
    assert lines[4]["completions/max_length"] > 9 or lines[3]["completions/max_length"] > 6
    linear = [1.0, 0.8, 0.6, 0.4, 0.2]
    assert [line["learning_rate"] for line in lines] == pytest.approx(
        [rate * share for rate, share in zip([1e-3, 1e-3, 1e-4, 1e-4, 1e-4], linear, strict=True)]
    )
    assert [line["critic_learning_rate"] for line in lines] == pytest.approx(
        [rate * share for rate, share in zip([1e-3] * 3 + [4e-3] * 2, linear, strict=True)]
    )
    asked = [Counter(row["id"] for row in whole.samples[step]) for step in range(1, 6)]
    assert [sorted(step) for step in asked] == [["0", "1"]] * 2 + [["2", "3"]] * 3
    assert [step["2"] / 2 for step in asked[2:]] == [3, 3, 3] and lines[4]["schedule/mix_2"] == 0.75
    # What the log says is agreed with the engine only if both use one temperature.
    assert max(line["sampling/logprob_difference"] for line in lines) < 1e-5

    saving = {"save_strategy": "steps", "save_steps": 3, **settings}
    first = make_run(tmp_path / "parts", stop=lambda: len(first.metrics) == 3, **saving)
    first.trainer.train()
    second = make_run(tmp_path / "parts", **saving)
    second.trainer.train(resume_from_checkpoint=True)
    assert timeless([*first.metrics, *second.metrics]) == timeless(lines)
    now = second.policy.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in whole.policy.state_dict().items())


def test_a_plateau_is_seen_where_the_figure_no_longer_rises():
    one = Scheduled({"values": [1, 2, 3], "plateau": {"metric": "x", "window": 3, "rise": 0.1}})
    series = [1, 2, 3, 4, 5, 6, 6.1, 6.2, 6.1, 6.2, 6.0, 6.1, 9, 9, 9, 1, 1, 1, 1]
    for step, value in enumerate(series):
        one.observe(step, {"x": value})
    # 5.4 against 3 rises; (6.1+6.2+6.1) against (4+5+6) rises by 23 %; (6.2+6.1+6.2) by 8.2 % against (5+6+6.1).
    # After the change it looks at what came since: (9+9+1) against (6+6.1+9).
    assert one.switches == [10, 16]
    assert [one.at_step(step) for step in (0, 9, 10, 15, 16, 99)] == [1, 1, 2, 2, 3, 3]
    with pytest.raises(ModelError, match=r"there is no figure 'x' -> plateau\.metric is one of y"):
        Scheduled({"values": [1, 2], "plateau": {"metric": "x", "window": 1, "rise": 0}}).observe(0, {"y": 1})


def test_a_mix_meets_small_shares_over_steps_and_uses_every_row_in_turn():
    labels = ["a"] * 30 + ["b"] * 10 + ["c"] * 5
    settings = {"prompts_per_step": 4, "num_generations": 2, "steps": 40, "seed": 3}
    stream = MixedStream(labels, [{"a": 9, "b": 1}, {"b": 1, "c": 1}], [20], **settings)
    counts = [Counter(labels[place] for place in stream.batch(step)[::2]) for step in range(40)]
    assert sum((step for step in counts[:20]), Counter()) == {"a": 72, "b": 8}
    assert all(abs(step["b"] - 0.4) <= 0.6 for step in counts[:20]) and counts[20:] == [{"b": 2, "c": 2}] * 20
    places = [place for step in range(20) for place in stream.batch(step)[::2] if labels[place] == "a"]
    assert len(places) == 72 and set(Counter(places).values()) == {2, 3} and places[:30] != places[30:60]
    # Asked in another order, and walked through, it is the same stream.
    again = MixedStream(labels, [{"a": 9, "b": 1}, {"b": 1, "c": 1}], [20], **settings)
    assert again.batch(33) == stream.batch(33) and list(again) == [p for step in range(40) for p in stream.batch(step)]
    assert stream.batch(7)[0::2] == stream.batch(7)[1::2] and len(list(again)) == len(again)
    with pytest.raises(ModelError, match=r"no row is of the kind 'd' -> kinds: a, b, c"):
        MixedStream(labels, [{"d": 1}], [], **settings)


def test_what_schedules_cannot_be_is_said():
    def problems(schedules, **stage):
        given = {"kind": "ppo", "model": "m", "data": {"world": "arithmetic", "n": 4}, "reward": "math"}
        given |= {"prompts_per_step": 4, "max_completion_length": 32, "max_steps": 9, "schedules": schedules, **stage}
        with pytest.raises(ValidationError) as caught:
            PPOStage.model_validate(given)
        return str(caught.value)

    lengths = {"max_completion_length": {"values": [16, 64], "at": [3]}}
    assert "go up to 64, above max_completion_length = 32" in problems(lengths)
    assert "exactly one says when" in problems({"temperature": {"values": [1, 0.5]}})
    assert "has 2 steps for 2 values" in problems({"temperature": {"values": [1, 0.5], "at": [1, 2]}})
    assert "is [3, 2]" in problems({"temperature": {"values": [1, 0.5, 1], "at": [3, 2]}})
    assert "is [] for 2 phases" in problems({"data": {"weights": [{"a": 1}, {"b": 1}]}})
    both = {"data": {"weights": [{"a": 1}]}}
    assert "both choose prompts" in problems(both, dynamic_sampling=True, num_generations=2, advantage="group")


RECIPE = """
recipe: kill
model: tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1
stages:
  rl:
    kind: ppo
    data: {world: arithmetic, n: 20, args: {operations: [1, 2]}}
    reward: math
    prompts_per_step: 4
    num_generations: 2
    max_completion_length: 24
    max_steps: 10
    save_steps: 3
    learning_rate: 1.0e-3
    critic_learning_rate: 1.0e-3
    track_behaviours: 8
    schedules:
      max_completion_length: {values: [8, 16, 24], plateau: {window: 2, rise: 9.0}}
      learning_rate: {values: [1.0e-3, 1.0e-4], at: [2, 8], between: linear}
"""


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_a_killed_run_goes_on_with_its_schedules(tmp_path):
    """Killed by SIGKILL after step 7, with a checkpoint after step 6 and a change of length after step 4."""
    command, ends, going = [sys.executable, "-m", "reasonrl", "train", "--if-needed", "recipe.yaml"], {}, {}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text(RECIPE)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        going[name] = subprocess.Popen(command, cwd=tmp_path / name, **quiet)
    lines = tmp_path / "killed" / "runs" / "kill" / "stages" / "rl" / "metrics.jsonl"
    while not lines.exists() or lines.read_bytes().count(b"\n") < 7:
        assert going["killed"].poll() is None, "it ended before it was killed"
        time.sleep(0.01)
    os.kill(going["killed"].pid, signal.SIGKILL)
    going["killed"].wait()
    subprocess.run(command, cwd=tmp_path / "killed", check=True, capture_output=True)
    assert going["whole"].wait() == 0
    for name in ("whole", "killed"):
        stage = tmp_path / name / "runs" / "kill" / "stages" / "rl"
        weights = (stage / "model" / "model.safetensors").read_bytes()
        ends[name] = timeless(read_metrics(stage / "metrics.jsonl")), weights
    assert ends["killed"] == ends["whole"]
    lines = ends["whole"][0]
    assert [line["schedule/max_completion_length"] for line in lines] == [8] * 4 + [16] * 4 + [24] * 2
    assert {"behaviour/backtracking", "behaviour/visual_reflection"} <= lines[0].keys()
