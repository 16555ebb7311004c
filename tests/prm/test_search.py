"""Guided search with a real engine, against a loop that draws, cuts and scores one candidate at a time."""

from __future__ import annotations

import pytest
import torch

from reasonrl.data_tools.prompts import as_messages, prompt_ids
from reasonrl.errors import DataError
from reasonrl.models import ScalarHeadModel, load_policy
from reasonrl.prm.scoring import StepScorer
from reasonrl.prm.search import SearchSettings, guided_search
from reasonrl.prm.steps import partition_fault, steps_from_spans
from reasonrl.rollout import build_engine
from reasonrl.rollout.engine import Request, SamplingParams
from reasonrl.rollout.seeds import sample_seed

TINY = "tiny:qwen2:hidden_size=64,intermediate_size=64,num_attention_heads=1,num_hidden_layers=1"
SEPARATOR = "%"  # in no other token; a random model writes any byte about as often as another
PROBLEMS = [{"id": f"p{n}", "problem": f"Say {n}."} for n in range(3)]


@pytest.fixture(scope="module")
def parts():
    policy, tokenizer = load_policy(TINY)
    with torch.no_grad():  # the end token and the separator come often enough
        for token, by in ((tokenizer.eos_token_id, 1.2), (tokenizer(SEPARATOR)["input_ids"][0], 3.0)):
            policy.lm_head.weight[token] *= by
    model = ScalarHeadModel.from_pretrained(TINY, seed=5)
    with torch.no_grad():
        model.head.weight *= 60
    return policy, tokenizer, StepScorer(model, tokenizer)


def by_hand(engine, tokenizer, scorer, problem, settings, seed):
    """Greedy search of one problem, one request at a time; no stop token but the model's own."""
    prompt, ids, pieces, drawn = prompt_ids(tokenizer, as_messages(problem)), [], [], 0
    for step in range(settings.max_steps):
        options = []
        for turn in range(settings.candidates):
            request = Request("r", (*prompt, *ids), sample_seed("search", seed, problem["id"], step, 0, turn))
            [sample] = engine.stream([request], SamplingParams(settings.max_step_tokens))
            tokens = list(sample.token_ids)
            texts = [tokenizer.decode(tokens[: n + 1], skip_special_tokens=True) for n in range(len(tokens))]
            end = next((n + 1 for n, text in enumerate(texts) if SEPARATOR in text), None)
            drawn += end or len(tokens)
            done = end is None and sample.finish_reason == "stop"
            piece = texts[(end or len(tokens)) - 1]
            whole = [*pieces, piece] if piece else pieces
            at, spans = 0, []
            for one in whole:
                spans.append([at, at + len(one)])
                at += len(one)
            [scores] = scorer([{**problem, "text": "".join(whole), "steps": spans}]) if whole else [[]]
            options.append((scores[-1] if scores else -1.0, whole, ids + tokens[:end], done))
        score, pieces, ids, done = max(options, key=lambda option: option[0])
        if done:
            break
    return "".join(pieces), score, done, drawn


@pytest.mark.parametrize("plain", [False, True])
def test_greedy_search_is_the_plain_loop(parts, plain) -> None:
    policy, tokenizer, scorer = parts
    settings = SearchSettings(candidates=3, max_steps=3, max_step_tokens=24, separator=SEPARATOR)
    engine = build_engine("transformers", policy, tokenizer)
    stops = engine.stop_ids
    if plain:  # an engine that knows of no stop token: what it writes beyond a step is thrown away
        engine.stop_ids = set(stops)
    found = guided_search(engine, tokenizer, scorer, PROBLEMS, settings, seed=7)
    assert engine.stop_ids == stops
    engine.stop_ids = stops
    beyond = cut = 0
    for problem, result in zip(PROBLEMS, found, strict=True):
        text, score, done, drawn = by_hand(engine, tokenizer, scorer, problem, settings, 7)
        assert (result.best.text, result.best.finished) == (text, done)
        assert result.best.score == pytest.approx(score, abs=1e-5)
        assert partition_fault(result.best.text, steps_from_spans(result.best.steps)) is None
        assert result.drawn_tokens >= drawn
        assert plain or result.drawn_tokens == drawn
        beyond += result.drawn_tokens - drawn
        cut += len(result.best.pieces)
    assert cut > len(PROBLEMS), "no solution has two steps"
    assert (beyond > 0) is plain
    assert len({result.best.text for result in found}) == 3
    assert guided_search(engine, tokenizer, scorer, PROBLEMS, settings, seed=7)[0].best == found[0].best
    assert guided_search(engine, tokenizer, scorer, PROBLEMS, settings, seed=8)[0].best != found[0].best


def test_search_finds_what_its_scores_ask_for(parts) -> None:
    """Scores that like short steps: the kept ones are shorter than what the policy writes, the more so the wider."""
    policy, tokenizer, _ = parts
    engine = build_engine("transformers", policy, tokenizer)

    def short(solutions):
        return [[1 / (1 + end - start) for start, end in one["steps"]] for one in solutions]

    lengths = {}
    for candidates, width in ((1, 1), (8, 1), (8, 4)):
        settings = SearchSettings(candidates, width, 3, 24, SEPARATOR, aggregation="mean")
        found = guided_search(engine, tokenizer, short, PROBLEMS, settings)
        assert all(len(result.chains) <= width for result in found)
        for result in found:
            order = [(not chain.finished, -chain.score) for chain in result.chains]
            assert order == sorted(order)
            assert result.best.score == pytest.approx(sum(result.best.step_scores) / len(result.best.step_scores))
        lengths[candidates, width] = sum(result.best.score for result in found)
    assert lengths[1, 1] < lengths[8, 1]
    assert lengths[1, 1] < lengths[8, 4]


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(DataError, match="candidates = 6 cannot be shared out evenly among width = 4"):
        SearchSettings(6, 4)
    with pytest.raises(DataError, match="'best' is no rule"):
        SearchSettings(aggregation="best")
    with pytest.raises(DataError, match="separator = ''"):
        SearchSettings(separator="")
