"""Policies, requests and oracles of the vLLM tests."""

from __future__ import annotations

import re
from typing import Any

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from reasonrl.models.tiny import build_tokenizer
from reasonrl.rollout import Request, SamplingParams, sample_seed


def small_policy(*, tied: bool, seed: int = 0) -> tuple[Any, Any]:
    """Qwen2 with heads of 64, which vLLM's CPU kernels need, and a head of its own or the embedding's."""
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config).eval(), tokenizer


def requests_of(count: int, *, length: int = 12, seed: str = "s") -> list[Request]:
    """Prompts of random tokens, two samples each, so that a prefix is shared."""
    generator = torch.Generator().manual_seed(length)
    prompts = torch.randint(3, 259, (-(-count // 2), length), generator=generator).tolist()
    return [Request(str(i), tuple(prompts[i // 2]), sample_seed(seed, i)) for i in range(count)]


def trainer_logprobs(model: Any, prompt: tuple[int, ...], response: tuple[int, ...], params: SamplingParams) -> Any:
    """Of each response token under the distribution it should be drawn from; written out, in float64."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1].double()
    probabilities = torch.softmax(logits / (params.temperature or 1.0), dim=-1)
    if params.top_p < 1:
        for row in probabilities:
            order = row.argsort(descending=True)
            mass_before = row[order].cumsum(0) - row[order]
            row[order[mass_before >= params.top_p]] = 0
    probabilities /= probabilities.sum(dim=-1, keepdim=True)
    return probabilities.log()[range(len(response)), list(response)]


def worst_gap(model: Any, samples: list[Any], params: SamplingParams) -> float:
    """Largest difference between the engine's log-probability of a drawn token and the trainer's."""
    worst = 0.0
    for sample in samples:
        trainer = trainer_logprobs(model, sample.request.prompt_ids, sample.token_ids, params)
        worst = max(worst, float((trainer - torch.tensor(sample.logprobs_sampled).double()).abs().max()))
    return worst


def check_texts_end_samples(engine: Any, tokenizer: Any) -> None:
    """With texts that end samples, each is the one drawn without up to the token that completes a text."""
    requests = requests_of(48)
    free = {sample.request.id: sample for sample in engine.stream(requests, SamplingParams(64))}
    pairs = [re.findall(r"[ -~]{2}", sample.text[2:]) for sample in free.values()]
    texts = tuple(dict.fromkeys(found[0] for found in pairs if found))[:8]
    sooner = 0
    for ended in engine.stream(requests, SamplingParams(64, stop_strings=texts)):
        whole = free[ended.request.id]
        beginnings = (whole.token_ids[: size + 1] for size in range(whole.length))
        held = (ids for ids in beginnings if any(text in tokenizer.decode(list(ids)) for text in texts))
        want = next(held, whole.token_ids)
        assert ended.token_ids == want
        assert max(abs(a - b) for a, b in zip(ended.logprobs_sampled, whole.logprobs_sampled, strict=False)) < 1e-4
        assert len(ended.logprobs_sampled) == len(want)
        if want != whole.token_ids:
            sooner += 1
            assert ended.finish_reason == "stop" and any(text in ended.text for text in texts)
    assert sooner >= 8
