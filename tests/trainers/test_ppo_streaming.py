"""Training while samples come: the plain trainer's path whatever the arrival order, and nobody favoured."""

from __future__ import annotations

import random

import pytest
import torch
from helpers import even_share, make_run, movement_gap
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from reasonrl.errors import ModelError
from reasonrl.rewards import get_reward
from reasonrl.rewards.pool import close_shared_pools, shared_pool
from reasonrl.rollout.engine import Sample
from reasonrl.rollout.length_bias import length_bias
from reasonrl.trainers import loss_terms, streaming
from reasonrl.trainers.ppo_config import PPOConfig

STREAMED = {
    "train_while_generating": True,
    "normalize_advantages": False,
    "prompts_per_step": 4,
    "num_generations": 4,
    "max_steps": 3,
    "learning_rate": 3e-3,
    "critic_learning_rate": 1e-2,
    "critic_steps": 2,
    "tokens_per_microbatch": 90,
    "max_grad_norm": 0.5,
}
PLAIN = {**STREAMED, "train_while_generating": False}


@pytest.fixture
def whole_float64(monkeypatch):
    """The model's norm rounds to float32 whatever the model's type: gradients of other scale then round otherwise."""

    def norm(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(Qwen2RMSNorm, "forward", norm)


def with_order(run, order):
    """Samples come in another order than the engine's."""
    stream = run.trainer.engine.stream

    def reordered(requests, params):
        yield from order(list(stream(requests, params)))

    run.trainer.engine.stream = reordered
    return run


def backwards(samples):
    return samples[::-1]


def at_random(samples):
    return random.Random(len(samples)).sample(samples, len(samples))


def some(completions, completion_ids, log_metric=None, log_extra=None, **columns):
    """Scores of which a few are missing, so that neither all tokens nor all responses count."""
    scores = even_share(completions, completion_ids)
    if log_extra is not None:
        log_extra("verdict", ["correct" if score > 0.5 else "wrong" for score in scores])
        log_metric("mean_length", sum(map(len, completion_ids)) / len(completions))
    return [None if ids[0] % 7 == 0 else score for ids, score in zip(completion_ids, scores, strict=True)]


def ramp(completions, completion_ids, finish_reason, **columns):
    """A reward of tokens that depends on how the sample ended."""
    slopes = [0.02 if reason == "stop" else 0.01 for reason in finish_reason]
    return [[slope * place for place in range(len(ids))] for slope, ids in zip(slopes, completion_ids, strict=True)]


ramp.token_level = True


def walked(tmp_path, settings, rewards=(some,), order=None):
    run = make_run(tmp_path, rewards=list(rewards), dtype=torch.float64, **settings)
    if order is not None:
        with_order(run, order)
    run.trainer.train()
    return run


def gaps(run, plain):
    """Of the policy and of the critic, relative to how far they moved."""
    of_critic = 0.0
    if plain.critic is not None:
        of_critic = movement_gap(plain.critic_start, run.critic.state_dict(), plain.critic.state_dict())
    return movement_gap(plain.start, run.policy.state_dict(), plain.policy.state_dict()), of_critic


@pytest.mark.parametrize(
    "settings",
    [
        {"advantage": "gae", "lam": 0.9, "gamma": 0.97, "critic_warmup_steps": 1},
        {"advantage": "gae", "beta": 0.1, "loss_type": "grpo"},
        {"advantage": "gae", "vllm_importance_sampling_correction": True, "vllm_importance_sampling_clip_max": 1.0},
        {"advantage": "group", "loss_type": "dr_grpo"},
        {"advantage": "group", "tokens_per_microbatch": 100_000},
        {"advantage": "rloo", "loss_type": "dapo", "gradient_checkpointing": True},
        {"ratio": "none", "token_ratio_band": [1.0, 2.0], "positive_weight": 0.1, "entropy_coef": 0.01},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "beta": 0.1, "kl_in": "loss"},
    ],
    ids=["critic", "kl", "importance", "group", "all at the end", "rloo", "bands", "kl in loss"],
)
def test_the_path_is_the_plain_trainers(tmp_path, whole_float64, settings):
    rewards = (some, ramp) if settings.get("advantage", "gae") == "gae" else (some,)
    plain = walked(tmp_path / "plain", {**PLAIN, **settings}, rewards)
    assert max(plain.moved().values()) > 0
    assert any(sample["reward"] is None for rows in plain.samples.values() for sample in rows)
    for line in plain.metrics if "token_ratio_band" in settings else ():
        assert 0.1 < line["sampling/kept_token_fraction"] < 0.9
    for order in (None, backwards, at_random):
        run = walked(tmp_path / "streamed", {**STREAMED, **settings}, rewards, order)
        policy_gap, critic_gap = gaps(run, plain)
        assert policy_gap <= 1e-9 and critic_gap <= 1e-9
        says_the_same(run, plain)


def says_the_same(run, plain):
    for ours, theirs in zip(run.metrics, plain.metrics, strict=True):
        assert set(ours) == set(theirs)
        for name, value in theirs.items():
            # How samples are packed differs by nature; the engine's log-probabilities are float32.
            if not name.startswith(("time/", "rate/", "memory/", "padding", "sampling/", "rollout/")):
                assert ours[name] == pytest.approx(value, rel=1e-6, abs=1e-9), name
    for step, rows in plain.samples.items():
        columns = ("id", "text", "reward", "verdict", "finish_reason")
        assert [[row[name] for name in columns] for row in run.samples[step]] == [
            [row[name] for name in columns] for row in rows
        ]
        assert [row["advantage"] for row in run.samples[step]] == pytest.approx([row["advantage"] for row in rows])


def count_so_far(monkeypatch):
    """Each micro-batch weighs by the number of tokens that have come, as if there were no others."""
    weigh, seen = loss_terms.token_weights, []

    def weights(mask, **settings):
        seen.append(float(mask.sum()))
        return weigh(mask, **{**settings, "total_tokens": sum(seen)})

    monkeypatch.setattr(loss_terms, "token_weights", weights)
    monkeypatch.setattr(streaming, "counted_by", lambda *counts: 1.0)


def no_rescaling(monkeypatch):
    monkeypatch.setattr(streaming, "counted_by", lambda *counts: 1.0)


def count_of_samples(monkeypatch):
    """Samples that could not be scored are counted."""
    original = streaming.StreamedStep.finish

    def finish(self, batch, targets):
        object.__setattr__(targets, "mask", batch.mask)
        return original(self, batch, targets)

    monkeypatch.setattr(streaming.StreamedStep, "finish", finish)


def lost_unit(monkeypatch):
    """The gradient of what stood in the first micro-batch is lost."""
    original = streaming.StreamedStep._add_gradient

    def add(self, batch, targets):
        original(self, batch, targets)
        if len(self._parts) == 1:
            self.policy.zero_grad()

    monkeypatch.setattr(streaming.StreamedStep, "_add_gradient", add)


@pytest.mark.parametrize("fault", [count_so_far, no_rescaling, count_of_samples, lost_unit])
def test_a_planted_fault_is_caught(tmp_path, whole_float64, monkeypatch, fault):
    # Without clipping: a fault that only scales the gradient must show.
    settings = {"advantage": "gae", "max_grad_norm": 0.0, "adam_epsilon": 1e-2}
    plain = walked(tmp_path / "plain", {**PLAIN, **settings})
    assert gaps(walked(tmp_path / "right", {**STREAMED, **settings}), plain)[0] <= 1e-9
    fault(monkeypatch)
    assert gaps(walked(tmp_path / "wrong", {**STREAMED, **settings}), plain)[0] > 1e-3


def test_gradients_are_there_before_the_last_sample(tmp_path):
    run = make_run(tmp_path, **{**STREAMED, "max_steps": 1})
    stream, with_gradient = run.trainer.engine.stream, []

    def watched(requests, params):
        for sample in stream(requests, params):
            training = run.policy.training
            yield sample
            assert run.policy.training == training, "the engine's mode is put back"
            assert not torch.is_inference_mode_enabled()
            gradients = [p.grad for p in run.policy.parameters() if p.grad is not None]
            with_gradient.append(any(bool(gradient.any()) for gradient in gradients))

    run.trainer.engine.stream = watched
    run.trainer.train()
    assert not with_gradient[0] and with_gradient[len(with_gradient) // 2]
    assert run.metrics[0]["time/actor"] > 0 and run.metrics[0]["time/generate"] >= 0


class Noting:
    """A reward that notes what it is asked, and what it was handed early."""

    def __init__(self):
        self.__name__ = "noting"
        self.begun, self.calls = [], []

    def begin(self, prompt, completion, row):
        assert set(row) >= {"id", "answer", "finish_reason", "completion_ids"} and "prompt" not in row
        self.begun.append((prompt[0]["content"], completion[0]["content"], tuple(row["completion_ids"])))

    def __call__(self, prompts, completions, completion_ids, **columns):
        asked = [
            (p[0]["content"], c[0]["content"], tuple(i))
            for p, c, i in zip(prompts, completions, completion_ids, strict=True)
        ]
        assert not set(asked) - set(self.begun), "each sample was handed over before it is asked about"
        self.calls.append(asked)
        return even_share(completions, completion_ids)


def test_every_sample_is_handed_over_once_as_it_ends(tmp_path):
    reward = Noting()
    run = make_run(
        tmp_path,
        rewards=[reward],
        eval_rows=3,
        num_generations_eval=2,
        eval_strategy="steps",
        eval_steps=1,
        max_steps=1,
    )
    stream, known = run.trainer.engine.stream, []

    def watched(requests, params):
        for place, sample in enumerate(stream(requests, params)):
            yield sample
            known.append(len(reward.begun) - sum(map(len, reward.calls)) - place)

    run.trainer.engine.stream = watched
    run.trainer.train()
    assert set(known) == {1}, "before the next sample is drawn"
    assert [len(call) for call in reward.calls] == [8, 6] and len(reward.begun) == 14


def test_a_run_is_the_same_without_beginning_early(tmp_path):
    def run_with(name, early):
        spec = [{"name": "math", "args": {"workers": 1}}, {"name": "stop", "weight": 0.5}]
        run = make_run(
            tmp_path / name, rewards=[get_reward(spec)], eval_rows=3, eval_strategy="steps", eval_steps=1, max_steps=2
        )
        if not early:
            run.trainer.early = streaming.EarlyRewards([])
        close_shared_pools()
        run.trainer.train()
        return run, shared_pool(1).counters()

    early, graded = run_with("early", True)
    late, graded_late = run_with("late", False)
    close_shared_pools()
    assert graded.items == graded_late.items and graded.cache_hits > graded_late.cache_hits
    columns = ("id", "text", "reward", "verdict", "extracted", "advantage")
    for step, rows in late.samples.items():
        assert [[row[name] for name in columns] for row in early.samples[step]] == [
            [row[name] for name in columns] for row in rows
        ]
    assert all(
        torch.equal(tensor, early.policy.state_dict()[name]) for name, tensor in late.policy.state_dict().items()
    )
    judged = [[line[name] for line in run.metrics for name in sorted(line) if "eval/" in name] for run in (early, late)]
    assert judged[0] == judged[1] and judged[0]


def test_groups_are_scored_whole_and_each_sample_once(tmp_path):
    reward = Noting()
    run = make_run(tmp_path, rewards=[reward], **{**STREAMED, "advantage": "group", "max_steps": 1})
    with_order(run, at_random).trainer.train()
    assert len(reward.calls) > 1
    prompts = [[prompt for prompt, _, _ in call] for call in reward.calls]
    assert all(call.count(prompt) == 4 for call in prompts for prompt in call)
    assert sum(map(len, reward.calls)) == 16 == len(reward.begun)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"normalize_advantages": True}, "normalize_advantages is true.*-> set normalize_advantages: false"),
        ({"actor_steps": 2}, "actor_steps = 2 and num_iterations = 1.*-> 1 and 1"),
        ({"num_iterations": 2}, "num_iterations = 2"),
        ({"max_staleness": 1}, "max_staleness = 1.*-> max_staleness = 0"),
    ],
)
def test_what_cannot_be_exact_is_refused(tmp_path, settings, says):
    with pytest.raises(ValueError, match=says):
        make_run(tmp_path, **{**STREAMED, "prompts_per_step": 4, **settings})


def test_groups_over_two_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(PPOConfig, "world_size", property(lambda self: 2))
    with pytest.raises(ValueError, match=r"6 samples on each of 2 processes.*a group would lie on two"):
        make_run(tmp_path, **{**STREAMED, "advantage": "group", "prompts_per_step": 3})


def test_rewards_that_want_the_batch_are_refused(tmp_path):
    async def later(completions, **columns):
        return [0.0] * len(completions)

    def ranked(completions, **columns):
        return [float(place) for place in range(len(completions))]

    ranked.whole_batch = True
    with pytest.raises(ModelError, match="later is a coroutine"):
        make_run(tmp_path, rewards=[later], **STREAMED)
    with pytest.raises(ModelError, match="ranked compares the samples of a batch"):
        make_run(tmp_path, rewards=[ranked], **STREAMED)
    inside = {"name": "gate", "args": {"parts": ["stop", {"name": ranked}]}}
    for reward in (
        get_reward(ranked),
        get_reward([{"name": "math"}, inside]),
    ):
        with pytest.raises(ModelError, match="compares the samples of a batch"):
            make_run(tmp_path, rewards=[reward], **STREAMED)


class Stragglers:
    """Asks no model: a tenth of the samples are long and come last. A length depends on its request's seed alone."""

    def __init__(self, tokenizer):
        self.tokens = tokenizer.encode("0123456789")
        self.version = 0

    @staticmethod
    def length(seed):
        draw = random.Random(seed)
        return draw.randint(16, 24) if draw.random() < 0.1 else draw.randint(1, 8)

    def stream(self, requests, params):
        for request in sorted(requests, key=lambda one: self.length(one.seed)):
            draw, count = random.Random(request.seed), self.length(request.seed)
            ids = tuple(draw.choice(self.tokens) for _ in range(count))
            yield Sample(request, ids, "x" * count, (0.0,) * count, "stop", self.version)

    def sync_weights(self, weights, version):
        self.version = version

    def close(self):
        pass


def trained_lengths(tmp_path, while_generating):
    """Response lengths of all samples that gave a gradient, in 10 steps of 500."""
    settings = {"advantage": "rloo", "prompts_per_step": 250, "num_generations": 2, "max_steps": 10, "top_p": 0.99}
    settings |= {"max_completion_length": 24, "tokens_per_microbatch": 2048, "learning_rate": 1e-5}
    run = make_run(tmp_path, train_while_generating=while_generating, **settings)
    engine = Stragglers(run.trainer.processing_class)
    run.trainer.engine = run.trainer.drawing.engine = engine
    trained, original = [], run.trainer.update.policy_micro_batch

    def note(model, batch, targets, micro, weights):
        trained.extend(int((weights.policy[row] > 0).sum()) for row in micro.rows)
        return original(model, batch, targets, micro, weights)

    run.trainer.update.policy_micro_batch = note
    run.trainer.train()
    return trained


def requested_lengths():
    """As many as are trained on, drawn by themselves: a batch compared with itself would say nothing."""
    return [Stragglers.length(seed) for seed in range(5000)]


@pytest.mark.parametrize("while_generating", [True, False])
def test_trained_samples_are_as_long_as_requested_ones(tmp_path, while_generating):
    trained = trained_lengths(tmp_path, while_generating)
    assert len(trained) == 5000
    found = length_bias(requested_lengths(), trained)
    assert found.passes, found


def test_the_first_to_arrive_are_not_as_long(tmp_path, monkeypatch):
    """The control: training on the first nine tenths of each step fails the same test."""
    original = streaming.StreamedStep._add_gradient

    def first_nine_tenths(self, batch, targets):
        if sum(len(places) for places, _, _ in self._parts) <= 0.9 * len(self.rows):
            original(self, batch, targets)

    monkeypatch.setattr(streaming.StreamedStep, "_add_gradient", first_nine_tenths)
    trained = trained_lengths(tmp_path, True)
    assert 0.7 * 5000 < len(trained) <= 0.9 * 5000  # whole micro-batches are left out
    found = length_bias(requested_lengths(), trained)
    assert not found.passes and found.mean_ratio < 0.95, found
