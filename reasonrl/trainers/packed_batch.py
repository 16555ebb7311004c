"""Packed micro-batches: some samples of a rollout batch end to end in one row (`reasonrl.models.packing`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from reasonrl.models.packing import packed_inputs
from reasonrl.trainers.batch import MicroBatch, RolloutBatch


def make_packed_micro_batch(batch: RolloutBatch, rows: Sequence[int]) -> MicroBatch:
    """Set some samples end to end; no rows give a dummy of one sample, the shortest, whose tokens all weigh nothing."""
    chosen = list(rows) or [min(range(len(batch)), key=lambda row: len(batch.sequences[row]))]
    sequences = [batch.sequences[row] for row in chosen]
    device = sequences[0].device
    inputs = packed_inputs(sequences)
    labels = inputs["input_ids"].clone()
    prompts = torch.tensor([batch.prompt_lengths[row] for row in chosen], device=device)
    ends = inputs["cu_seq_lens_q"][1:].long()
    starts = inputs["cu_seq_lens_q"][:-1].long()
    # A sequence's first token follows another sequence, which must not predict it; with a prompt it is never labelled.
    unlabelled = inputs["position_ids"] < prompts.clamp(min=1).repeat_interleave(ends - starts).unsqueeze(0)
    labels[unlabelled] = -100
    width = max(1, max(len(s) - batch.prompt_lengths[row] for row, s in zip(chosen, sequences, strict=True)))
    positions = (starts + prompts - 1).unsqueeze(1) + torch.arange(width, device=device)
    # Beyond a response's end: its own last token, which predicts nothing that is labelled.
    positions = torch.minimum(positions, (ends - 1).unsqueeze(1))
    return MicroBatch(list(rows), inputs, labels, positions, width, packed=True)
