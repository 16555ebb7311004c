"""Length-aware lanes over servers that are processes of their own: who gets what, and what a lost server changes."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from servers_help import PARAMS, check, checkpoint, engine_over, expected, fakes, fingerprint, requests_of

from reasonrl.rollout.engine import Expected, Outlook
from reasonrl.rollout.latency import LatencyCurve
from reasonrl.rollout.servers_prefix import read_counts

CURVE = LatencyCurve(((1, 0.010), (64, 0.016)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture
def pair(folder):
    with fakes(folder, 2, "--token-seconds", "0.002") as found:
        yield found


def predicted(requests, weights, curve=CURVE):
    """The requests with what the fake will draw as their prompts' expected lengths."""
    lengths = {name: len(tokens) for name, tokens in expected(requests, weights).items()}
    of_prompt: dict = {}
    for request in requests:
        of_prompt[request.prompt_ids] = max(of_prompt.get(request.prompt_ids, 0), lengths[request.id])
    outlook = Outlook(tuple(lengths.values()), curve)
    return [dataclasses.replace(r, expected=Expected(float(of_prompt[r.prompt_ids]), outlook)) for r in requests]


def test_the_longest_prompts_have_a_server_of_their_own_and_the_samples_stay_the_same(pair, folder):
    weights = fingerprint(folder)
    requests = requests_of(60, per_prompt=3)
    engine = engine_over(pair)
    try:
        plain = list(engine.stream(requests, PARAMS))
        figures = engine.metrics()
        assert figures["servers/long"] == 0
        # Each prompt of 3 tokens was sent three times to one server, which read it once and its last token always.
        shares = [figures["rate/prefix_hits"], figures["servers/1/prefix_hits"], figures["servers/2/prefix_hits"]]
        assert shares == pytest.approx([4 / 9] * 3)
        before = [len(fake.script()["seen"]) for fake in pair]
        guided = predicted(requests, weights)
        samples = list(engine.stream(guided, PARAMS))
        assert engine.metrics()["servers/long"] == 1
    finally:
        engine.close()
    check(samples, requests, weights)
    assert {s.request.id: s.token_ids for s in samples} == {s.request.id: s.token_ids for s in plain}
    tokens = {request.prompt_ids: request.expected.tokens for request in guided}
    seen = [
        [tuple(one["prompt"]) for one in fake.script()["seen"][skip:]] for fake, skip in zip(pair, before, strict=True)
    ]
    assert not set(seen[0]) & set(seen[1]), "every prompt was read by one server"
    assert min(tokens[prompt] for prompt in seen[0]) >= max(tokens[prompt] for prompt in seen[1])
    assert 12 <= len(seen[0]) < 30, "the longest fifth, rounded up to whole prompts"
    for sample in samples:
        assert sample.stamp.server == str(1 + (sample.request.prompt_ids in seen[1]))
        assert time.time() - 60 < sample.stamp.started <= sample.stamp.finished <= time.time()


def test_counters_of_the_prefix_cache_are_read_as_vllm_writes_them():
    text = """# HELP vllm:prefix_cache_queries_total Prefix cache queries, in terms of number of queried tokens.
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{engine="0",model_name="policy"} 1200.0
vllm:prefix_cache_queries_total{engine="1",model_name="policy"} 1.3e+03
vllm:prefix_cache_queries_created{engine="0",model_name="policy"} 1.76e+09
vllm:prefix_cache_hits_total{engine="0",model_name="policy"} 640.0
vllm:external_prefix_cache_hits_total{engine="0",model_name="policy"} 99.0
"""
    assert read_counts(text) == (640.0, 2500.0)
    assert read_counts("") is None and read_counts(text.replace("cache_hits", "cache_nothing")) is None
    assert read_counts(text.replace("640.0", "NaN")) is None


def test_a_lost_server_is_left_out_of_the_prefix_hits(folder):
    with fakes(folder, 2) as pair:
        engine = engine_over(pair)
        try:
            list(engine.stream(requests_of(24), PARAMS))
            with_both = engine.metrics()
            pair[0].process.kill()
            pair[0].process.wait()
            list(engine.stream(requests_of(24), PARAMS))
            alone = engine.metrics()
        finally:
            engine.close()
    assert with_both["rate/prefix_hits"] == pytest.approx(1 / 2), "3 of 4 calls found 2 of 3 tokens"
    assert "servers/1/prefix_hits" not in alone and alone["servers/2/prefix_hits"] == alone["rate/prefix_hits"]
    # What this one had drawn before is in its cache, what the lost one had drawn is not.
    assert 1 / 2 < alone["rate/prefix_hits"] < 2 / 3


def test_inside_a_server_the_longest_are_sent_first(pair, folder):
    requests = requests_of(48, per_prompt=2)
    guided = predicted(requests, fingerprint(folder), curve=None)
    engine = engine_over(pair, batch_size=3)
    try:
        check(list(engine.stream(guided, PARAMS)), requests, fingerprint(folder))
    finally:
        engine.close()
    tokens = {request.prompt_ids: request.expected.tokens for request in guided}
    for fake in pair:
        sent = [tokens[tuple(one["prompt"])] for one in fake.script()["seen"]]
        half = len(sent) // 2
        assert sum(sent[:half]) / half > sum(sent[half:]) / (len(sent) - half) + 5


def test_a_lost_servers_lane_is_drawn_by_the_other(pair, folder):
    requests = requests_of(60, per_prompt=3)
    engine = engine_over(pair, batch_size=4)
    try:
        samples = []
        for sample in engine.stream(predicted(requests, fingerprint(folder)), PARAMS):
            samples.append(sample)
            if len(samples) == 5:
                pair[0].process.kill()
    finally:
        engine.close()
    check(samples, requests, fingerprint(folder))


def test_a_server_without_work_helps_where_predictions_were_wrong(pair, folder):
    requests = requests_of(40, per_prompt=2)
    # One prompt is said to be as long as all others together: its server is soon without work.
    guided = [
        dataclasses.replace(r, expected=Expected(1000.0 if r.prompt_ids == (5, 6, 7) else 10.0, Outlook((1,))))
        for r in requests
    ]
    engine = engine_over(pair, batch_size=4)
    try:
        samples = list(engine.stream(guided, PARAMS))
    finally:
        engine.close()
    check(samples, requests, fingerprint(folder))
    counts = [sum(sample.stamp.server == name for sample in samples) for name in "12"]
    assert min(counts) > 10, f"{counts}: one of them would have drawn 2 without help"
