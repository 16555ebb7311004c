"""Length-aware dispatch in training: the same samples and updates as without it, its figures in the metrics, and its
state in checkpoints.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from helpers import make_run

from reasonrl.errors import ModelError
from reasonrl.observe import is_time_field
from reasonrl.rollout.stamps import STAMP_COLUMNS
from reasonrl.trainers.run_lengths import LENGTHS_FILE

#: Nearly greedy and hardly trained: how long an answer is belongs to its prompt, so the second epoch can be predicted.
SETTINGS: dict[str, Any] = {
    "temperature": 0.005,
    "learning_rate": 1e-6,
    "critic_learning_rate": 1e-6,
    "max_steps": 6,
    "max_completion_length": 24,
    "num_generations": 2,
    "prompts_per_step": 4,
    "rows": 8,
}


def run_of(folder, length_aware: bool = True, resume: bool = False, **settings):
    """A finished run, and what its engine was asked for, step by step."""
    run = make_run(folder, **{**SETTINGS, "length_aware": length_aware, **settings})
    with torch.no_grad():  # a random model with small layers would repeat its last token
        for name, weight in run.policy.named_parameters():
            weight.mul_(20.0 if ".layers." in name and weight.ndim == 2 else 1.0)
    run.trainer.engine.batch_size = 3
    asked, stream = [], run.trainer.engine.stream

    def recorded(requests, params):
        asked.append([(request, request.expected) for request in requests])
        return stream(requests, params)

    run.trainer.engine.stream = recorded
    run.trainer.train(resume_from_checkpoint=resume)
    return run, asked


def lines(run) -> list[dict]:
    found = [{name: value for name, value in line.items() if not is_time_field(name)} for line in run.metrics]
    return [{name: value if value == value else -99.0 for name, value in line.items()} for line in found]


def drawn(run) -> list[dict]:
    rows = [row for step in sorted(run.samples) for row in run.samples[step]]
    return [{name: value for name, value in row.items() if name not in STAMP_COLUMNS} for row in rows]


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("guided"), save_strategy="steps", save_steps=3)


def test_samples_and_updates_are_those_of_a_run_without_it(guided, tmp_path):
    on, asked = guided
    off, plain = run_of(tmp_path, length_aware=False)
    assert [one is None for step in asked for _, one in step][-8:] == [False] * 8, "it was on at the end"
    assert all(one is None for step in plain for _, one in step)
    assert drawn(on) == drawn(off) and len(drawn(on)) == 48
    assert len({row["length"] for row in drawn(on)}) >= 4
    for ours, theirs in zip(lines(on), lines(off), strict=True):
        shared = {name: value for name, value in ours.items() if not name.startswith("lengths/")}
        assert shared == pytest.approx(theirs, rel=1e-4, abs=1e-6)


def test_the_metrics_say_how_good_predictions_were_and_whether_they_were_followed(guided):
    run, asked = guided
    assert run.metrics[0]["lengths/seen_fraction"] == 0 and run.metrics[0]["lengths/dispatch_on"] == 0
    assert run.metrics[-1]["lengths/seen_fraction"] == 1 and run.metrics[-1]["lengths/recall"] > 0.9
    for line, step in zip(run.metrics, asked, strict=True):
        assert line["lengths/dispatch_on"] == all(one is not None for _, one in step)
    assert run.metrics[-1]["lengths/spearman"] > 0.5
    told = [one for _, one in asked[-1]]
    assert len({one.tokens for one in told}) > 1 and len({one.outlook.lengths for one in told}) == 1
    # The outlook is the step before.
    assert told[0].outlook.lengths == tuple(sorted(row["length"] for row in run.samples[5]))


def test_without_it_nothing_is_logged_or_written(tmp_path):
    run, _ = run_of(tmp_path, length_aware=False, max_steps=1, save_strategy="steps", save_steps=1)
    assert not [name for name in run.metrics[0] if name.startswith("lengths/")]
    assert (tmp_path / "checkpoint-1").is_dir() and not list(tmp_path.rglob(LENGTHS_FILE))


def test_a_resumed_run_asks_for_the_same_in_the_same_order(guided, tmp_path):
    whole, asked = guided
    run_of(tmp_path, max_steps=3, save_strategy="steps", save_steps=3)
    state = json.loads((tmp_path / "checkpoint-3" / LENGTHS_FILE).read_text())
    assert len(state["predictor"]["of_prompt"]) == 8 and len(state["lengths"]) == 8
    resumed, again = run_of(tmp_path, resume=True, save_strategy="steps", save_steps=3)
    assert again == asked[3:] and any(one is not None for step in again for _, one in step)
    # Requests compare without what is expected of them, so that is compared beside them.
    assert lines(resumed) == lines(whole)[3:]


def test_state_of_another_version_is_refused_with_its_file(guided, tmp_path):
    run_of(tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    file = tmp_path / "checkpoint-1" / LENGTHS_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "version": 99}))
    with pytest.raises(ModelError, match=r"lengths\.json cannot be taken over.*99.*-> remove the file"):
        run_of(tmp_path, resume=True, max_steps=2)
    file.unlink()
    resumed, _ = run_of(tmp_path, resume=True, max_steps=2)
    assert [line["step"] for line in resumed.metrics] == [2]


def test_completions_say_where_and_when(guided):
    run, _ = guided
    for step, rows in run.samples.items():
        for row in rows:
            assert row["step"] == step and row["server"] == "0" and row["prompt_tokens"] > 0
            assert row["started"] <= row["finished"]
    ends = [max(row["finished"] for row in run.samples[step]) for step in sorted(run.samples)]
    starts = [min(row["started"] for row in run.samples[step]) for step in sorted(run.samples)]
    # Two samples a prompt, read once where both are in one batch of three.
    assert all(0 < line["rate/prefix_hits"] <= 1 / 2 for line in run.metrics)
    assert all(end < start for end, start in zip(ends, starts[1:], strict=False))
