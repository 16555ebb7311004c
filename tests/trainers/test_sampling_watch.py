"""The watch on what is drawn: an engine that stops taking weights in mid-run ends the run, with numbers."""

from __future__ import annotations

import pytest
import torch
from helpers import make_run, ragged_engine
from peft import LoraConfig, get_peft_model

from reasonrl.errors import ModelError
from reasonrl.models import load_policy
from reasonrl.rollout import build_engine
from reasonrl.rollout.transfer import hand_over
from reasonrl.trainers.sampling_watch import NAME, SamplingWatch

STEPS = {"advantage": "group", "max_steps": 6, "max_completion_length": 8}


def copying(run, deaf_after: int | None):
    """The run's engine draws by a copy of the policy; after `deaf_after` transfers it takes no more, unsaid."""
    engine = build_engine("transformers", run.policy, run.trainer.processing_class, own_copy=True)
    engine.stop_ids = ragged_engine(run.policy, run.trainer.processing_class).stop_ids
    take, seen = engine.sync_weights, []

    def sync(weights, version):
        given = list(weights)
        seen.append(version)
        take(given if deaf_after is None or len(seen) <= deaf_after else iter(()), version)

    engine.sync_weights = sync
    run.trainer.engine = run.trainer.drawing.engine = engine
    return engine


def test_an_engine_that_stops_taking_weights_ends_the_run(tmp_path):
    run = make_run(tmp_path, **STEPS)
    copying(run, deaf_after=2)
    with pytest.raises(ModelError, match=r"step 3: the trainer gives the drawn.*= [0-9.e-]+ nats.*allowed is 0.001"):
        run.trainer.train()
    # Steps 1 and 2 drew by the policy's own weights; step 3 is the first that did not.
    assert [line["step"] for line in run.metrics] == [1, 2] and all(line[NAME] < 1e-5 for line in run.metrics)


def test_an_engine_that_takes_them_runs_on_and_says_how_much_went_over(tmp_path):
    run = make_run(tmp_path, **STEPS)
    copying(run, deaf_after=None)
    run.trainer.train()
    size = sum(p.numel() * p.element_size() for p in run.policy.parameters()) / 2**20
    assert len(run.metrics) == 6 and all(line[NAME] < 1e-5 for line in run.metrics)
    assert all(line["rollout/sync_mb"] == size and 0 < line["time/sync"] < line["time/step"] for line in run.metrics)


def test_a_limit_of_ones_own(tmp_path):
    run = make_run(tmp_path, max_logprob_gap=1e3, **STEPS)
    copying(run, deaf_after=0)
    run.trainer.train()
    drift = [line[NAME] for line in run.metrics]
    assert drift[0] < 1e-5 and drift[1] > 1e-3 and drift[5] > drift[1]


def test_the_limit_follows_the_precision(tmp_path):
    policy, tokenizer = load_policy("tiny:qwen2")
    engine = build_engine("transformers", policy, tokenizer)
    assert SamplingWatch(policy, engine, None).limit == 1e-3
    assert SamplingWatch(policy, engine, None, half=True).limit == 0.1
    assert SamplingWatch(policy, engine, 0.02, half=True).limit == 0.02
    assert SamplingWatch(policy, engine, None, corrected=True).limit == float("inf")
    assert SamplingWatch(policy, engine, 0.02, corrected=True).limit == 0.02
    engine.max_logprob_gap = 0.1  # an engine in half precision under a policy in float32
    assert SamplingWatch(policy, engine, None).limit == 0.1
    del engine.max_logprob_gap
    tuned = get_peft_model(policy, LoraConfig(r=2, lora_dropout=0.1, target_modules=["q_proj"]))
    assert SamplingWatch(tuned, engine, None).limit == 0.1
    assert SamplingWatch(load_policy("tiny:qwen2", dtype=torch.bfloat16)[0], engine, None).limit == 0.1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.00101])
def test_what_is_no_number_is_no_agreement(value):
    policy, tokenizer = load_policy("tiny:qwen2")
    watch = SamplingWatch(policy, build_engine("transformers", policy, tokenizer), None)
    watch.check({NAME: 0.00099}, 1)
    watch.check({}, 1)
    with pytest.raises(ModelError, match="step 7"):
        watch.check({NAME: value}, 7)


def test_an_engine_over_the_policy_itself_is_given_nothing():
    policy, tokenizer = load_policy("tiny:qwen2")
    engine = build_engine("transformers", policy, tokenizer)
    moved = hand_over(engine, policy, 5)
    assert moved.bytes == 0 and engine.weight_version == 5
    tuned = get_peft_model(policy, LoraConfig(r=2, target_modules=["q_proj"]))
    assert hand_over(engine, tuned, 6).bytes == 0 and engine.weight_version == 6
    copy = build_engine("transformers", tuned, tokenizer, own_copy=True)
    assert hand_over(copy, tuned, 1).bytes == sum(t.numel() * 4 for n, t in tuned.named_parameters() if "lora" not in n)
