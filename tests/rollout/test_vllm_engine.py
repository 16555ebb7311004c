"""vLLM in process, really run (on CPU): what it draws, when samples leave it, what it refuses and leaves behind."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from reasonrl.errors import ModelError
from reasonrl.rollout import Request, RolloutEngine, SamplingParams, build_engine
from reasonrl.rollout.transformers_engine import TransformersEngine

pytest.importorskip("vllm", reason="vLLM is not installed (docs/rollout.md, vLLM on CPU)", exc_type=ImportError)
sys.path.insert(0, str(Path(__file__).parent))
from vllm_help import check_texts_end_samples, requests_of, small_policy, worst_gap


@pytest.fixture(scope="module")
def loaded():
    return small_policy(tied=True)


@pytest.fixture(scope="module")
def engine(loaded):
    engine = build_engine("vllm", *loaded, max_model_len=512)
    yield engine
    engine.close()


def by_id(samples):
    return {sample.request.id: sample for sample in samples}


@pytest.mark.parametrize(
    "params",
    [SamplingParams(24), SamplingParams(24, temperature=0.6), SamplingParams(24, 1.3, top_p=0.7), SamplingParams(8, 0)],
    ids=["plain", "cool", "nucleus", "greedy"],
)
def test_logprobs_are_those_of_the_distribution_that_was_drawn_from(engine, loaded, params):
    samples = list(engine.stream(requests_of(8), params))
    assert worst_gap(loaded[0], samples, params) < 1e-4
    other = SamplingParams(24, temperature=0.9)
    assert params.temperature == 0 or worst_gap(loaded[0], samples, other) > 1e-2


def test_every_request_gives_one_sample_with_its_text_and_reason(engine, loaded):
    tokenizer, requests = loaded[1], requests_of(48)
    samples = list(engine.stream(requests, SamplingParams(96)))
    assert sorted(int(sample.request.id) for sample in samples) == list(range(48))
    assert {sample.finish_reason for sample in samples} == {"stop", "length"}
    for sample in samples:
        stopped = sample.token_ids[-1] in engine.stop_ids
        assert sample.finish_reason == ("stop" if stopped else "length")
        assert not engine.stop_ids & set(sample.token_ids[:-1])
        assert stopped or len(sample.token_ids) == 96
        assert len(sample.logprobs_sampled) == len(sample.token_ids)
        assert sample.text == tokenizer.decode(list(sample.token_ids), skip_special_tokens=True)
        assert sample.request is requests[int(sample.request.id)] and sample.weight_version == 0


def test_texts_end_samples(engine, loaded):
    check_texts_end_samples(engine, loaded[1])


def test_a_sample_depends_on_its_seed_alone(engine):
    requests, params = requests_of(10), SamplingParams(16)
    together = by_id(engine.stream(requests, params))
    alone = by_id(sample for request in requests[::3] for sample in engine.stream([request], params))
    assert all(alone[name].token_ids == together[name].token_ids for name in alone)
    others = by_id(engine.stream(requests_of(10, seed="other"), params))
    assert all(others[name].token_ids != together[name].token_ids for name in together)


@pytest.mark.parametrize("seed", [0, 2**63 - 1, 2**63, 2**64 - 1])
def test_every_64_bit_seed_is_taken(engine, seed):
    request = Request("0", (5, 6, 7), seed)
    first, again = (next(iter(engine.stream([request], SamplingParams(8)))) for _ in range(2))
    assert first.token_ids == again.token_ids


def test_greedy_equals_the_transformers_engine(engine, loaded):
    requests, params = requests_of(12), SamplingParams(32, temperature=0)
    ours = by_id(TransformersEngine(*loaded).stream(requests, params))
    theirs = by_id(engine.stream(requests, params))
    assert [theirs[name].token_ids for name in ours] == [ours[name].token_ids for name in ours]
    assert [theirs[name].finish_reason for name in ours] == [ours[name].finish_reason for name in ours]


def test_prompts_that_do_not_fit_into_one_step(engine, loaded):
    requests, params = requests_of(60, length=300), SamplingParams(6)
    assert (
        sum(len(r.prompt_ids) for r in requests[::2]) > engine._vllm.vllm_config.scheduler_config.max_num_batched_tokens
    )
    samples = list(engine.stream(requests, params))
    assert len(samples) == 60 and worst_gap(loaded[0], samples, params) < 1e-4


def test_end_tokens_of_the_generation_config_end_a_sample(loaded):
    model, tokenizer = loaded
    before = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, 40, 41, 42]
    engine = build_engine("vllm", model, tokenizer, max_model_len=512)
    try:
        samples = list(engine.stream(requests_of(40), SamplingParams(64)))
    finally:
        engine.close()
        model.generation_config.eos_token_id = before
    ends = {sample.token_ids[-1] for sample in samples if sample.finish_reason == "stop"}
    assert ends > {tokenizer.eos_token_id} and ends <= engine.stop_ids
    assert not any(engine.stop_ids & set(sample.token_ids[:-1]) for sample in samples)


def test_a_sample_leaves_while_others_are_still_drawn(engine):
    requests, params = requests_of(48), SamplingParams(96)
    unfinished, lengths = [], []
    for sample in engine.stream(requests, params):
        unfinished.append(engine._vllm.get_num_unfinished_requests())
        lengths.append(len(sample.token_ids))
    assert lengths == sorted(lengths), "all were drawn together, so the shortest leaves first"
    assert lengths[0] < 48 and unfinished[0] >= 40 and unfinished[-1] == 0


def test_a_reader_that_stops_early_ends_the_rest(engine):
    stream = engine.stream(requests_of(20), SamplingParams(64))
    next(stream)
    with pytest.raises(ModelError, match="already drawing"):
        next(engine.stream(requests_of(2), SamplingParams(4)))
    stream.close()
    assert engine._vllm.get_num_unfinished_requests() == 0
    assert len(list(engine.stream(requests_of(3), SamplingParams(4)))) == 3


@pytest.mark.parametrize(
    ("request_ids", "params", "message"),
    [
        ((), SamplingParams(4), "request 'x' has an empty prompt"),
        ((5,) * 500, SamplingParams(13), r"needs 500 \+ 13 tokens.*holds 512 -> raise rollout.max_model_len"),
        ((5,), SamplingParams(4, temperature=0.001), r"temperature = 0.001.* 0 \(greedy\) or from 0.01 to 2.0"),
        ((5,), SamplingParams(4, temperature=2.5), "temperature = 2.5"),
    ],
)
def test_what_vllm_would_change_or_cut_is_refused(engine, request_ids, params, message):
    with pytest.raises(ModelError, match=message):
        list(engine.stream([Request("x", request_ids, 1)], params))
    assert engine._vllm.get_num_unfinished_requests() == 0


def test_weights_that_are_no_numbers_are_named(loaded):
    model, tokenizer = small_policy(tied=False)
    engine = build_engine("vllm", model, tokenizer, max_model_len=256, max_logprob_gap=float("inf"))
    try:
        with torch.no_grad():
            model.model.norm.weight.fill_(float("nan"))
        with pytest.raises(ModelError, match="response token 1 are not a number"):
            list(engine.stream(requests_of(2), SamplingParams(4)))
    finally:
        engine.close()


def test_the_process_is_left_as_it_was(loaded):
    random.seed(5), np.random.seed(6), torch.manual_seed(7)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), torch.set_num_threads)
    environment = {name for name in sys.modules["os"].environ if "MULTIPROCESSING" in name}
    engine = build_engine("vllm", *loaded, max_model_len=256)
    assert isinstance(engine, RolloutEngine)
    list(engine.stream(requests_of(4), SamplingParams(8)))
    engine.close()
    assert random.getstate() == before[0] and np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2]) and torch.set_num_threads is before[3]
    assert torch.get_default_dtype() is torch.float32
    assert {name for name in sys.modules["os"].environ if "MULTIPROCESSING" in name} == environment
    with pytest.raises(ModelError, match="closed -> build a new one"):
        list(engine.stream(requests_of(1), SamplingParams(1)))
    engine.close()


def test_a_checkpoint_is_read_by_vllm_itself_in_its_own_dtype(tmp_path, loaded):
    model, tokenizer = small_policy(tied=False, seed=3)
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    engine = build_engine("vllm", None, tokenizer, path=str(tmp_path), max_model_len=256, batch_size=4)
    try:
        params = SamplingParams(16)
        samples = list(engine.stream(requests_of(10), params))
        assert worst_gap(model, samples, params) < 1e-4, "float32, where vLLM alone would take bfloat16"
        assert engine.stop_ids == {tokenizer.eos_token_id}
    finally:
        engine.close()


def test_refused_settings_name_the_key(loaded):
    with pytest.raises(ModelError, match=r"rollout.tensor_parallel_size: is 2"):
        build_engine("vllm", *loaded, tensor_parallel_size=2)
    with pytest.raises(ModelError, match=r"vllm cannot start .*max_model_len=4096"):
        build_engine("vllm", *loaded, max_model_len=4096)
    with pytest.raises(ValueError, match="a model or a path"):
        build_engine("vllm", *loaded, path="somewhere")
