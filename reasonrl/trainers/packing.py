"""Whether a run's models can be given packed rows: found out at its start, on short sequences.

A packed row is right only if nothing passes from one sequence to the next. Attention keeps to that
(`reasonrl.models.packing`); recurrent layers, convolutions over time or code of a model's own may not. So each model
reads a few sequences packed and padded, and the numbers must agree.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from reasonrl.models.packing import enable_packing, special_masks
from reasonrl.models.packing_check import disagreement
from reasonrl.trainers.batch import MicroBatch, RolloutBatch, make_micro_batch
from reasonrl.trainers.packed_batch import make_packed_micro_batch

Reader = Callable[[MicroBatch], torch.Tensor]

TEXT = "How many primes lie below one hundred? Count them: 2, 3, 5, 7, 11, 13, and so on."
#: Lengths of the sequences that are read, two of them equal, and how many tokens of each are prompt.
LENGTHS, PROMPT = (23, 11, 11, 6), 2


def probe(tokenizer: Any, device: torch.device) -> RolloutBatch:
    """A few short sequences of ordinary tokens."""
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    longest = max(LENGTHS)
    ids = ids * (1 + 2 * longest // len(ids))
    sequences = [torch.tensor(ids[3 * n : 3 * n + length], device=device) for n, length in enumerate(LENGTHS)]
    mask = torch.ones((len(sequences), longest - PROMPT), dtype=torch.long, device=device)
    for row, length in enumerate(LENGTHS):
        mask[row, length - PROMPT :] = 0
    nothing = torch.zeros(len(sequences), device=device)
    return RolloutBatch(sequences, [PROMPT] * len(sequences), mask, nothing, nothing.bool(), torch.zeros_like(mask))


def obstacle(model: nn.Module, read: Reader, batch: RolloutBatch, pad_token_id: int, half: bool = False) -> str | None:
    """None if a model reads packed rows as it reads padded ones, else why it cannot be given any, in words.

    Args:
        model: whose attention is prepared for it.
        read: one number for each response token of a micro-batch, (rows, t).
        batch: what to read, from `probe`.
        pad_token_id: fills padded inputs.
        half: whether it computes in half precision, whatever its weights are kept in.
    """
    name = type(model).__name__
    rows = range(len(batch))
    was_training = model.training
    model.eval()
    try:
        if (reason := enable_packing(model)) is not None:
            return reason
        with torch.no_grad(), special_masks() as masks:
            padded = read(make_micro_batch(batch, rows, pad_token_id)).double() * batch.mask
            packed = read(make_packed_micro_batch(batch, rows)).double() * batch.mask
            gap, noise = float((packed - padded).abs().max()), 0.0
            for row in rows:
                alone = read(make_micro_batch(batch, [row], pad_token_id)).double()
                noise = max(noise, float((alone - padded[row, : alone.shape[1]]).abs().max()))
    except Exception as error:
        return f"{name} cannot read them: {type(error).__name__}: {error}"
    finally:
        model.train(was_training)
    if masks:
        return f"{name} asks for {masks[0]}"
    return disagreement(model, gap, noise, half)


def backbone_reader(model: Any) -> Reader:
    """Reads a critic's hidden states, each folded into one number: its head may still be zero everywhere."""

    def read(micro: MicroBatch) -> torch.Tensor:
        seen: list[Any] = []
        watch = model.backbone.register_forward_hook(lambda _, __, out: seen.append(out.last_hidden_state))
        try:
            model(**micro.inputs)  # the whole model: FSDP puts parts together only for what is called through it
        finally:
            watch.remove()
        hidden = seen[0]
        fold = torch.cos(torch.arange(hidden.shape[-1], device=hidden.device, dtype=torch.float64)).to(hidden)
        return micro.gather(hidden @ fold)

    return read


def first_obstacle(
    models: Sequence[tuple[nn.Module, Reader]], tokenizer: Any, device: torch.device, *, half: bool = False
) -> str | None:
    """The first obstacle among a run's models, in words, or None."""
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
    batch = probe(tokenizer, device)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*use_cache.*")
        for model, read in models:
            if (reason := obstacle(model, read, batch, tokenizer.pad_token_id, half)) is not None:
                return reason
    return None
