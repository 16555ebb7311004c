"""What a run's own lengths say of the next step, and that engines heed it without drawing anything else."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch

from reasonrl.models import load_policy
from reasonrl.rollout import Request, SamplingParams, build_engine, sample_seed
from reasonrl.rollout.engine import Expected, Outlook, Stamp, longest_first
from reasonrl.rollout.latency import LatencyCurve
from reasonrl.rollout.length_guide import LengthGuide, Seen
from reasonrl.rollout.lengths import PromptKey
from reasonrl.rollout.servers_lanes import Lanes, dispatch_of

PROMPTS = [PromptKey(f"p{i}", "?" * (1 + i % 5), 4 + i % 5) for i in range(20)]


def step_of(generator: np.random.Generator, spread: float = 0.1, servers: int = 2) -> list[Seen]:
    """Four samples a prompt, of lengths that belong to the prompt but for `spread`, on servers of equal speed."""
    found = []
    for place, prompt in enumerate(PROMPTS):
        for turn in range(4):
            length = 1 + int(math.exp(3 + 0.1 * place + generator.normal(0, spread)))
            stamp = Stamp(str(1 + (place + turn) % servers), 100.0, 100.0 + 0.01 * length)
            found.append(Seen(prompt, length, stamp))
    return found


def requests_for(prompts: list[PromptKey], each: int = 4) -> list[Request]:
    return [
        Request(f"{prompt.id}/{turn}", (7, 8 + place), sample_seed(prompt.id, turn))
        for place, prompt in enumerate(prompts)
        for turn in range(each)
    ]


def expected_by(guide: LengthGuide) -> list[Expected | None]:
    keys = [prompt for prompt in PROMPTS for _ in range(4)]
    return [request.expected for request in guide.expect(requests_for(PROMPTS), keys)]


def taught(steps: int, spread: float = 0.1, seed: int = 0) -> LengthGuide:
    guide, generator = LengthGuide(), np.random.default_rng(seed)
    for _ in range(steps):
        guide.observe(step_of(generator, spread))
    return guide


def test_nothing_is_expected_before_the_predictor_has_been_right():
    guide, generator = LengthGuide(), np.random.default_rng(1)
    assert guide.metrics() == {} and set(expected_by(guide)) == {None}
    guide.observe(step_of(generator, 0.02))
    assert guide.metrics()["lengths/dispatch_on"] == 0 and set(expected_by(guide)) == {None}
    guide.observe(step_of(generator, 0.02))
    # Found good by the second step, followed from the third on.
    assert guide.metrics()["lengths/recall"] > 0.8 and guide.metrics()["lengths/dispatch_on"] == 0
    tokens = [one.tokens for one in expected_by(guide) if one is not None]
    assert len(tokens) == 80 and tokens == sorted(tokens), "the prompts are in the order of their lengths"
    guide.observe(step_of(generator))
    assert guide.metrics()["lengths/dispatch_on"] == 1


def test_lengths_that_belong_to_no_prompt_switch_it_off():
    guide = taught(6, spread=3.0)
    assert guide.metrics()["lengths/recall_average"] < 0.6
    assert guide.metrics()["lengths/dispatch_on"] == 0 and set(expected_by(guide)) == {None}


def test_a_restored_guide_expects_the_same_and_goes_on_the_same():
    guide = taught(4)
    restored = LengthGuide.from_state(json.loads(json.dumps(guide.state())))
    generators = np.random.default_rng(9), np.random.default_rng(9)
    for _ in range(3):
        one, two = expected_by(guide), expected_by(restored)
        assert one == two and None not in one
        keep = requests_for(PROMPTS)
        lanes = [
            dispatch_of([Request(r.id, r.prompt_ids, r.seed, e) for r, e in zip(keep, found, strict=True)], 4, 64)
            for found in (one, two)
        ]
        assert lanes[0] == lanes[1] and lanes[0] is not None and all(lane.calls for lane in lanes[0].lanes)
        guide.observe(step_of(generators[0])), restored.observe(step_of(generators[1]))
    assert guide.state() == restored.state()
    with pytest.raises(ValueError, match="version 7"):
        LengthGuide.from_state({**guide.state(), "version": 7})


def test_the_order_in_which_samples_come_in_does_not_count():
    one, two = LengthGuide(), LengthGuide()
    for seed in range(3):
        step = step_of(np.random.default_rng(seed))
        one.observe(step)
        random.Random(seed).shuffle(step)
        two.observe(step)
    assert one.state() == two.state()


def test_the_curve_comes_from_the_runs_own_stamps_of_several_engines():
    outlooks = [one.outlook for one in expected_by(taught(3)) if one is not None]
    curve = outlooks[0].curve
    assert curve is not None and curve(20) == pytest.approx(0.01, rel=1e-6), "every token took 0.01 s at any batch"
    assert outlooks[0].lengths == tuple(sorted(outlooks[0].lengths)) and len(outlooks[0].lengths) == 80
    alone, generator = LengthGuide(), np.random.default_rng(0)
    for _ in range(3):
        alone.observe(step_of(generator, servers=1))
    assert next(one.outlook.curve for one in expected_by(alone) if one is not None) is None


def with_expected(requests: list[Request], tokens: dict[tuple[int, ...], float], curve=None) -> list[Request]:
    outlook = Outlook(tuple(int(value) for value in tokens.values()), curve)
    return [Request(r.id, r.prompt_ids, r.seed, Expected(tokens[r.prompt_ids], outlook)) for r in requests]


def test_longest_first_keeps_prompts_together_and_leaves_the_unpredicted_alone():
    requests = [Request(str(i), (i % 3,), i) for i in range(9)]
    assert longest_first(requests) == requests
    ordered = longest_first(with_expected(requests, {(0,): 5.0, (1,): 9.0, (2,): 7.0}))
    assert [request.id for request in ordered] == ["1", "4", "7", "2", "5", "8", "0", "3", "6"]
    assert longest_first([*ordered, Request("9", (1,), 0)])[-1].id == "9"


def test_lanes_are_served_from_the_front_and_helped_from_the_end():
    requests = with_expected(
        [Request(str(i), (i // 2,), i) for i in range(8)], {(i,): 10.0 * (4 - i) for i in range(4)}
    )
    dispatch = dispatch_of(requests, 2, 64)
    assert dispatch is not None and dispatch_of(requests, 1, 64) is None
    assert dispatch_of([*requests, Request("9", (1,), 0)], 2, 64) is None
    first, second, third = object(), object(), object()
    lanes = Lanes(dispatch, requests, [first, second], 3)
    assert len(lanes) == 8 and lanes.next_for(first, 3) is None, "it has no room"
    assert [lanes.next_for(first, turn).id for turn in (0, 1)] == ["0", "1"]
    # A server that came later takes the shortest of what is left for the one with most to come.
    assert lanes.next_for(third, 0).prompt_ids == (2,)
    assert [one.id for one in lanes.give_up([first, third])] == ["2", "3", "4"]
    rest = [lanes.next_for(third, 0) for _ in range(len(lanes))]
    assert {one.id for one in rest} == {"6", "7"} and len(lanes) == 0 and lanes.next_for(third, 0) is None
    assert lanes.give_up([]) == []


def test_the_long_tail_gets_a_server_of_its_own_with_a_curve():
    requests = [Request(str(i), (i,), i) for i in range(20)]
    curve = LatencyCurve(((1, 0.010), (64, 0.030)))
    tokens = {(i,): 400.0 if i >= 16 else 20.0 for i in range(20)}
    dispatch = dispatch_of(with_expected(requests, tokens, curve), 2, 64)
    assert dispatch is not None and dispatch.long_engines == 1
    assert sorted(int(call.id) for call in dispatch.lanes[0].calls) == [16, 17, 18, 19]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_expectations_change_the_order_and_not_the_samples(temperature):
    torch.manual_seed(0)
    model, tokenizer = load_policy("tiny:qwen2:hidden_size=64,intermediate_size=64,num_hidden_layers=1")
    engine = build_engine("transformers", model, tokenizer, batch_size=4)
    engine.stop_ids = frozenset(range(0, len(tokenizer), 9))
    requests = [Request(str(i), (*range(20, 24 + i // 4 % 3), 30 + i // 4), sample_seed("s", i)) for i in range(24)]
    params = SamplingParams(max_tokens=32, temperature=temperature)
    plain = list(engine.stream(requests, params))
    lengths: dict[tuple[int, ...], float] = {}
    for sample in plain:
        lengths[sample.request.prompt_ids] = max(len(sample.token_ids), lengths.get(sample.request.prompt_ids, 0))
    guided = list(engine.stream(with_expected(requests, lengths), params))
    of = [{sample.request.id: sample.token_ids for sample in samples} for samples in (plain, guided)]
    assert of[0] == of[1] and len(of[0]) == 24
    assert [s.request.id for s in plain] != [s.request.id for s in guided]
    starts = {sample.request.prompt_ids: sample.stamp.started for sample in guided}
    begun = [lengths[prompt] for prompt in sorted(starts, key=starts.__getitem__)]
    assert begun == sorted(begun, reverse=True), "one batch a prompt, the longest first"
    for sample in plain:
        assert sample.stamp.server == "0" and sample.stamp.started <= sample.stamp.finished
        assert sample.stamp.cached_tokens in (0, len(sample.request.prompt_ids))
    assert sum(sample.stamp.cached_tokens == 0 for sample in guided) == 6, "each prompt was read once"
