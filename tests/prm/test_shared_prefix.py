"""Candidates that share a prefix are scored as if each were read whole."""

from __future__ import annotations

import random

import pytest
import torch

from reasonrl.models import ScalarHeadModel, load_tokenizer
from reasonrl.prm.scoring import StepScorer
from reasonrl.prm.shared_prefix import SharedPrefixScorer

TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=2"


def scorer(max_length: int | None = None, tokens: int = 300) -> StepScorer:
    model = ScalarHeadModel.from_pretrained(TINY, seed=5)
    with torch.no_grad():
        model.head.weight *= 60
    return StepScorer(model, load_tokenizer(TINY), tokens_per_microbatch=tokens, max_length=max_length)


def candidates(problems: int = 5) -> list[dict[str, object]]:
    """Several of some problems, of different lengths; one that is alone, one that is there twice."""
    draw, rows = random.Random(4), []
    for problem in range(problems):
        pieces = ["".join(draw.choices("ab12+= ", k=draw.randint(1, 30))) + "\n" for _ in range(problem)]
        for _ in range(1 if problem == 3 else 4):
            whole = [*pieces, "".join(draw.choices("xyz789", k=draw.randint(1, 20))) + "\n"]
            spans, at = [], 0
            for piece in whole:
                spans.append([at, at + len(piece)])
                at += len(piece)
            rows.append({"id": str(len(rows)), "problem": f"p{problem}" * 3, "text": "".join(whole), "steps": spans})
    draw.shuffle(rows)
    return [*rows, dict(rows[0])]


@pytest.mark.parametrize(("max_length", "tokens"), [(None, 300), (None, 16384), (60, 300)])
def test_scores_are_those_of_a_plain_reading(max_length, tokens) -> None:
    rows = candidates()
    plain = scorer(max_length, tokens)
    expected = plain(rows)
    shared = SharedPrefixScorer(scorer(max_length, tokens))
    for _ in range(2):  # the second time nothing is checked any more
        found = shared(rows)
        assert [[score is None for score in one] for one in found] == [[s is None for s in one] for one in expected]
        for one, two in zip(found, expected, strict=True):
            assert [s for s in one if s is not None] == pytest.approx([s for s in two if s is not None], abs=1e-5)
    assert shared.usable
    assert (shared.scorer.cut > 0) == (max_length is not None)
    assert len({round(score, 3) for one in expected for score in one if score is not None}) > 10


def test_fewer_tokens_go_through_the_model() -> None:
    rows = candidates(12)
    read = {"plain": 0, "shared": 0}

    def count(name: str, one: StepScorer) -> StepScorer:
        def hook(module, args, kwargs) -> None:
            read[name] += kwargs["input_ids"].numel()

        one.model.backbone.register_forward_pre_hook(hook, with_kwargs=True)
        return one

    count("plain", plain := scorer(tokens=16384))(rows)
    assert plain.packed, "padding would hide the difference"
    shared = SharedPrefixScorer(scorer(tokens=16384))
    shared(rows)  # with its check
    count("shared", shared.scorer)
    shared(rows)
    assert read["shared"] < 0.75 * read["plain"]


def test_a_model_whose_cache_lies_is_read_plainly(caplog) -> None:
    """A planted fault: with a cache, the tokens before are not seen."""
    rows = candidates()
    expected = scorer()(rows)
    broken = SharedPrefixScorer(scorer())
    forward = broken.scorer.model.backbone.forward

    def forgetful(past_key_values=None, attention_mask=None, **inputs):
        if past_key_values is None:
            return forward(attention_mask=attention_mask, **inputs)
        own = attention_mask[:, -inputs["input_ids"].shape[1] :]
        return forward(attention_mask=own, **inputs)

    broken.scorer.model.backbone.forward = forgetful
    for _ in range(2):
        found = broken(rows)
        for one, two in zip(found, expected, strict=True):
            assert one == pytest.approx(two, abs=1e-5)
    assert not broken.usable
    assert "read whole" in caplog.text
