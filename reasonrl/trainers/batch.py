"""A rollout batch as the update sees it: ragged sequences, and per-token tensors over the response."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from reasonrl.errors import RewardError
from reasonrl.rollout.engine import Sample
from reasonrl.rollout.image_reader import TOKEN_INPUTS, batch_inputs
from reasonrl.trainers._trl import Collected
from reasonrl.trainers.meter import Meter

Images = list[dict[str, torch.Tensor]] | None


@dataclass(frozen=True)
class RolloutBatch:
    """One rank's share of a rollout batch.

    Attributes:
        sequences: prompt and response token ids of each sample, unpadded.
        prompt_lengths: tokens of each prompt.
        mask: (B, T) 1 where a response token counts (the policy drew it).
        scores: (B,) total reward of each sample, after the stop rule; NaN where it could not be scored.
        finished: (B,) whether the sample stopped by itself.
        sampled_logprobs: (B, T) the engine's log-probabilities.
        images: of each sample, what the models take for its pictures besides token ids, on the CPU and shared by the
            samples of a prompt; inputs with one number a token are those of the prompt. None without pictures.
    """

    sequences: list[torch.Tensor]
    prompt_lengths: list[int]
    mask: torch.Tensor
    scores: torch.Tensor
    finished: torch.Tensor
    sampled_logprobs: torch.Tensor
    images: list[dict[str, torch.Tensor]] | None = None

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sample, prompt and response."""
        return [len(sequence) for sequence in self.sequences]

    def has_inputs(self, row: int) -> bool:
        """Whether the models take more than token ids for this sample (some do for every text, too)."""
        return self.images is not None and bool(self.images[row])

    def has_pictures(self, row: int) -> bool:
        """Whether a picture belongs to this sample."""
        return self.images is not None and any(name not in TOKEN_INPUTS for name in self.images[row])

    def __len__(self) -> int:
        return len(self.sequences)


@dataclass(frozen=True)
class Anchor:
    """A prompt with a picture that is read along, without weight, with samples that have none: every process then goes
    through the same parts of a model in every micro-batch, which gradients and weights that are shared out want.

    Attributes:
        ids: token ids of the prompt.
        images: what the models take for its picture.
    """

    ids: torch.Tensor
    images: dict[str, torch.Tensor]


@dataclass(frozen=True)
class MicroBatch:
    """Some samples: padded on the right to the longest of them, or packed end to end in one row (b = 1).

    Attributes:
        rows: indices into the rollout batch.
        inputs: of the model: `input_ids` (b, L), and `attention_mask`, or positions and bounds of a packed row.
        labels: (b, L), -100 outside the response.
        positions: (rows, t), with no row for an anchor, index j such that position j of a (b, L - 1) next-token tensor,
            or of a (b, L) value tensor, belongs to response token t; beyond a response's end, any position.
        width: t, the longest response among them; rollout tensors are cut to it.
        packed: whether it is one packed row.
    """

    rows: list[int]
    inputs: dict[str, Any]
    labels: torch.Tensor
    positions: torch.Tensor
    width: int
    packed: bool = False

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """(b, L - 1) or (b, L) to (rows, t): what stands at each response token; beyond a response's end, anything."""
        positions = self.positions.clamp(max=values.shape[1] - 1)
        return values[0][positions] if self.packed else values.gather(1, positions)


def total_scores(rewards: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(B, F) rewards and (F,) weights to (B,) totals; a missing reward (NaN) counts as 0, and all missing give NaN."""
    totals = (rewards * weights.to(rewards).unsqueeze(0)).nansum(dim=1)
    totals[rewards.isnan().all(dim=1)] = torch.nan
    return totals


def make_batch(
    collected: Collected, weights: torch.Tensor, *, requires_stop: bool, images: Images = None
) -> RolloutBatch:
    """Unpad what TRL collected and add up the rewards.

    Args:
        collected: one rank's share.
        weights: (F,) weight of each reward function; a function that gave no reward for a sample counts as 0 there.
        requires_stop: a sample that did not stop by itself scores 0.
        images: as in `RolloutBatch`.
    """
    tensors = collected.tensors
    sequences: list[torch.Tensor] = []
    prompt_lengths: list[int] = []
    for row in range(len(collected.rows)):
        prompt = tensors["prompt_ids"][row][tensors["prompt_mask"][row].bool()]
        response = tensors["completion_ids"][row][: len(collected.samples[row].token_ids)]
        sequences.append(torch.cat([prompt, response]))
        prompt_lengths.append(len(prompt))
    mask = tensors["completion_mask"].clone()
    if tensors.get("tool_mask") is not None:
        mask = mask * tensors["tool_mask"]
    rewards = collected.rewards_per_function
    return _with_scores(sequences, prompt_lengths, mask, collected.samples, rewards, weights, requires_stop, images)


def batch_of_samples(
    samples: Sequence[Sample],
    rewards: torch.Tensor,
    weights: torch.Tensor,
    *,
    requires_stop: bool,
    images: Images = None,
) -> RolloutBatch:
    """A batch of some samples by themselves, (B, F) rewards on the device where it is to be; as `make_batch` makes it
    of all.
    """
    device = rewards.device
    longest = max(len(sample.token_ids) for sample in samples)
    mask = torch.zeros((len(samples), longest), dtype=torch.long, device=device)
    for row, sample in enumerate(samples):
        mask[row, : len(sample.token_ids)] = 1
    sequences = [torch.tensor([*s.request.prompt_ids, *s.token_ids], dtype=torch.long, device=device) for s in samples]
    lengths = [len(sample.request.prompt_ids) for sample in samples]
    return _with_scores(sequences, lengths, mask, samples, rewards, weights, requires_stop, images)


def _with_scores(
    sequences: list[torch.Tensor],
    prompt_lengths: list[int],
    mask: torch.Tensor,
    samples: Sequence[Sample],
    rewards: torch.Tensor,
    weights: torch.Tensor,
    requires_stop: bool,
    images: Images,
) -> RolloutBatch:
    scores = total_scores(rewards, weights)
    finished = torch.tensor([sample.finish_reason == "stop" for sample in samples], device=mask.device)
    if requires_stop:
        # What could not be scored stays so: a missing gold is not the response's fault.
        scores = torch.where(finished | scores.isnan(), scores, torch.zeros_like(scores))
    logprobs = torch.zeros(mask.shape, device=mask.device)
    for row, sample in enumerate(samples):
        logprobs[row, : len(sample.logprobs_sampled)] = torch.tensor(sample.logprobs_sampled, device=mask.device)
    return RolloutBatch(sequences, prompt_lengths, mask, scores, finished, logprobs, images)


def make_micro_batch(
    batch: RolloutBatch, rows: Sequence[int], pad_token_id: int, anchor: Anchor | None = None
) -> MicroBatch:
    """Pad some samples to a common length; no rows give a dummy of one row whose tokens all weigh nothing. Where none
    of them has a picture, the anchor, if there is one, stands behind them as a row of its own.
    """
    chosen = list(rows) or [0]
    read = [batch.sequences[row] for row in chosen]
    given = [batch.images[row] if batch.images is not None else {} for row in chosen]
    if anchor is not None and not any(batch.has_pictures(row) for row in chosen):
        read.append(anchor.ids.to(read[0].device))
        given.append(anchor.images)
    sequences = read[: len(chosen)]
    longest = max(len(sequence) for sequence in read)
    device = sequences[0].device
    ids = torch.full((len(read), longest), pad_token_id, dtype=torch.long, device=device)
    labels = torch.full((len(read), longest), -100, dtype=torch.long, device=device)
    mask = torch.zeros((len(read), longest), dtype=torch.long, device=device)
    for i, sequence in enumerate(read):
        ids[i, : len(sequence)] = sequence
        mask[i, : len(sequence)] = 1
    for i, (row, sequence) in enumerate(zip(chosen, sequences, strict=True)):
        labels[i, batch.prompt_lengths[row] : len(sequence)] = sequence[batch.prompt_lengths[row] :]
    prompts = torch.tensor([batch.prompt_lengths[row] for row in chosen], device=device)
    width = max(1, max(len(s) - batch.prompt_lengths[row] for row, s in zip(chosen, sequences, strict=True)))
    positions = (prompts - 1).unsqueeze(1) + torch.arange(width, device=device)
    return MicroBatch(
        rows=list(rows),
        inputs={"input_ids": ids, "attention_mask": mask, **batch_inputs(given, ids)},
        labels=labels,
        positions=positions,
        width=width,
    )


def rows_of(tensor: torch.Tensor, micro: MicroBatch, fill: Any = 0) -> torch.Tensor:
    """The part of a (B, T) rollout tensor that belongs to a micro-batch, (b, t); a dummy micro-batch gets `fill`."""
    if not micro.rows:
        return torch.full((1, micro.width), fill, dtype=tensor.dtype, device=tensor.device)
    return tensor[micro.rows][:, : micro.width]


def rewards_of_tokens(
    functions: Sequence[Callable[..., Sequence[Sequence[float] | None]]],
    rows: Sequence[dict[str, Any]],
    samples: Sequence[Sample],
    batch: RolloutBatch,
    meter: Meter | None = None,
) -> torch.Tensor:
    """(B, T) rewards of single tokens, added up over the functions; a sample to which one gives None is left unscored.

    A function with `take_figures`, which hands out {name: (sum, count)}, has its figures put into the meter.

    Raises:
        RewardError: a function did not give one list a sample, with one reward a token.
    """
    names = set(rows[0]) - {"prompt", "completion", "completion_ids", "finish_reason"}
    columns = {key: [row[key] for row in rows] for key in sorted(names)}
    columns["finish_reason"] = [sample.finish_reason for sample in samples]
    total = torch.zeros(batch.mask.shape, dtype=torch.float64, device=batch.mask.device)
    for function in functions:
        name = getattr(function, "__name__", repr(function))
        given = function(
            prompts=[row["prompt"] for row in rows],
            completions=[sample.text for sample in samples],
            completion_ids=[list(sample.token_ids) for sample in samples],
            **columns,
        )
        if len(given) != len(rows):
            raise RewardError(f"reward {name}: {len(given)} lists of token rewards for {len(rows)} samples")
        for place, (rewards, sample) in enumerate(zip(given, samples, strict=True)):
            if rewards is None:
                batch.scores[place] = torch.nan
                continue
            if len(rewards) != len(sample.token_ids):
                raise RewardError(
                    f"reward {name}: {len(rewards)} rewards for sample {place} of {len(sample.token_ids)} tokens"
                    " -> give one per response token, the stop token included"
                )
            total[place, : len(rewards)] += torch.tensor(list(rewards), dtype=total.dtype, device=total.device)
        if meter is not None and (figures := getattr(function, "take_figures", None)) is not None:
            for key, (amount, count) in figures().items():
                meter.add(key, amount, count)
    return total * batch.mask


def nothing(completions: Sequence[Any], **_: Any) -> list[float]:
    """The score of a sample when all its rewards are token rewards."""
    return [0.0] * len(completions)
