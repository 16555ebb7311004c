"""A batch over servers that fail in every way that a script can make them: it comes out as over sound ones, or ends in
one error that names the server, within the stated time.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from servers_help import (
    PARAMS,
    QUICK,
    check,
    checkpoint,
    engine_over,
    fakes,
    fingerprint,
    free_port,
    requests_of,
    start_fake,
    wait_for,
)

from reasonrl.errors import ModelError
from reasonrl.rollout import Request, RolloutEngine, SamplingParams, build_engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def weights(folder):
    return fingerprint(folder)


@pytest.fixture(scope="module")
def pair(folder):
    with fakes(folder, 2, "--token-seconds", "0.001") as found:
        yield found


@pytest.fixture
def engine(pair):
    for fake in pair:
        fake.script(faults=[])
    engine = engine_over(pair)
    yield engine
    engine.close()


def test_sound_servers_give_every_sample_once_and_share_the_work(engine, pair, weights):
    requests = requests_of(64)
    samples = list(engine.stream(requests, PARAMS))
    check(samples, requests, weights)
    assert isinstance(engine, RolloutEngine)
    figures = engine.metrics()
    assert figures["servers/up"] == 2
    assert figures["servers/1/samples"] == figures["servers/2/samples"] == 32
    assert figures["servers/1/open"] == figures["servers/2/outstanding_tokens"] == 0
    prompts = [{tuple(seen["prompt"]) for seen in fake.script()["seen"]} for fake in pair]
    assert not prompts[0] & prompts[1], "16 prompts over two servers: none has to be on both"


def test_samples_come_as_they_end(engine):
    unfinished = []
    for _ in engine.stream(requests_of(40), PARAMS):
        figures = engine.metrics()
        unfinished.append(figures["servers/1/open"] + figures["servers/2/open"])
    assert unfinished[0] > 20 and unfinished[-1] == 0


# Every fault, and how often it may come before the sample is drawn.
FAULTS = ("500", "reset", "stall", "drip", "cut json", "html", "abort", "error event", "uneven", "short")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_in_a_sample_drawn_again(engine, pair, weights, fault):
    pair[0].script(faults=[fault, "", fault])
    requests = requests_of(24)
    start = time.monotonic()
    samples = list(engine.stream(requests, PARAMS))
    seconds = time.monotonic() - start
    check(samples, requests, weights)
    figures = engine.metrics()
    assert figures["servers/1/failures"] == 2 and figures["servers/1/retries"] == 2
    assert figures["servers/2/failures"] == 0
    assert seconds < 2 * QUICK.request, "one deadline, and the sample itself"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_always_fails_alone_ends_in_one_error_that_names_it(folder, fault):
    with fakes(folder, 1) as only:
        limits = QUICK.__class__(**{**vars(QUICK), "retries": 1})
        engine = engine_over(only, limits)
        only[0].script(faults=[fault] * 50)
        start = time.monotonic()
        try:
            with pytest.raises(ModelError, match=r"request 'r\d' failed 2 times, at last on server 1") as caught:
                list(engine.stream(requests_of(4), PARAMS))
        finally:
            engine.close()
        assert only[0].url in str(caught.value)
        assert time.monotonic() - start < 3 * QUICK.request, "two deadlines and a pause"


def test_what_the_server_refuses_ends_at_once_with_its_words(engine, pair):
    pair[0].script(faults=["400"] * 20)
    pair[1].script(faults=["400"] * 20)
    with pytest.raises(ModelError, match=r"refuses the request: .*seed must be even"):
        list(engine.stream(requests_of(4), PARAMS))
    pair[0].script(faults=[]), pair[1].script(faults=[])
    assert len(list(engine.stream(requests_of(4), PARAMS))) == 4, "the engine goes on"


def test_numbers_that_are_none_name_the_token(engine, pair):
    for fake in pair:
        fake.script(faults=["nan"] * 20)
    with pytest.raises(ModelError, match=r"logits for response token \d+ are not a number"):
        list(engine.stream(requests_of(4), PARAMS))


def test_a_wrong_model_name_says_what_is_served(pair, folder):
    with pytest.raises(ModelError, match=r"http://127.0.0.1:\d+ serves 'policy', not 'llama'.*served_model"):
        engine_over(pair, served_model="llama")
    with fakes(folder, 1, "--served-model-name", "other") as others:
        both = [*pair, *others]
        with pytest.raises(ModelError, match=rf"{others[0].url} serves 'other', not 'policy'"):
            engine_over(both, served_model="policy")
        with pytest.raises(ModelError, match=rf"server 3 \({others[0].url}\) serves 'other' -> all have to"):
            engine_over(both)


def test_a_server_that_serves_another_model_meanwhile(folder, weights):
    with fakes(folder, 1) as only:
        engine = engine_over(only)
        os.killpg(only[0].process.pid, signal.SIGKILL)
        only[0].process.wait()
        other = start_fake(folder, "--served-model-name", "other", port=only[0].port)
        try:
            wait_for(other)
            with pytest.raises(ModelError, match=rf"{only[0].url} serves 'other', not 'policy'"):
                list(engine.stream(requests_of(4), PARAMS))
        finally:
            engine.close()
            os.killpg(other.process.pid, signal.SIGKILL)
            other.process.wait()


def test_a_key_is_needed_and_kept_secret(folder, monkeypatch):
    with fakes(folder, 1, VLLM_API_KEY="open-sesame-42") as only:
        with pytest.raises(ModelError, match=r"status 401.*rollout.api_key_env"):
            engine_over(only)
        with pytest.raises(ModelError, match="MY_KEY is not set"):
            engine_over(only, api_key_env="MY_KEY")
        monkeypatch.setenv("MY_KEY", "open-sesame-42")
        engine = engine_over(only, api_key_env="MY_KEY")
        assert len(list(engine.stream(requests_of(4), PARAMS))) == 4
        assert "open-sesame" not in str(engine.health())
        engine.close()


def test_different_versions_of_vllm_are_refused(pair, folder):
    with fakes(folder, 1, "--version", "0.30.0") as older:
        all_three = [*pair, *older]
        with pytest.raises(ModelError, match=r"runs 0.31.0.*runs 0.30.0 -> use one version"):
            engine_over(all_three)


def test_logprobs_of_another_distribution_are_refused(folder):
    with (
        fakes(folder, 1, "--raw") as raw,
        pytest.raises(ModelError, match=rf"{raw[0].url} gives log-probabilities of temperature 1.*processed_logprobs"),
    ):
        engine_over(raw)


def test_nobody_there(folder, pair):
    fake = pair[0].__class__(pair[0].process, free_port(), folder)
    start = time.monotonic()
    with pytest.raises(ModelError, match=rf"{fake.url}\) does not answer: no connection.*rollout.urls"):
        engine_over([pair[0], fake])
    assert time.monotonic() - start < QUICK.probe * QUICK.probes + 8


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_server_lost_in_the_middle_costs_no_sample(folder, weights, how):
    requests = requests_of(96)
    with fakes(folder, 2, "--token-seconds", "0.02") as found:
        engine = engine_over(found)
        samples, start = [], time.monotonic()
        for sample in engine.stream(requests, PARAMS):
            samples.append(sample)
            if len(samples) == 10:
                found[0].process.send_signal(how)
        seconds = time.monotonic() - start
        check(samples, requests, weights)
        figures = engine.metrics()
        assert figures["servers/up"] == 1 and figures["servers/1/up"] == 0
        assert figures["servers/1/retries"] >= 10 and figures["servers/2/retries"] == 0
        assert engine.health()[0]["why_out"]
        assert seconds < 2 * 41 * 0.02 + QUICK.stall + 3
        engine.close()


def test_it_comes_back_when_it_is_started_again(folder, weights):
    with fakes(folder, 2) as found:
        engine = engine_over(found)
        os.killpg(found[0].process.pid, signal.SIGKILL)
        found[0].process.wait()
        requests = requests_of(24)
        check(list(engine.stream(requests, PARAMS)), requests, weights)
        assert engine.metrics()["servers/up"] == 1
        again = start_fake(folder, port=found[0].port)
        try:
            until = time.monotonic() + 15
            while engine.metrics()["servers/up"] < 2:
                assert time.monotonic() < until, engine.health()
                time.sleep(0.05)
            before = engine.metrics()["servers/1/samples"]
            check(list(engine.stream(requests, PARAMS)), requests, weights)
            assert engine.metrics()["servers/1/samples"] > before
        finally:
            engine.close()
            os.killpg(again.process.pid, signal.SIGKILL)
            again.process.wait()


def test_no_server_at_all_ends_after_the_stated_time(folder):
    with fakes(folder, 1) as only:
        engine = engine_over(only)
        os.killpg(only[0].process.pid, signal.SIGKILL)
        only[0].process.wait()
        start = time.monotonic()
        with pytest.raises(ModelError, match=rf"recovery_timeout=6 s: .*{only[0].url}.*no connection"):
            list(engine.stream(requests_of(4), PARAMS))
        assert 5 < time.monotonic() - start < QUICK.recovery + 8
        engine.close()


def test_a_reader_that_stops_early_ends_the_rest(folder):
    with fakes(folder, 2, "--token-seconds", "0.05") as found:
        engine = engine_over(found)
        stream = engine.stream(requests_of(40), PARAMS)
        next(stream)
        with pytest.raises(ModelError, match="already drawing"):
            next(engine.stream(requests_of(2), PARAMS))
        stream.close()
        until = time.monotonic() + 3
        while engine.metrics()["servers/1/open"] + engine.metrics()["servers/2/open"]:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert len(list(engine.stream(requests_of(4), PARAMS))) == 4
        engine.close()
        with pytest.raises(ModelError, match="closed -> build a new one"):
            list(engine.stream(requests_of(1), PARAMS))


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ((), PARAMS, "request 'x' has an empty prompt"),
        ((5,) * 500, SamplingParams(13), r"needs 500 \+ 13 tokens.*hold 512"),
        ((5,), SamplingParams(4, temperature=0.001), r"temperature = 0.001"),
    ],
)
def test_what_vllm_would_change_or_cut_is_refused(engine, prompt, params, message):
    with pytest.raises(ModelError, match=message):
        list(engine.stream([Request("x", prompt, 1)], params))


def test_images_are_refused_before_anything_is_sent(engine, pair):
    from PIL import Image

    before = sum(len(fake.script()["seen"]) for fake in pair)
    with pytest.raises(ModelError, match=r"'x' has 1 images, but the engine has no processor -> build it"):
        list(engine.stream([Request("x", (5, 6), 1, images=(Image.new("RGB", (8, 8)),))], PARAMS))
    assert sum(len(fake.script()["seen"]) for fake in pair) == before


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
def test_every_64_bit_seed_reaches_the_server_as_a_signed_one(engine, pair, seed):
    list(engine.stream([Request("0", (5, 6, 9), seed)], PARAMS))
    seen = [entry["seed"] for fake in pair for entry in fake.script()["seen"] if entry["prompt"] == [5, 6, 9]]
    assert seen[-1] == seed & (2**63 - 1)


def test_settings_that_cannot_be(folder, pair):
    from reasonrl.models.tiny import build_tokenizer

    tokenizer = build_tokenizer()
    with pytest.raises(ModelError, match="urls or start, and not both"):
        build_engine("servers", None, tokenizer, path=str(folder))
    with pytest.raises(ValueError, match="a model or a path"):
        build_engine("servers", None, tokenizer, urls=[pair[0].url])
