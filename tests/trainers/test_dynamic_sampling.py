"""Dynamic sampling: which groups are kept, what is trained on, and what becomes of a step that finds none."""

from __future__ import annotations

import math

import pytest
import torch
from helpers import TINY, Run, make_run, movement_gap

from reasonrl.algorithms.groups import varies
from reasonrl.errors import ModelError
from reasonrl.models import ScalarHeadModel, load_policy, tiny_path

NAN = math.nan


class Picky:
    """Prompts of kind 0 score the same graded number for every sample; of kind 2, some samples cannot be scored. Keeps
    the tokens it has seen, prompt by prompt.
    """

    def __init__(self):
        self.__name__ = "picky"
        self.tokens: dict[str, list[list[int]]] = {}

    def __call__(self, completions, completion_ids, id, **columns):
        for ids, name in zip(completion_ids, id, strict=True):
            self.tokens.setdefault(name, []).append(list(ids))
        return [score_of(name, ids) for ids, name in zip(completion_ids, id, strict=True)]


def score_of(name: str, ids: list[int]) -> float | None:
    kind = int(name) % 4
    return 0.5 if kind == 0 else None if kind == 2 and ids[0] % 2 else float(sum(ids) % 2)


def by_prompt(rows, size=3) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in rows:
        found.setdefault(row["id"], []).append(row)
    assert all(len(group) == size for group in found.values())
    return found


def differs(rows) -> bool:
    there = [row["reward"] for row in rows if row["reward"] is not None]
    return len(there) > 1 and max(there) != min(there)


def sampling_run(tmp_path, reward, **settings) -> Run:
    base = {
        "rows": 23,
        "dtype": torch.float64,
        "prompts_per_step": 6,
        "num_generations": 3,
        "dynamic_sampling": True,
        "max_steps": 1,
        "max_grad_norm": 0.0,
        "normalize_advantages": False,
        "tokens_per_microbatch": 90,
    }
    return make_run(tmp_path, rewards=[reward], **{**base, **settings})


def seeds_of(run: Run) -> list[int]:
    """The seeds of all samples that the run will draw."""
    seeds, stream = [], run.trainer.engine.stream

    def watched(requests, params):
        seeds.extend(request.seed for request in requests)
        return stream(requests, params)

    run.trainer.engine.stream = watched
    return seeds


def test_scores_vary_or_not():
    for scores, verdict in [
        ([0, 1], True),
        ([1, 1, 1], False),
        ([0.5, 0.5], False),  # by the mean it would count: neither 0 nor 1
        ([1, NAN], False),
        ([1, NAN, 0], True),
        ([NAN, NAN], False),
        ([0.1 + 0.2, 0.3], False),
        ([100.0, 100.00001], False),
        ([-1.0, -1.01], True),
        ([], False),
    ]:
        assert varies(scores) is verdict, scores


@pytest.mark.parametrize("advantage", ["group", "gae"])
def test_the_first_groups_that_vary_are_kept_and_others_leave_no_trace(tmp_path, advantage):
    """A plain script that is given the kept groups alone ends with the same weights."""
    reward = Picky()
    run = sampling_run(tmp_path, reward, advantage=advantage, dynamic_sampling_max_rounds=1, optim="sgd")
    seeds = seeds_of(run)
    run.trainer.train()
    line, groups = run.metrics[0], by_prompt(run.samples[1])

    # A round of six prompts, then one of as many as were missing.
    stream = [str(index) for index in run.trainer.prompt_stream(23).places(0, 23)]
    missing = 6 - sum(differs(groups[name]) for name in stream[:6])
    drawn = stream[: 6 + missing]
    assert 0 < missing < 6 and set(groups) == set(drawn)
    kept = [name for name in drawn if differs(groups[name])]
    assert 6 - missing < len(kept) < 6, "a group is found in the second round, and the cap is reached"
    for name in drawn:
        assert [row["dropped"] for row in groups[name]] == [name not in kept] * 3
    assert len(set(seeds)) == len(seeds) == 3 * len(drawn)
    assert line["dynamic_sampling/rounds"] == 1
    assert line["dynamic_sampling/dropped_groups"] == len(drawn) - len(kept)
    assert line["dynamic_sampling/kept_fraction"] == pytest.approx(len(kept) / len(drawn))
    assert line["dynamic_sampling/missing_groups"] == 6 - len(kept)
    # Figures of the step are of all that was drawn, not of what was kept.
    scores = [row["reward"] for row in run.samples[1] if row["reward"] is not None]
    assert line["reward"] == pytest.approx(sum(scores) / len(scores))
    assert line["frac_reward_zero_std"] == pytest.approx(1 - len(kept) / len(drawn))
    assert line["samples"] == 3 * len(drawn) and line["unscored"] == 3 * len(drawn) - len(scores)

    plain = plain_step(run, {name: reward.tokens[name] for name in kept}, advantage)
    assert movement_gap(run.start, run.policy.state_dict(), plain) <= 1e-6
    # The same with a dropped group in it goes elsewhere: the comparison can tell.
    dropped = next(name for name in drawn if name not in kept)
    wrong = plain_step(run, {name: reward.tokens[name] for name in [*kept, dropped]}, advantage)
    assert movement_gap(run.start, run.policy.state_dict(), wrong) > 1e-2


def plain_step(run: Run, tokens: dict[str, list[list[int]]], advantage: str) -> dict[str, torch.Tensor]:
    """One step down the gradient of whole groups, written without anything of the trainer's."""
    policy, tokenizer = load_policy(TINY, dtype=torch.float64)
    policy.load_state_dict(run.start)
    critic = ScalarHeadModel.from_pretrained(tiny_path(TINY), dtype=torch.float64, seed=3)
    loss, count = torch.zeros((), dtype=torch.float64), 0
    for name, group in tokens.items():
        text = tokenizer.apply_chat_template([{"role": "user", "content": "?" * (1 + int(name))}], tokenize=False)
        prompt = tokenizer(text)["input_ids"]
        scores = [score_of(name, ids) for ids in group]
        there = [score for score in scores if score is not None]
        mean = sum(there) / len(there)
        deviation = (sum((score - mean) ** 2 for score in there) / (len(there) - 1)) ** 0.5
        for score, ids in zip(scores, group, strict=True):
            if score is None:
                continue
            sequence = torch.tensor([[*prompt, *ids]])
            logprobs = policy(input_ids=sequence).logits[0].log_softmax(-1)
            with torch.no_grad():
                values = critic(input_ids=sequence)[0]
            for turn, token in enumerate(ids, len(prompt)):
                gain = (score - mean) / (deviation + 1e-4) if advantage == "group" else score - values[turn - 1]
                loss = loss - gain * logprobs[turn - 1, token]
                count += 1
    (loss / count).backward()
    torch.optim.SGD(policy.parameters(), lr=1e-3).step()
    return policy.state_dict()


def test_a_full_batch_is_never_drawn_further(tmp_path):
    run = sampling_run(tmp_path, lambda completion_ids, **_: [float(sum(ids)) for ids in completion_ids], max_steps=2)
    run.trainer.train()
    assert [line["dynamic_sampling/rounds"] for line in run.metrics] == [0, 0]
    assert [line["dynamic_sampling/kept_fraction"] for line in run.metrics] == [1, 1]
    stream = run.trainer.prompt_stream(23)
    for step in (0, 1):
        assert [int(row["id"]) for row in run.samples[step + 1]] == stream.batch(step)


@pytest.mark.parametrize("advantage", ["group", "gae"])
def test_a_step_without_any_group_that_varies_changes_nothing_and_says_so(tmp_path, advantage):
    run = sampling_run(
        tmp_path,
        lambda completion_ids, **_: [0.25] * len(completion_ids),
        advantage=advantage,
        dynamic_sampling_max_rounds=2,
        max_steps=3,
        prompts_per_step=2,
        weight_decay=0.1,
    )
    run.trainer.train()
    assert max(run.moved().values()) == 0
    if run.critic is not None:
        assert all(torch.equal(now, run.critic_start[name]) for name, now in run.critic.state_dict().items())
    for line in run.metrics:
        assert line["dynamic_sampling/rounds"] == 2 and line["dynamic_sampling/dropped_groups"] == 6
        assert line["dynamic_sampling/kept_fraction"] == 0 and line["dynamic_sampling/missing_groups"] == 2
        assert line["reward"] == 0.25 and "policy_loss" not in line and "grad_norm" not in line
    assert [line.get("alarm/equal_groups") for line in run.metrics] == [None, None, 1]


def test_a_resumed_run_goes_on_behind_the_prompts_that_were_used(tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "prompts_per_step": 3}
    whole = sampling_run(tmp_path / "whole", Picky(), **settings)
    whole.trainer.train()
    assert len({line["dynamic_sampling/dropped_groups"] for line in whole.metrics}) > 1
    resumed = sampling_run(tmp_path / "resumed", Picky(), **settings)
    resumed.trainer.train(tmp_path / "whole" / "checkpoint-2")
    ids = {step: [row["id"] for row in rows] for step, rows in whole.samples.items()}
    assert {step: [row["id"] for row in rows] for step, rows in resumed.samples.items()} == {3: ids[3], 4: ids[4]}
    now = resumed.policy.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in whole.policy.state_dict().items())
    # Step by step the stream is used up: no prompt is passed over.
    used, stream = 0, whole.trainer.prompt_stream(23)
    for step in sorted(ids):
        prompts = len(ids[step]) // 3
        assert sorted(map(int, ids[step])) == sorted(3 * stream.places(used, prompts))
        used += prompts


def test_what_cannot_be_had_with_it_is_refused(tmp_path):
    for settings, message in [
        ({"num_generations": 1}, "num_generations is 1, but dynamic_sampling"),
        ({"max_staleness": 1, "own_copy": True}, "cannot be had with max_staleness: 1"),
        ({"train_while_generating": True}, "cannot be had with train_while_generating"),
        ({"dynamic_sampling_max_rounds": -1}, "dynamic_sampling_max_rounds is -1"),
        ({"dynamic_sampling": False, "dynamic_sampling_max_rounds": 3}, "but dynamic_sampling is off"),
        ({"stop_on": ["ratoi"]}, "'ratoi', which is no alarm"),
    ]:
        with pytest.raises(ValueError, match=message):
            sampling_run(tmp_path, Picky(), **settings)

    def of_tokens(completion_ids, **columns):
        return [[0.0] * len(ids) for ids in completion_ids]

    of_tokens.token_level = True
    with pytest.raises(ModelError, match="rewards of tokens only"):
        sampling_run(tmp_path, of_tokens)
