"""The transformers engine against `model.generate`, teacher forcing, and itself under other batchings."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import torch

from reasonrl.errors import ModelError
from reasonrl.models import load_policy
from reasonrl.rollout import Request, RolloutEngine, SamplingParams, build_engine, sample_seed
from reasonrl.rollout.transformers_engine import TransformersEngine, stop_token_ids

TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1"


def load(seed=0):
    """A model whose weights are large enough that its text wanders, and which stops every few tokens."""
    model, tokenizer = load_policy(TINY)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(60, 80)]
    return model.eval(), tokenizer


@pytest.fixture(scope="module")
def loaded():
    return load()


@pytest.fixture
def engine(loaded):
    return TransformersEngine(*loaded)


def requests_of(tokenizer, prompts, name="p"):
    return [
        Request(id=f"{name}{i}", prompt_ids=tuple(tokenizer(text)["input_ids"]), seed=sample_seed(name, i))
        for i, text in enumerate(prompts)
    ]


RAGGED = ["?", "7+5*3-8", "what", "a much longer prompt than the others", "ab", "7+5*3-9", "zzzzz", "Why not so?"]


def by_id(samples):
    return {sample.request.id: sample for sample in samples}


def test_it_is_a_rollout_engine(loaded):
    engine = build_engine("transformers", *loaded, batch_size=4)
    assert isinstance(engine, RolloutEngine) and engine.batch_size == 4
    engine.close()
    with pytest.raises(ModelError, match="'sglang' is not available; available: transformers, vllm"):
        build_engine("sglang", *loaded)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_greedy_equals_generate_on_left_padded_prompts(loaded, batch_size):
    model, tokenizer = loaded
    requests = requests_of(tokenizer, RAGGED)
    engine = TransformersEngine(model, tokenizer, batch_size=batch_size)
    got = by_id(engine.stream(requests, SamplingParams(max_tokens=24, temperature=0.0)))
    padded = tokenizer(RAGGED, return_tensors="pt", padding=True)
    out = model.generate(**padded, do_sample=False, max_new_tokens=24, pad_token_id=tokenizer.pad_token_id)
    lengths = set()
    for row, request in zip(out, requests, strict=True):
        want = row[padded["input_ids"].shape[1] :].tolist()
        stops = [i for i, token in enumerate(want) if token in engine.stop_ids]
        want = want[: stops[0] + 1] if stops else want
        sample = got[request.id]
        assert list(sample.token_ids) == want
        assert sample.finish_reason == ("stop" if stops else "length")
        lengths.add(len(want))
    assert len(lengths) > 2, "the prompts must end at different lengths for this test to mean anything"


def test_samples_do_not_depend_on_how_they_were_batched(loaded):
    model, tokenizer = loaded
    requests = requests_of(tokenizer, RAGGED * 3)
    params = SamplingParams(max_tokens=12, temperature=1.0, top_p=0.95)
    shuffled = list(requests)
    random.Random(0).shuffle(shuffled)
    plans = [
        (requests, {}),
        (requests, {"batch_size": 1}),
        (requests, {"batch_size": 5}),
        (shuffled, {"batch_size": 7, "sort_by_length": False}),
        (list(reversed(requests)), {"sort_by_length": False}),
        (requests[3:11], {}),
    ]
    want = by_id(TransformersEngine(model, tokenizer).stream(requests, params))
    assert len({sample.token_ids for sample in want.values()}) > 20
    assert {sample.finish_reason for sample in want.values()} == {"stop", "length"}
    for order, options in plans:
        got = by_id(TransformersEngine(model, tokenizer, **options).stream(order, params))
        assert got.keys() == {request.id for request in order}
        for name, sample in got.items():
            assert (sample.token_ids, sample.text) == (want[name].token_ids, want[name].text)
            np.testing.assert_allclose(sample.logprobs_sampled, want[name].logprobs_sampled, atol=1e-4)


def test_equal_seeds_on_equal_prompts_give_equal_text_and_others_do_not(engine):
    prompt = tuple(engine.tokenizer("7+5*3")["input_ids"])
    seeds = [1, 2, 1, 3, 2, 1]
    samples = by_id(
        engine.stream([Request(str(i), prompt, seed) for i, seed in enumerate(seeds)], SamplingParams(max_tokens=16))
    )
    texts = {seed: {samples[str(i)].token_ids for i, other in enumerate(seeds) if other == seed} for seed in (1, 2, 3)}
    assert all(len(given) == 1 for given in texts.values())
    assert len(set.union(*texts.values())) == 3


def watch(model, seen):
    """Record the shape of every forward pass's input."""
    return model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )


def test_equal_prompts_are_prefilled_once_and_finished_rows_leave(loaded):
    model, tokenizer = loaded
    requests = requests_of(tokenizer, ["ab", "7+5", "ab", "ab", "7+5"])
    seen: list[tuple[int, int]] = []
    hook = watch(model, seen)
    try:
        samples = list(TransformersEngine(model, tokenizer).stream(requests, SamplingParams(max_tokens=20)))
    finally:
        hook.remove()
    lengths = [len(sample.token_ids) for sample in samples]
    assert seen[0] == (2, 3)
    assert len(set(lengths)) > 1
    # A forward pass follows a sample's t-th token only if the sample goes on after it.
    assert seen[1:] == [(sum(n > t for n in lengths), 1) for t in range(1, max(lengths))]
    alone = by_id(s for r in requests for s in TransformersEngine(model, tokenizer).stream([r], SamplingParams(20)))
    assert {s.request.id: s.token_ids for s in samples} == {name: s.token_ids for name, s in alone.items()}


def test_a_sample_is_given_the_moment_it_ends(loaded):
    model, tokenizer = loaded
    seen: list[tuple[int, int]] = []
    hook = watch(model, seen)
    try:
        passes = [
            (len(sample.token_ids), len(seen))
            for sample in TransformersEngine(model, tokenizer).stream(
                requests_of(tokenizer, ["ab"] * 12), SamplingParams(max_tokens=20)
            )
        ]
    finally:
        hook.remove()
    assert len({length for length, _ in passes}) > 2
    assert all(length == forward_passes for length, forward_passes in passes)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.4, 0.9), (0.0, 1.0)])
def test_logprobs_are_those_of_teacher_forcing(engine, temperature, top_p):
    samples = list(
        engine.stream(
            requests_of(engine.tokenizer, RAGGED * 2), SamplingParams(20, temperature=temperature, top_p=top_p)
        )
    )
    for sample in samples:
        prompt, response = sample.request.prompt_ids, sample.token_ids
        with torch.no_grad():
            logits = engine.model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        logprobs = (logits.double() / (temperature or 1.0)).log_softmax(-1).numpy()
        for row, token, got in zip(logprobs, response, sample.logprobs_sampled, strict=True):
            likelier = np.exp(row[row >= row[token]]).sum() - np.exp(row[token])
            assert likelier < top_p + 1e-5
            ordered = np.sort(np.exp(row))[::-1]
            kept = ordered[np.cumsum(ordered) - ordered < top_p].sum()
            assert got == pytest.approx(row[token] - np.log(kept), abs=1e-4)


def test_finish_reasons_and_the_stop_token(engine):
    samples = list(engine.stream(requests_of(engine.tokenizer, RAGGED * 6), SamplingParams(max_tokens=8)))
    reasons = {sample.finish_reason for sample in samples}
    assert reasons == {"stop", "length"}
    for sample in samples:
        ids = sample.token_ids
        assert not engine.stop_ids.intersection(ids[:-1])
        assert len(ids) == len(sample.logprobs_sampled) <= 8
        if sample.finish_reason == "stop":
            assert ids[-1] in engine.stop_ids
        else:
            assert len(ids) == 8 and ids[-1] not in engine.stop_ids
        assert sample.text == engine.tokenizer.decode(ids, skip_special_tokens=True)
    # A stop token that is drawn at the last place allowed is a stop.
    assert any(sample.finish_reason == "stop" and len(sample.token_ids) == 8 for sample in samples)


def test_one_token(engine):
    samples = list(engine.stream(requests_of(engine.tokenizer, RAGGED * 20), SamplingParams(max_tokens=1)))
    assert len(samples) == 160 and all(len(sample.token_ids) == 1 for sample in samples)
    assert all((s.finish_reason == "stop") == (s.token_ids[0] in engine.stop_ids) for s in samples)


def test_special_tokens_do_not_stand_in_the_text(engine):
    tokenizer = engine.tokenizer
    with torch.no_grad():
        hidden = engine.model(
            input_ids=torch.tensor([tokenizer("ab")["input_ids"]]), output_hidden_states=True
        ).hidden_states[-1][0, -1]
    table = engine.model.get_input_embeddings().weight
    kept = table[tokenizer.eos_token_id].clone()
    try:
        with torch.no_grad():
            table[tokenizer.eos_token_id] = 100 * hidden / hidden.norm()
        (sample,) = engine.stream(requests_of(tokenizer, ["ab"]), SamplingParams(max_tokens=4, temperature=0))
    finally:
        with torch.no_grad():
            table[tokenizer.eos_token_id] = kept
    assert sample.token_ids == (tokenizer.eos_token_id,)
    assert (sample.text, sample.finish_reason) == ("", "stop")


@pytest.mark.parametrize("sort_by_length", [True, False])
def test_an_empty_prompt_is_refused_before_anything_is_drawn(loaded, sort_by_length):
    model, tokenizer = loaded
    engine = TransformersEngine(model, tokenizer, batch_size=2, sort_by_length=sort_by_length)
    requests = [*requests_of(tokenizer, RAGGED), Request("void", (), 0)]
    drawn = []
    with pytest.raises(ModelError, match=r"'void'.*empty prompt"):
        drawn.extend(engine.stream(requests, SamplingParams(max_tokens=2)))
    assert drawn == []


def test_no_requests_give_no_samples(engine):
    assert list(engine.stream([], SamplingParams(max_tokens=2))) == []


def test_a_batch_size_below_one_is_refused(loaded):
    with pytest.raises(ValueError, match="batch_size = 0"):
        TransformersEngine(*loaded, batch_size=0)


def test_the_mode_of_the_model_is_put_back_even_when_the_stream_is_left(engine):
    requests = requests_of(engine.tokenizer, RAGGED)
    for training in (True, False):
        engine.model.train(training)
        list(engine.stream(requests, SamplingParams(max_tokens=2)))
        assert engine.model.training is training
        stream = engine.stream(requests, SamplingParams(max_tokens=2))
        next(stream)
        stream.close()
        assert engine.model.training is training


def test_weights_that_are_not_numbers_are_an_error_and_not_a_sample():
    model, tokenizer = load()
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    for temperature in (0.0, 1.0):
        stream = TransformersEngine(model, tokenizer).stream(
            requests_of(tokenizer, ["ab"]), SamplingParams(max_tokens=3, temperature=temperature)
        )
        with pytest.raises(ModelError, match="not a number"):
            list(stream)


def draw(engine):
    requests = requests_of(engine.tokenizer, RAGGED)
    return by_id(engine.stream(requests, SamplingParams(max_tokens=12)))


@pytest.mark.parametrize("source", ["named_parameters", "state_dict"])
def test_sync_weights_copies_by_name_and_sets_the_version(source):
    (model, tokenizer), (trainer_model, _) = load(0), load(1)
    engine, other = TransformersEngine(model, tokenizer), TransformersEngine(trainer_model, tokenizer)
    before = draw(engine)
    assert {sample.weight_version for sample in before.values()} == {0}
    # A state dict holds the tied LM head under a second name.
    weights = trainer_model.named_parameters() if source == "named_parameters" else trainer_model.state_dict().items()
    engine.sync_weights(iter(list(weights)), 7)
    after, want = draw(engine), draw(other)
    assert {name: s.token_ids for name, s in after.items()} == {name: s.token_ids for name, s in want.items()}
    assert any(after[name].token_ids != before[name].token_ids for name in after)
    assert {sample.weight_version for sample in after.values()} == {7}
    # Copied, not shared: a later step of the trainer does not reach the engine.
    with torch.no_grad():
        for parameter in trainer_model.parameters():
            parameter.zero_()
    assert {name: s.token_ids for name, s in draw(engine).items()} == {name: s.token_ids for name, s in after.items()}


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ([("model.layers.9.weight", torch.zeros(1))], "no parameter 'model.layers.9.weight'"),
        ([("model.norm.weight", torch.zeros(1))], r"'model.norm.weight'.*\(1,\).*\(64,\)"),
    ],
)
def test_weights_of_another_model_are_refused(engine, weights, named):
    before = {name: value.clone() for name, value in engine.model.state_dict().items()}
    with pytest.raises(ModelError, match=named):
        engine.sync_weights(weights, 3)
    assert engine.weight_version == 0
    assert all(torch.equal(value, before[name]) for name, value in engine.model.state_dict().items())


def test_only_the_version_moves_without_weights(engine):
    before = draw(engine)
    engine.sync_weights(iter(()), 4)
    after = draw(engine)
    assert {name: s.token_ids for name, s in before.items()} == {name: s.token_ids for name, s in after.items()}
    assert {sample.weight_version for sample in after.values()} == {4}


@pytest.mark.parametrize(
    ("declared", "extra"), [(None, set()), (5, {5}), ([5, 9], {5, 9})], ids=["none", "one", "several"]
)
def test_stop_tokens_come_from_the_tokenizer_and_the_generation_config(declared, extra):
    model, tokenizer = load()
    model.generation_config.eos_token_id = declared
    assert stop_token_ids(model, tokenizer) == {tokenizer.eos_token_id} | extra
    tokenizer.eos_token = None
    if extra:
        assert stop_token_ids(model, tokenizer) == extra
    else:
        with pytest.raises(ModelError, match="names an end token"):
            stop_token_ids(model, tokenizer)


def test_stop_strings_end_samples_where_generate_ends_them(loaded):
    """Greedily against `generate`, and drawn against a reader of every beginning of the unstopped samples."""
    model, tokenizer = loaded
    engine, requests = TransformersEngine(model, tokenizer, batch_size=5), requests_of(tokenizer, RAGGED * 3)
    free = by_id(engine.stream(requests, SamplingParams(max_tokens=40)))
    # Texts over the seams of tokens, of the samples themselves; one more that is never drawn.
    found = [re.findall(r"[ -~]{2}", sample.text[2:]) for sample in free.values()]
    texts = tuple(dict.fromkeys(pairs[0] for pairs in found if pairs))[:8]
    assert len(texts) > 2
    params = SamplingParams(max_tokens=40, stop_strings=(*texts, "never said"))
    ended = by_id(engine.stream(requests, params))
    by_text = 0
    for name, sample in free.items():
        beginnings = (sample.token_ids[: size + 1] for size in range(sample.length))
        held = (ids for ids in beginnings if any(text in tokenizer.decode(list(ids)) for text in texts))
        want = next(held, sample.token_ids)
        assert ended[name].token_ids == want
        assert ended[name].logprobs_sampled == pytest.approx(sample.logprobs_sampled[: len(want)], abs=1e-4)
        by_text += want != sample.token_ids
        if want != sample.token_ids:
            assert ended[name].finish_reason == "stop" and any(text in ended[name].text for text in texts)
    assert by_text >= len(RAGGED)

    padded = tokenizer(RAGGED, return_tensors="pt", padding=True)
    plain = by_id(engine.stream(requests[: len(RAGGED)], SamplingParams(max_tokens=40, temperature=0.0)))
    text = next(pairs[0] for sample in plain.values() if (pairs := re.findall(r"[ -~]{2}", sample.text[2:])))
    given = {"max_new_tokens": 40, "pad_token_id": tokenizer.pad_token_id, "do_sample": False}
    out = model.generate(**padded, **given, stop_strings=[text], tokenizer=tokenizer)
    params = SamplingParams(max_tokens=40, temperature=0.0, stop_strings=(text,))
    got = by_id(engine.stream(requests[: len(RAGGED)], params))
    for row, request in zip(out, requests, strict=False):
        want = row[padded["input_ids"].shape[1] :].tolist()
        assert list(got[request.id].token_ids) == want[: got[request.id].length]
        assert all(token == tokenizer.pad_token_id for token in want[got[request.id].length :])
    assert any(got[name].length < plain[name].length for name in got)


def test_stop_strings_hold_special_tokens_as_their_text(loaded):
    """A sample that a special token does not end by itself ends where its text is a stop string."""
    model, tokenizer = loaded
    engine = TransformersEngine(model, tokenizer)
    engine.stop_ids = frozenset({-1})
    texts = [text for text in (tokenizer.eos_token, tokenizer.pad_token) if text]
    requests = requests_of(tokenizer, RAGGED * 8)
    samples = list(engine.stream(requests, SamplingParams(max_tokens=200, temperature=1.5, stop_strings=tuple(texts))))
    stopped = [sample for sample in samples if sample.finish_reason == "stop"]
    assert stopped
    for sample in stopped:
        assert any(tokenizer.decode([sample.token_ids[-1]]) == text for text in texts)


@pytest.mark.parametrize("given", ["text", ("a", "")])
def test_stop_strings_are_texts(given):
    with pytest.raises(ValueError, match="stop_strings"):
        SamplingParams(max_tokens=4, stop_strings=given)
