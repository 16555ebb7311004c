"""A process reward model in PPO: its scores stand on the tokens that steps end with, and go into the returns."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from helpers import movement_gap, process_reward
from test_ppo_advantages import run_oracle, some, train

from reasonrl.data_tools.prompts import prompt_ids
from reasonrl.prm import scoring
from reasonrl.prm import token_rewards as module
from reasonrl.prm.steps import Step
from reasonrl.recipe.process_reward import process_reward_problems

SETTINGS = {"max_completion_length": 12, "gamma": 0.97, "lam": 0.9, "actor_steps": 2, "max_steps": 2}


def plain_script():
    path = Path(__file__).parents[1] / "oracles" / "process_reward.py"
    spec = importlib.util.spec_from_file_location("process_reward_oracle", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def trained(tmp_path, form="score", **changes):
    reward = process_reward(torch.float64, weight=0.3, form=form, offset=0.4)
    run, seen = train(tmp_path, rewards=[some, reward], **{**SETTINGS, **changes})
    return run, [batch for batch, _ in seen], reward


def expected(run, batches, reward):
    """Token rewards of every rollout batch by the plain script, from the responses' ids alone."""
    script, tokenizer = plain_script(), reward.tokenizer
    for step, batch in enumerate(batches, start=1):
        rows = []
        for sequence, length, sample in zip(batch.sequences, batch.prompt_lengths, run.samples[step], strict=True):
            drawn = sequence[length:].tolist()
            text = tokenizer.decode(drawn, skip_special_tokens=True)
            ends = [min(end, len(text)) for end in range(3, len(text) + 3, 3)]
            asked = [{"role": "user", "content": "?" * sample["prompt"].count("?")}]
            prompt = prompt_ids(tokenizer, asked)
            with torch.no_grad():
                scores = script.scores_of(
                    reward.model.backbone, reward.model.head.weight[0], tokenizer, prompt, text, ends
                )
            rows.append(script.token_rewards(scores, tokenizer, drawn, ends, reward.form, 0.4, 0.3))
        yield rows


def gap(run, batches, reward):
    policy, critic = run_oracle(run, batches, expected(run, batches, reward))[:2]
    gaps = [movement_gap(run.start, run.policy.state_dict(), policy)]
    if run.critic is not None:
        gaps.append(movement_gap(run.critic_start, run.critic.state_dict(), critic))
    return max(gaps)


@pytest.mark.parametrize(
    "settings",
    [{}, {"form": "change"}, {"advantage": "reinforce_pp", "gamma": 0.9, "lam": 1.0}],
    ids=["score", "change", "reinforce_pp"],
)
def test_the_trainer_walks_the_oracles_path(tmp_path, settings):
    run, batches, reward = trained(tmp_path, **settings)
    assert gap(run, batches, reward) <= 1e-9
    line = run.metrics[-1]
    assert line["process_reward/steps"] > 1.5 and line["process_reward/unplaced_fraction"] == 0
    assert line["process_reward/unread_steps_fraction"] == 0 and 0 < line["process_reward/score"] < 1
    assert line["process_reward/sum"] == pytest.approx(line["token_reward"])
    without, _ = train(tmp_path / "without", **{**SETTINGS, **{k: v for k, v in settings.items() if k != "form"}})
    assert movement_gap(run.start, without.policy.state_dict(), run.policy.state_dict()) > 1e-3


def one_token_late(monkeypatch):
    original = module.token_ends
    monkeypatch.setattr(module, "token_ends", lambda *given: [max(0, end - 1) for end in original(*given)])


def without_offset(monkeypatch):
    original = module.ProcessReward.of_steps
    monkeypatch.setattr(module.ProcessReward, "of_steps", lambda self, s: [r + 0.12 for r in original(self, s)])


def a_step_ahead(monkeypatch):
    """Each step gets the score of the one after it."""
    original = module.ProcessReward.of_steps
    monkeypatch.setattr(
        module.ProcessReward, "of_steps", lambda self, scores: original(self, [*scores[1:], *scores[-1:]])
    )


@pytest.mark.parametrize("fault", [one_token_late, without_offset, a_step_ahead])
def test_a_planted_fault_is_caught(tmp_path, monkeypatch, fault):
    fault(monkeypatch)
    assert gap(*trained(tmp_path)) > 1e-4


def test_packed_and_padded_rewards_are_the_same(tmp_path, monkeypatch):
    packed, _, reward = trained(tmp_path / "packed", tokens_per_microbatch=60)
    assert reward._ready().packed
    monkeypatch.setattr(scoring, "packing_obstacle", lambda *given, **more: "asked for by the test")
    padded, _, other = trained(tmp_path / "padded", padding_free=False, tokens_per_microbatch=100_000)
    assert not other._ready().packed
    assert movement_gap(packed.start, padded.policy.state_dict(), packed.policy.state_dict()) <= 1e-9


@pytest.mark.slow
def test_steps_are_rewarded_as_samples_come(tmp_path):
    streamed, _, _ = trained(tmp_path / "alone", normalize_advantages=False, actor_steps=1)
    early, _, _ = trained(
        tmp_path / "early",
        normalize_advantages=False,
        actor_steps=1,
        train_while_generating=True,
        tokens_per_microbatch=60,
    )
    assert movement_gap(streamed.start, early.policy.state_dict(), streamed.policy.state_dict()) <= 1e-6


def test_rewards_of_steps():
    def of(scores, **options):
        return process_reward(weight=2.0, offset=0.5, **options).of_steps(scores)

    assert of([0.75, 0.25, None, 1.0]) == [0.5, -0.5, None, 1.0]
    assert of([0.75, 0.25, None, 1.0], form="change") == [0.5, -1.0, None, 1.5]
    assert of([0.75, 0.25, None, 1.0], clip=0.125) == [0.25, -0.25, None, 0.25]
    assert of([0.75, 0.25, None, 1.0], average=True) == [0.125, -0.125, None, 0.25]


def test_where_rewards_stand_among_tokens_that_no_tokenizer_would_give():
    reward = process_reward()
    tokenizer = reward.tokenizer
    ids = [*tokenizer("ab é")["input_ids"], *tokenizer("\nü")["input_ids"], tokenizer.eos_token_id]
    text = tokenizer.decode(ids, skip_special_tokens=True)
    reward.segmenter = lambda given: [Step(0, 4), Step(4, 6)]
    [row] = reward(prompts=["?"], completions=[text], completion_ids=[ids])
    where = [place for place, value in enumerate(row) if value]
    assert where == [4, 7] and len(ids) == 9 and text == "ab é\nü"
    reward.segmenter = lambda given: [Step(0, len(given))] if given else []
    assert reward(prompts=["?"], completions=["other"], completion_ids=[ids]) == [[0.0] * 9]
    assert reward(prompts=["?"], completions=[""], completion_ids=[[tokenizer.eos_token_id]]) == [[0.0]]
    figures = reward.take_figures()
    assert figures["process_reward/unplaced_fraction"] == (1, 2) and not reward.take_figures()
    short = process_reward(max_length=40)
    [row] = short(prompts=["?"], completions=["abc" * 40], completion_ids=[tokenizer("abc" * 40)["input_ids"]])
    assert 0 < sum(map(bool, row)) < 40 and not any(row[60:])
    total, count = short.take_figures()["process_reward/unread_steps_fraction"]
    assert count == 40 and total == 40 - sum(map(bool, row))


@pytest.mark.parametrize(("advantage", "refused"), [("group", True), ("rloo", True), ("gae", False)])
def test_what_adds_a_responses_rewards_up_refuses_it(advantage, refused):
    found = [*process_reward_problems({"advantage": advantage, "process_reward": {"model": "x"}})]
    assert bool(found) is refused and not [*process_reward_problems({"advantage": advantage})]
    assert not refused or "reinforce_pp_baseline" in found[0].fix
