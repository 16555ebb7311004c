"""Requests with images over servers: what goes out, what has to come back, and who is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from fake_vllm import drawn, logprob, pixels
from servers_help import QUICK, fakes, fingerprint
from vision_help import LLAVA, image_of, prompt_of, small_qwen_vl

from reasonrl.errors import ModelError
from reasonrl.models import load_policy, load_processor
from reasonrl.rollout import Request, SamplingParams
from reasonrl.rollout.servers import ServersEngine
from reasonrl.rollout.servers_images import Pictures
from reasonrl.rollout.vllm_start import write_skeleton

PARAMS = SamplingParams(16)


@pytest.fixture(scope="module")
def processor():
    return load_processor(LLAVA)


@pytest.fixture(scope="module")
def folder(processor, tmp_path_factory):
    found = tmp_path_factory.mktemp("llava")
    write_skeleton(load_policy(LLAVA)[0], found, processor)
    return found


@pytest.fixture(scope="module")
def per_image(processor):
    return prompt_of(processor, "?", [image_of(1)]).count(processor.image_token_id)


@pytest.fixture(scope="module")
def pair(folder, processor, per_image):
    words = ["--enable-scale-out", "--image-token", str(processor.image_token_id), "--image-tokens", str(per_image)]
    with fakes(folder, 2, *words) as found:
        yield found


def engine_over(found, folder, processor):
    urls = [fake.url for fake in found]
    return ServersEngine(None, processor.tokenizer, path=str(folder), urls=urls, limits=QUICK, processor=processor)


def requests_of(processor):
    pictures = [[image_of(1)], [image_of(2)], [], [image_of(1), image_of(3)], [image_of(4).convert("L")]]
    return [
        Request(str(i), prompt_of(processor, "2+2=", images), 10 + i, images=tuple(images))
        for i, images in enumerate(pictures)
    ]


def test_pixels_and_token_ids_reach_the_servers_and_a_dropped_sample_is_drawn_elsewhere(pair, folder, processor):
    requests = requests_of(processor)
    engine = engine_over(pair, folder, processor)
    for fake in pair:
        fake.script(faults=["reset"])
    samples = {sample.request.id: sample for sample in engine.stream(requests, PARAMS)}
    retried = sum(engine.figures()[f"servers/{place}/retries"] for place in (1, 2))
    engine.close()
    assert retried == 2 and set(samples) == {request.id for request in requests}
    for request in requests:
        theirs = [pixels(image.convert("RGB")) for image in request.images]
        ids = drawn(request.seed, [*request.prompt_ids, *theirs], fingerprint(folder), PARAMS.max_tokens)
        assert samples[request.id].token_ids == tuple(ids)
        assert samples[request.id].logprobs_sampled == tuple(map(logprob, ids))
    seen = [one for fake in pair for one in fake.script()["seen"] if "bias" in one]
    assert seen and all(one["bias"] == {str(processor.image_token_id): -100.0} for one in seen)


def test_a_server_that_reads_other_token_ids_ends_the_run(folder, processor, per_image):
    words = ["--enable-scale-out", "--image-token", str(processor.image_token_id), "--image-tokens", str(per_image - 1)]
    request = requests_of(processor)[0]
    with fakes(folder, 1, *words) as found:
        engine = engine_over(found, folder, processor)
        read, ours = len(request.prompt_ids) - 1, len(request.prompt_ids)
        with pytest.raises(ModelError, match=f"has read {read} token ids of a prompt of {ours} with 1 images"):
            list(engine.stream([request], PARAMS))
        engine.close()


def test_a_server_without_the_endpoint_is_refused_by_its_name(folder, processor):
    with (
        fakes(folder, 1) as found,
        pytest.raises(ModelError, match=r"has no endpoint /inference/v1/generate.*-> start it with --enable-scale-out"),
    ):
        engine_over(found, folder, processor)


def test_every_image_is_one_placeholder_and_other_tokens_are_untouched():
    _, processor = small_qwen_vl()
    token = processor.image_token_id
    images = [image_of(1), image_of(2, (96, 56)), image_of(1)]
    ids = prompt_of(processor, "which?", images)
    sent = Pictures(None, None, None)
    assert sent.of([Request("0", ids, 1)]).made == {}
    pictures = Pictures(small_qwen_vl()[0], None, processor)
    request = Request("0", ids, 1, images=tuple(images))
    prompt = pictures.of([request]).prompt(request)
    kept = [t for place, t in enumerate(ids) if t != token or ids[place - 1] != token]
    assert list(prompt.short_ids) == kept and prompt.short_ids.count(token) == 3 and ids.count(token) > 3
    assert prompt.parts[0] is prompt.parts[2] and prompt.parts[0] != prompt.parts[1]


def test_an_image_that_a_png_without_transparency_would_change_is_refused():
    class OnWhite:
        """A processor that lays transparent images on white, as Idefics3's does."""

        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def __call__(self, text, images, **options):
            white = [
                [
                    Image.alpha_composite(Image.new("RGBA", i.size, "white"), i.convert("RGBA")).convert("RGB")
                    for i in row
                ]
                for row in images
            ]
            return self.inner(text=text, images=white, **options)

    inner = load_processor(LLAVA)
    clear, solid = image_of(1).convert("RGBA"), image_of(2).convert("RGBA")
    clear.putalpha(100)
    for processor, image, fits in [(OnWhite(inner), clear, False), (OnWhite(inner), solid, True), (inner, clear, True)]:
        request = Request("x", prompt_of(inner, "?", [image]), 1, images=(image,))
        pictures = Pictures(load_policy(LLAVA)[0], None, processor)
        if fits:
            assert pictures.of([request]).prompt(request).parts
        else:
            with pytest.raises(ModelError, match=r"image of request 'x' has mode RGBA.*-> convert it to RGB"):
                pictures.of([request])
