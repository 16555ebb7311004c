"""The cases of `test_vllm_images.py`, run by it in a process of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from reasonrl.errors import ModelError
from reasonrl.rollout import Request, SamplingParams, build_engine, sample_seed
from reasonrl.rollout.images import placeholder_ids
from reasonrl.rollout.transformers_engine import TransformersEngine

sys.path.insert(0, str(Path(__file__).parent))
from vision_help import image_of, load_vision, oracle_logprobs, prompt_of, small_qwen_vl, with_video

PROMPTS = [("2+2=", [1]), ("2+2=", [2]), ("how many?", []), ("compare them, please", [1, 3]), ("2+2=", [1]), ("?", [4])]
PARAMS = SamplingParams(12)


@pytest.fixture(scope="module")
def loaded():
    return load_vision() if os.environ["REASONRL_VISION_KIND"] == "llava" else with_video(small_qwen_vl())


@pytest.fixture(scope="module")
def engine(loaded):
    model, processor = loaded
    engine = build_engine("vllm", model, processor.tokenizer, processor=processor, max_model_len=256)
    yield engine
    engine.close()


def requests_of(processor):
    return [
        Request(str(i), prompt_of(processor, text, images), sample_seed("v", i), images=tuple(images))
        for i, (text, images) in enumerate((text, [image_of(seed) for seed in seeds]) for text, seeds in PROMPTS)
    ]


def worst_gap(loaded, samples, params=PARAMS):
    gaps = [np.abs(oracle_logprobs(*loaded, sample, params) - np.array(sample.logprobs_sampled)) for sample in samples]
    return max(gap.max() for gap in gaps)


@torch.no_grad()
def moved(model, generator, tower_alone):
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2 and (not tower_alone or "vis" in name):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("params", [PARAMS, SamplingParams(12, 0.7, top_p=0.9)], ids=["plain", "nucleus"])
def test_logprobs_are_those_of_the_trainers_reading_of_text_and_images(engine, loaded, params):
    samples = list(engine.stream(requests_of(loaded[1]), params))
    assert len(samples) == len(PROMPTS) and worst_gap(loaded, samples, params) < 1e-4


def test_another_image_changes_the_logprobs(engine, loaded):
    samples = [sample for sample in engine.stream(requests_of(loaded[1]), PARAMS) if len(sample.request.images) == 1]
    for sample in samples:
        swapped = oracle_logprobs(*loaded, sample, PARAMS, images=(image_of(9),))
        assert np.abs(swapped - np.array(sample.logprobs_sampled)).max() > 1e-2


def test_greedy_equals_the_transformers_engine_and_no_placeholder_is_drawn(engine, loaded):
    model, processor = loaded
    params = SamplingParams(24, temperature=0)
    own = {
        s.request.id: s.token_ids
        for s in TransformersEngine(model, processor.tokenizer, processor=processor).stream(
            requests_of(processor), params
        )
    }
    theirs = {s.request.id: s.token_ids for s in engine.stream(requests_of(processor), params)}
    assert theirs == own
    drawn = list(engine.stream([Request(str(i), (5, 6, 7), i) for i in range(200)], SamplingParams(8)))
    assert not {t for sample in drawn for t in sample.token_ids} & set(placeholder_ids(model.config))


def test_five_updates_arrive_in_tower_and_text_and_an_engine_left_behind_shows(engine, loaded):
    model, processor = loaded
    generator = torch.Generator().manual_seed(3)
    for version in range(1, 6):
        moved(model, generator, tower_alone=version % 2 == 0)
        stale = list(engine.stream([r for r in requests_of(processor) if r.images], PARAMS))
        assert worst_gap(loaded, stale) > 1e-2
        assert engine.reading_gap(model).mean > 1e-3, "the reading sees a tower that is behind"
        engine.sync_weights(engine.weights_of(model), version)
        assert engine.last_gap.worst < 1e-4
        samples = list(engine.stream(requests_of(processor), PARAMS))
        assert {sample.weight_version for sample in samples} == {version}
        assert worst_gap(loaded, samples) < 1e-4


def test_what_does_not_fit_is_refused(engine, loaded):
    model, processor = loaded
    image = image_of(1)
    ids = prompt_of(processor, "2+2=", [image])
    once = tuple(token for token in ids if token != processor.image_token_id)
    for prompt, images in [((*once, processor.image_token_id), (image,)), (ids, (image, image)), (once, (image,))]:
        with pytest.raises(ModelError, match=r"'x' has \d+ image tokens .* but its \d images become \d+ -> make"):
            list(engine.stream([Request("x", prompt, 1, images=images)], SamplingParams(2)))
    with pytest.raises(ModelError, match="without its processor -> build the engine"):
        build_engine("vllm", model, processor.tokenizer)
    assert engine._vllm.get_num_unfinished_requests() == 0
