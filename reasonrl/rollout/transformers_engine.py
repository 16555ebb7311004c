"""The rollout engine that needs nothing but transformers: batched decoding with a key-value cache, in the trainer's
own process.

Rows that finish leave the batch, equal prompts are prefilled once, and prompts are sorted by length so that little is
padded. Draws are counter-based (`seeds.py`), so a sample does not depend on how it was batched beyond floating-point
ties.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reasonrl.errors import ModelError
from reasonrl.rollout.engine import Request, Sample, SamplingParams, Stamp, longest_first
from reasonrl.rollout.images import (
    PromptKey,
    image_inputs,
    placeholder_ids,
    prompt_keys,
    require_processor,
    rotary_positions,
)
from reasonrl.rollout.sampling import draw_tokens
from reasonrl.rollout.seeds import uniforms
from reasonrl.rollout.stamps import now, process_name
from reasonrl.rollout.stop_strings import StopStrings
from reasonrl.rollout.stop_tokens import stop_tokens_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class _Batch:
    """Rows being decoded together; tensors are indexed by the rows still active, `lengths` are their next positions."""

    requests: list[Request]
    cache: Any
    mask: torch.Tensor | None
    lengths: torch.Tensor
    logits: torch.Tensor
    seeds: np.ndarray[Any, np.dtype[np.uint64]]
    cached: list[int]
    started: float = 0.0
    latest: float = 0.0
    tokens: list[list[int]] = field(default_factory=list)
    logprobs: list[list[float]] = field(default_factory=list)


class TransformersEngine:
    """Batched decoding with a causal language model of transformers, or a vision-language one.

    Args:
        model: the model to decode with; the engine never changes its parameters except in `sync_weights`.
        tokenizer: decodes the responses; its end token ends a sample, as do the model's
            `generation_config.eos_token_id`.
        batch_size: most rows decoded together.
        sort_by_length: sort requests by prompt length first, so that little is padded; where their responses' lengths
            are predicted, by those instead: batches of equal lengths end together.
        processor: the model's processor of transformers; needed for requests with images.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int = 256,
        sort_by_length: bool = True,
        processor: Any = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size = {batch_size}, but at least 1 row must be decoded at a time")
        self.model, self.tokenizer, self.batch_size, self.sort_by_length = model, tokenizer, batch_size, sort_by_length
        self.processor, self._never = processor, list(placeholder_ids(model.config))
        self.stop_ids = stop_token_ids(model, tokenizer)
        self.weight_version = 0
        self._interrupted = False

    def stream(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        """Yield each sample as it finishes; see `RolloutEngine`.

        Raises:
            ModelError: a prompt is empty or has images without a processor (nothing is drawn then), its image tokens do
                not fit its images, or the model's logits are not numbers.
        """
        require_processor(requests, self.processor)
        for request in requests:
            if not request.prompt_ids:
                raise ModelError(
                    f"rollout: request {request.id!r} has an empty prompt -> every prompt needs at least one token"
                )
        order = longest_first(requests)
        if self.sort_by_length and any(request.expected is None for request in requests):
            order.sort(key=lambda r: (len(r.prompt_ids), r.prompt_ids))
        self._interrupted, training = False, self.model.training
        self.model.eval()
        try:
            for start in range(0, len(order), self.batch_size):
                if not self._interrupted:
                    yield from self._decode(order[start : start + self.batch_size], params)
        finally:
            self.model.train(training)

    def sync_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Copy weights into the engine's model by name; with the trainer's own model, pass an empty iterator and only
        the version moves on. Both names of a tied parameter are known.

        Raises:
            ModelError: a name is unknown, or a tensor has another shape than the parameter of its name.
        """
        own = dict(self.model.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name, tensor in weights:
                if name not in own:
                    raise ModelError(f"sync_weights: the engine's model has no parameter {name!r}")
                if tensor.shape != own[name].shape:
                    raise ModelError(
                        f"sync_weights: {name!r} is {tuple(tensor.shape)}, the engine's model has"
                        f" {tuple(own[name].shape)} -> trainer and engine must hold the same model"
                    )
                own[name].copy_(tensor)
        self.weight_version = version

    def interrupt(self) -> None:
        """End the stream that is being read after the present token; from any thread."""
        self._interrupted = True

    def close(self) -> None:
        """Nothing to give back: the model belongs to the caller."""

    def _decode(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Sample]:
        batch = self._prefill(requests)
        stop = torch.tensor(sorted(self.stop_ids), device=batch.logits.device)
        strings = StopStrings(self.tokenizer, params.stop_strings)
        position = 0
        while batch.requests and not self._interrupted:
            draws = torch.from_numpy(uniforms(batch.seeds, position)).to(batch.logits.device)
            tokens, logprobs = draw_tokens(batch.logits, draws, params.temperature, params.top_p)
            for row, (token, logprob) in enumerate(zip(tokens.tolist(), logprobs.tolist(), strict=True)):
                if math.isnan(logprob):
                    raise ModelError(
                        f"rollout: request {batch.requests[row].id!r}: the model's logits for response token"
                        f" {position + 1} are not a number (weight version {self.weight_version}) -> the weights hold"
                        " NaN or inf; if training diverged, lower the learning rate"
                    )
                batch.tokens[row].append(token)
                batch.logprobs[row].append(logprob)
            position += 1
            batch.latest = now()
            batch.started = batch.started or batch.latest
            stopped = torch.isin(tokens, stop)
            if params.stop_strings:
                stopped |= torch.tensor(strings.ended(batch.tokens), device=stopped.device)
            done = torch.ones_like(stopped) if position == params.max_tokens else stopped
            flags = stopped.tolist()
            finished = done.nonzero().flatten().tolist()
            for row in finished:
                yield self._sample(batch, row, "stop" if flags[row] else "length")
            if finished:
                tokens = _keep(batch, ~done, tokens)
            if batch.requests:
                self._advance(batch, tokens)

    def _prefill(self, requests: Sequence[Request]) -> _Batch:
        keys = prompt_keys(requests)
        distinct: dict[PromptKey, Request] = {}
        for request in requests:
            distinct.setdefault(keys[id(request)], request)
        index = {key: row for row, key in enumerate(distinct)}
        longest = max(len(prompt) for prompt, _ in distinct)
        device = self.model.device
        ids = torch.zeros(len(distinct), longest, dtype=torch.long)
        mask = torch.zeros(len(distinct), longest, dtype=torch.long)
        for (prompt, _), row in index.items():
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        ids, mask = ids.to(device), mask.to(device)
        padded = bool((mask == 0).any())
        inputs = image_inputs(self.processor, list(distinct.values()), ids)
        positions, lengths = (mask.cumsum(-1) - 1).clamp(min=0), mask.sum(-1)
        if (rotary := rotary_positions(self.model, ids, mask, inputs)) is not None:
            positions, lengths = rotary
        with torch.no_grad():
            output = self.model(
                input_ids=ids,
                attention_mask=mask if padded else None,
                position_ids=positions,
                use_cache=True,
                logits_to_keep=1,
                **inputs,
            )
        rows = torch.tensor([index[keys[id(request)]] for request in requests], device=device)
        cache = output.past_key_values
        if len(distinct) < len(requests):
            cache.batch_select_indices(rows)
        else:
            rows = torch.arange(len(requests), device=device)
        return _Batch(
            requests=list(requests),
            cache=cache,
            mask=mask[rows] if padded else None,
            lengths=lengths[rows],
            logits=self._allowed(output.logits[rows, -1]),
            seeds=np.array([request.seed for request in requests], dtype=np.uint64),
            cached=[0 if distinct[keys[id(r)]] is r else len(r.prompt_ids) for r in requests],
            tokens=[[] for _ in requests],
            logprobs=[[] for _ in requests],
        )

    def _advance(self, batch: _Batch, tokens: torch.Tensor) -> None:
        if batch.mask is not None:
            batch.mask = torch.cat([batch.mask, batch.mask.new_ones(len(batch.requests), 1)], dim=1)
        with torch.no_grad():
            output = self.model(
                input_ids=tokens.unsqueeze(1),
                attention_mask=batch.mask,
                position_ids=batch.lengths.unsqueeze(1),
                past_key_values=batch.cache,
                use_cache=True,
                logits_to_keep=1,
            )
        batch.lengths = batch.lengths + 1
        batch.logits = self._allowed(output.logits[:, -1])

    def _allowed(self, logits: torch.Tensor) -> torch.Tensor:
        if self._never:
            logits[:, self._never] = -torch.inf
        return logits

    def _sample(self, batch: _Batch, row: int, reason: Any) -> Sample:
        return Sample(
            request=batch.requests[row],
            token_ids=tuple(batch.tokens[row]),
            text=self.tokenizer.decode(batch.tokens[row], skip_special_tokens=True),
            logprobs_sampled=tuple(batch.logprobs[row]),
            finish_reason=reason,
            weight_version=self.weight_version,
            stamp=Stamp(process_name(), batch.started, batch.latest, batch.cached[row]),
        )


def _keep(batch: _Batch, keep: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    rows = keep.nonzero().flatten()
    kept = rows.tolist()
    batch.requests = [batch.requests[row] for row in kept]
    batch.tokens = [batch.tokens[row] for row in kept]
    batch.logprobs = [batch.logprobs[row] for row in kept]
    batch.seeds = batch.seeds[kept]
    batch.cached = [batch.cached[row] for row in kept]
    batch.lengths = batch.lengths[rows]
    if batch.mask is not None:
        batch.mask = batch.mask[rows]
    if kept:
        batch.cache.batch_select_indices(rows)
    return tokens[rows]


def stop_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every token that ends a sample: the tokenizer's end token and those that the model's generation config
    declares.
    """
    return stop_tokens_of(model.generation_config, tokenizer)
