"""Images in requests, through the transformers engine: against the model's own forward pass on its processor's own
inputs, and against `generate`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reasonrl.errors import ModelError
from reasonrl.models import load_policy
from reasonrl.rollout import Request, SamplingParams, sample_seed
from reasonrl.rollout.images import image_digest, placeholder_ids, prompt_keys
from reasonrl.rollout.transformers_engine import TransformersEngine

sys.path.insert(0, str(Path(__file__).parent))
from vision_help import chat_text, image_of, load_vision, oracle_logprobs, prompt_of, small_qwen_vl

KINDS = ["llava", "qwen2_5_vl"]
#: (text, seeds of its images); two prompts differ in their image alone, one has none, one has two.
PROMPTS = [("2+2=", [1]), ("2+2=", [2]), ("how many?", []), ("compare them, please", [1, 3]), ("2+2=", [1]), ("?", [4])]


@pytest.fixture(scope="module", params=KINDS)
def loaded(request):
    return load_vision() if request.param == "llava" else small_qwen_vl()


def requests_of(processor, prompts=PROMPTS, name="v"):
    return [
        Request(f"{name}{i}", prompt_of(processor, text, images), sample_seed(name, i), images=tuple(images))
        for i, (text, images) in enumerate((text, [image_of(seed) for seed in seeds]) for text, seeds in prompts)
    ]


def by_id(samples):
    return {sample.request.id: sample for sample in samples}


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 0.9)])
def test_logprobs_are_those_of_the_models_own_reading_of_text_and_images(loaded, temperature, top_p):
    model, processor = loaded
    params = SamplingParams(12, temperature=temperature, top_p=top_p)
    engine = TransformersEngine(model, processor.tokenizer, processor=processor)
    samples = list(engine.stream(requests_of(processor), params))
    assert len(samples) == len(PROMPTS)
    for sample in samples:
        want = oracle_logprobs(model, processor, sample, params)
        np.testing.assert_allclose(sample.logprobs_sampled, want, atol=1e-4)


def test_another_image_is_another_prompt(loaded):
    model, processor = loaded
    engine = TransformersEngine(model, processor.tokenizer, processor=processor)
    first, second = (image_of(seed) for seed in (1, 2))
    ids = prompt_of(processor, "2+2=", [first])
    assert ids == prompt_of(processor, "2+2=", [second]), "the images differ, their tokens do not"
    drawn = by_id(
        engine.stream(
            [Request("a", ids, 7, images=(first,)), Request("b", ids, 7, images=(second,))], SamplingParams(1)
        )
    )
    params = SamplingParams(1)
    for name, own, other in (("a", first, second), ("b", second, first)):
        sample = drawn[name]
        want = oracle_logprobs(model, processor, sample, params)[0]
        assert sample.logprobs_sampled[0] == pytest.approx(want, abs=1e-4)
        swapped = oracle_logprobs(model, processor, sample, params, images=(other,))[0]
        assert abs(sample.logprobs_sampled[0] - swapped) > 1e-2, (own, other)


def test_samples_do_not_depend_on_how_they_were_batched(loaded):
    model, processor = loaded
    requests, params = requests_of(processor, PROMPTS * 2), SamplingParams(10, top_p=0.95)
    want = by_id(TransformersEngine(model, processor.tokenizer, processor=processor).stream(requests, params))
    for order, options in [
        (requests, {"batch_size": 1}),
        (requests, {"batch_size": 5}),
        (requests[::-1], {"batch_size": 4, "sort_by_length": False}),
        (requests[3:5], {}),
    ]:
        engine = TransformersEngine(model, processor.tokenizer, processor=processor, **options)
        for name, sample in by_id(engine.stream(order, params)).items():
            assert sample.token_ids == want[name].token_ids
            np.testing.assert_allclose(sample.logprobs_sampled, want[name].logprobs_sampled, atol=1e-4)


def test_greedy_equals_generate(loaded):
    model, processor = loaded
    engine = TransformersEngine(model, processor.tokenizer, processor=processor)
    requests = [request for request in requests_of(processor) if request.images]
    got = by_id(engine.stream(requests, SamplingParams(10, temperature=0)))
    texts = [(text, [image_of(seed) for seed in seeds]) for text, seeds in PROMPTS if seeds]
    for request, (text, images) in zip(requests, texts, strict=True):
        inputs = processor(text=chat_text(processor, text, images), images=images, return_tensors="pt")
        forbidden = list(placeholder_ids(model.config))
        out = model.generate(**inputs, do_sample=False, max_new_tokens=10, suppress_tokens=forbidden)
        want = out[0, len(request.prompt_ids) :].tolist()
        assert list(got[request.id].token_ids) == want


def test_an_image_is_read_once_and_only_at_the_start(loaded):
    model, processor = loaded
    pixels = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: pixels.append(kwargs.get("image_grid_thw", kwargs.get("pixel_values"))),
        with_kwargs=True,
    )
    try:
        requests = requests_of(processor, [("2+2=", [1])] * 3 + [("2+2=", [2])])
        list(TransformersEngine(model, processor.tokenizer, processor=processor).stream(requests, SamplingParams(6)))
    finally:
        hook.remove()
    assert len(pixels[0]) == 2, "three requests share an image, though each has its own object"
    assert len(pixels) > 2 and all(given is None for given in pixels[1:])


def test_placeholders_are_never_drawn(loaded):
    model, processor = loaded
    never = placeholder_ids(model.config)
    assert processor.image_token_id in never
    head, kept = model.get_output_embeddings().weight, model.get_output_embeddings().weight.detach().clone()
    engine = TransformersEngine(model, processor.tokenizer, processor=processor)
    hidden = model(input_ids=torch.tensor([[5, 6, 7]]), output_hidden_states=True).hidden_states[-1][0, -1]
    try:
        with torch.no_grad():
            head[list(never)] = 100 * hidden / hidden.norm()
        greedy = list(engine.stream([Request("g", (5, 6, 7), 0)], SamplingParams(1, temperature=0)))
        drawn = list(engine.stream([Request(str(i), (5, 6, 7), i) for i in range(50)], SamplingParams(1)))
        plain = model(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1].argmax()
    finally:
        with torch.no_grad():
            head.copy_(kept)
    assert int(plain) in never, "without the rule it would have been drawn"
    assert not {sample.token_ids[0] for sample in greedy + drawn} & set(never)
    assert all(np.isfinite(sample.logprobs_sampled).all() for sample in greedy + drawn)


def test_image_tokens_that_do_not_fit_the_images_are_refused(loaded):
    model, processor = loaded
    engine = TransformersEngine(model, processor.tokenizer, processor=processor)
    image = image_of(1)
    ids = prompt_of(processor, "2+2=", [image])
    once = [token for token in ids if token != processor.image_token_id]
    cut = (*once, processor.image_token_id)
    for prompt, images in [(cut, (image,)), (ids, (image, image)), (tuple(once), (image,))]:
        with pytest.raises(ModelError, match=r"'x' has \d+ image tokens .* but its \d images become \d+ -> make"):
            list(engine.stream([Request("x", prompt, 1, images=images)], SamplingParams(2)))


def test_images_without_a_processor_or_of_another_kind_are_refused():
    model, tokenizer = load_policy("tiny:qwen2")
    request = Request("x", (5, 6), 1, images=(image_of(1),))
    with pytest.raises(ModelError, match=r"'x' has 1 images, but the engine has no processor -> .*load_processor"):
        list(TransformersEngine(model, tokenizer).stream([request], SamplingParams(2)))
    with pytest.raises(ModelError, match="is a ndarray -> give PIL images"):
        prompt_keys([Request("x", (5, 6), 1, images=(np.zeros((2, 2, 3)),))])


def test_a_digest_tells_images_apart_and_knows_equal_ones():
    image = image_of(1)
    assert image_digest(image) == image_digest(image.copy()) == image_digest(image_of(1))
    palettes = [Image.new("P", (4, 4)) for _ in range(2)]
    palettes[1].putpalette([9] * 768)
    turned = image.resize((image.height, image.width))
    kinds = [image, image_of(2), turned, image.convert("L"), *palettes]
    assert len({image_digest(kind) for kind in kinds}) == len(kinds)
    assert len({Request("a", (1,), 0, images=(image,)), Request("a", (1,), 0, images=(image_of(2),))}) == 2
