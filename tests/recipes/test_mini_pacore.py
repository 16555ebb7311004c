"""The arithmetic of mini/pacore: one cap on every answer, data that last, votes at equal tokens, equal controls."""

from __future__ import annotations

from typing import Any

import pytest

from reasonrl.data_tools.worlds.worksheet import PATTERN, ROOM
from reasonrl.recipe import load_recipe


@pytest.fixture(scope="module")
def stages() -> dict[str, Any]:
    return load_recipe("mini/pacore").recipe.stages


def test_one_cap_holds_wherever_an_answer_is_written(stages):
    """Votes and rounds draw on answers of the same room, and are judged by the world's own last line."""
    for name in ("solo", "synthesis"):
        assert stages[name].max_completion_length == ROOM, name
    for name in ("pool", "trial", "greedy", "cached", "before", "after"):
        assert stages[name].max_tokens == ROOM, name
    assert all(stages[name].reward["args"]["pattern"] == PATTERN for name in ("solo", "synthesis", "cached", "after"))


def test_lessons_are_not_read_twice(stages):
    """A start policy that learnt solutions by heart would err less than the law."""
    for name in ("drill", "start", "warmup"):
        one = stages[name]
        assert one.max_steps * one.per_device_train_batch_size <= one.data.n, name


def test_votes_rounds_and_controls(stages):
    """Before and after are examined alike; each vote has its answers; a control changes the messages of [8] alone."""
    before, after, cached = stages["before"], stages["after"], stages["cached"]
    assert max(before.majority) <= cached.n
    assert {name: list(run.rounds) for name, run in before.runs.items()} == {"[4]": [4], "[8]": [8], "[8,2]": [8, 2]}
    assert {name: after.runs[name] for name in before.runs} == before.runs
    assert {name for name, run in after.runs.items() if run.control} == {"no messages", "foreign", "erased", "reversed"}
    assert all(list(run.rounds) == [8] and run.first == "cached" for run in after.runs.values() if run.control)
    # A vote at equal tokens has as many answers as the calls of the rounds: 5, 9 and 11.
    assert {sum(run.rounds) + 1 for run in before.runs.values()} <= set(before.majority)


def test_synthesis_and_its_control_train_on_equally_many_samples(stages):
    """As many episodes as the training takes, each of messages that the pool has, and plain RL of that length."""
    pool, episodes, training = stages["pool"], stages["episodes"], stages["synthesis"]
    draws = training.max_steps * training.prompts_per_step
    assert episodes.steps * episodes.prompts_per_step == draws
    fewest, most = map(int, episodes.messages.split(".."))
    assert (fewest, most) == (4, 8) and most <= pool.n and episodes.least == pool.n
    plain = load_recipe("mini/pacore", arm="plain").recipe.stages["synthesis"]
    assert plain.max_steps * plain.prompts_per_step == draws and plain.num_generations == training.num_generations
    assert plain.max_completion_length == training.max_completion_length
    assert load_recipe("mini/pacore", arm="plain").recipe.stages["cached"].model.stage == "synthesis"
