"""Solutions as token ids, with the position of every step's last token: where its score is read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reasonrl.data_tools.prompts import Message, as_messages, prompt_ids
from reasonrl.errors import DataError, ModelError
from reasonrl.prm.steps import partition_fault, steps_from_spans, token_ends

if TYPE_CHECKING:
    import torch

Messages = Callable[[Mapping[str, Any]], list[Message]]


@dataclass(frozen=True)
class Encoded:
    """A prompt and its solution as one sequence.

    Attributes:
        ids: token ids of both.
        prompt_length: how many of them are the prompt's.
        ends: position in `ids` of every step's last token; None where the sequence was cut before it.
        cut: whether tokens were left out at the end.
    """

    ids: tuple[int, ...]
    prompt_length: int
    ends: tuple[int | None, ...]
    cut: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def reached(self) -> list[int]:
        """Positions of the steps that were not cut off, in order."""
        return [end for end in self.ends if end is not None]


class Encoder:
    """Makes `Encoded` of solution records `{"problem" or "prompt", "text", "steps"}`.

    The prompt's tokens are exactly those that a rollout starts from; the solution is tokenised after it by itself.
    Nothing is put between steps: a score is read at the token that a step ends with.

    Args:
        tokenizer: a fast one (it gives the offsets of its tokens).
        max_length: tokens of prompt and solution that are kept; None keeps all.
        messages: makes a record's conversation.

    Raises:
        ModelError: the tokenizer gives no offsets.
    """

    def __init__(self, tokenizer: Any, max_length: int | None = None, messages: Messages = as_messages) -> None:
        self.tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
        if not getattr(self.tokenizer, "is_fast", False):
            raise ModelError(
                f"{type(self.tokenizer).__name__} gives no offsets of its tokens, which step ends are found by -> use"
                " the model's fast tokenizer (tokenizer.json)"
            )
        self.max_length, self.messages = max_length, messages
        self._prompts: dict[str, list[int]] = {}

    def __call__(self, solution: Mapping[str, Any]) -> Encoded:
        """Encode one solution.

        Raises:
            DataError: it has no text or no steps, or they do not partition the text; it names the record.
        """
        owner, text = solution.get("id", "?"), solution.get("text")
        if not isinstance(text, str) or not text:
            raise DataError(f"solution {owner}: text is {text!r}, but a solution needs one")
        if solution.get("steps") is None:
            raise DataError(f"solution {owner}: it has no steps -> segment it: steps: [[start, end], …] in characters")
        if solution.get("images"):
            raise DataError(f"solution {owner}: it has images, which step scores are not read of yet -> leave it out")
        steps = steps_from_spans(solution["steps"])
        if (fault := partition_fault(text, steps)) is not None:
            raise DataError(f"solution {owner}: {fault} -> segment the text again")
        prompt = self._prompt(solution)
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
        room = len(ids) if self.max_length is None else max(0, self.max_length - len(prompt))
        cut = len(ids) > room
        ends = token_ends(steps, offsets[:room], None if cut else text)
        return Encoded(
            (*prompt, *ids[:room]), len(prompt), tuple(len(prompt) + end if end >= 0 else None for end in ends), cut
        )

    def _prompt(self, solution: Mapping[str, Any]) -> list[int]:
        messages = self.messages(solution)
        key = repr(messages)
        if key not in self._prompts:
            if len(self._prompts) >= 4096:  # candidates of one problem stand together
                self._prompts.clear()
            self._prompts[key] = prompt_ids(self.tokenizer, messages)
        return self._prompts[key]


def step_logits(
    forward: Callable[..., torch.Tensor],
    rows: Sequence[Encoded],
    device: torch.device,
    *,
    packed: bool,
    pad_token_id: int,
) -> torch.Tensor:
    """(S,) what a scalar-head model reads at the step ends of some solutions, one after another; one pass.

    Args:
        forward: the model, or what wraps it.
        rows: at least one; steps that were cut off are left out.
        device: where the inputs are put.
        packed: set the sequences end to end in one row (`reasonrl.models.packing`), else pad them.
        pad_token_id: fills padded inputs.
    """
    import torch

    from reasonrl.models.packing import packed_inputs

    sequences = [torch.tensor(row.ids, dtype=torch.long) for row in rows]
    starts = [0, *itertools.accumulate(map(len, rows))]
    if packed:
        flat = [start + end for start, row in zip(starts, rows, strict=False) for end in row.reached]
        inputs = packed_inputs([sequence.to(device) for sequence in sequences])
    else:
        width = max(map(len, rows))
        flat = [number * width + end for number, row in enumerate(rows) for end in row.reached]
        ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for number, sequence in enumerate(sequences):
            ids[number, : len(sequence)] = sequence
            mask[number, : len(sequence)] = 1
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.to(device)}
    values = forward(**inputs)
    return values.flatten()[torch.tensor(flat, dtype=torch.long, device=values.device)]
