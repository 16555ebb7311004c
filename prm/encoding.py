"""Solutions as token ids, with the position of every step's last token: where its score is read."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reasonrl.data_tools.pictures import pictures_of
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
        pictures: gives what a model takes for the prompt's pictures besides token ids, read when it is asked for; None
            for text.
    """

    ids: tuple[int, ...]
    prompt_length: int
    ends: tuple[int | None, ...]
    cut: bool = False
    pictures: Callable[[], dict[str, torch.Tensor]] | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def reached(self) -> list[int]:
        """Positions of the steps that were not cut off, in order."""
        return [end for end in self.ends if end is not None]


class Encoder:
    """Makes `Encoded` of solution records `{"problem" or "prompt", "text", "steps"}`.

    The prompt's tokens are exactly those that a rollout starts from; the solution is tokenised after it by itself.
    Nothing is put between steps: a score is read at the token that a step ends with. A record's pictures (`images`) are
    its prompt's.

    Args:
        tokenizer: a fast one (it gives the offsets of its tokens), or a processor, which reads pictures too.
        max_length: tokens of prompt and solution that are kept; None keeps all.
        messages: makes a record's conversation.

    Raises:
        ModelError: the tokenizer gives no offsets.
    """

    def __init__(self, tokenizer: Any, max_length: int | None = None, messages: Messages = as_messages) -> None:
        self.tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor
        self.processor: Any = None if self.tokenizer is tokenizer else tokenizer
        self._pictures: Any = None
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
            DataError: it has no text or no steps, or they do not partition the text; it has pictures, and they cannot
                be read, or the model reads text only. It names the record.
        """
        owner, text = solution.get("id", "?"), solution.get("text")
        if not isinstance(text, str) or not text:
            raise DataError(f"solution {owner}: text is {text!r}, but a solution needs one")
        if solution.get("steps") is None:
            raise DataError(f"solution {owner}: it has no steps -> segment it: steps: [[start, end], …] in characters")
        steps = steps_from_spans(solution["steps"])
        if (fault := partition_fault(text, steps)) is not None:
            raise DataError(f"solution {owner}: {fault} -> segment the text again")
        prompt, pictures = self._prompt(solution, str(owner))
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
        if pictures is not None and self.processor.image_token_id in ids:
            raise DataError(f"solution {owner}: its text holds the mark of a picture -> leave it out")
        room = len(ids) if self.max_length is None else max(0, self.max_length - len(prompt))
        cut = len(ids) > room
        ends = token_ends(steps, offsets[:room], None if cut else text)
        places = tuple(len(prompt) + end if end >= 0 else None for end in ends)
        return Encoded((*prompt, *ids[:room]), len(prompt), places, cut, pictures)

    def _prompt(self, solution: Mapping[str, Any], owner: str) -> tuple[Sequence[int], Any]:
        """Token ids, and what reads the pictures."""
        messages = self.messages(solution)
        row = {"id": owner, "prompt": messages, "images": pictures_of(solution)}
        if row["images"]:
            return self._reader(owner).prompt(row).ids, functools.partial(self._features, row)
        key = repr(messages)
        if key not in self._prompts:
            if len(self._prompts) >= 4096:  # candidates of one problem stand together
                self._prompts.clear()
            # As rollouts of a model that reads pictures: its processor makes prompts of text too.
            seeing = getattr(self.processor, "chat_template", None)
            self._prompts[key] = (
                [*self._reader(owner).prompt(row).ids] if seeing else prompt_ids(self.tokenizer, messages)
            )
        return self._prompts[key], None

    def _reader(self, owner: str) -> Any:
        """What makes prompts with pictures, shared with the rollouts' so that both see the same tokens."""
        if self._pictures is None:
            if self.processor is None:
                raise DataError(
                    f"solution {owner}: it has pictures, and the model reads text only -> take a vision-language model,"
                    " or leave it out"
                )
            from reasonrl.rollout.picture_prompts import PicturePrompts

            self._pictures = PicturePrompts(self.processor)
        return self._pictures

    def _features(self, row: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        from reasonrl.rollout.engine import Request

        prompt = self._pictures.prompt(row)
        features: dict[str, torch.Tensor] = self._pictures.features(
            Request(row["id"], prompt.ids, 0, images=prompt.images), row["id"]
        )
        return features


def step_logits(
    forward: Callable[..., torch.Tensor],
    rows: Sequence[Encoded],
    device: torch.device,
    *,
    packed: bool,
    pad_token_id: int,
    anchor: Encoded | None = None,
) -> torch.Tensor:
    """(S,) what a scalar-head model reads at the step ends of some solutions, one after another; one pass.

    Args:
        forward: the model, or what wraps it.
        rows: at least one; steps that were cut off are left out.
        device: where the inputs are put.
        packed: set the sequences end to end in one row (`reasonrl.models.packing`), else pad them, as pictures want.
        pad_token_id: fills padded inputs.
        anchor: a solution with a picture that is read along, and nothing made of it, where none of the rows has one:
            every process then goes through the same parts of the model. Padded rows only.
    """
    import torch

    from reasonrl.models.packing import packed_inputs

    if packed and all(row.pictures is None for row in rows):
        starts = [0, *itertools.accumulate(map(len, rows))]
        flat = [start + end for start, row in zip(starts, rows, strict=False) for end in row.reached]
        inputs = packed_inputs([torch.tensor(row.ids, dtype=torch.long, device=device) for row in rows])
    else:
        alongside = [anchor] if anchor is not None and all(row.pictures is None for row in rows) else []
        inputs = _padded_inputs([*rows, *alongside], device, pad_token_id)
        width = inputs["input_ids"].shape[1]
        flat = [number * width + end for number, row in enumerate(rows) for end in row.reached]
    values = forward(**inputs)
    return values.flatten()[torch.tensor(flat, dtype=torch.long, device=values.device)]


def plan_rows(rows: Sequence[int], encoded: Sequence[Encoded], tokens: int, *, packed: bool) -> list[list[int]]:
    """Which solutions go through the model together, within `tokens`: packed text, then padded rows."""
    from reasonrl.algorithms.batching import plan_microbatches, plan_packed_rows

    lengths = [len(one) for one in encoded]
    padded = [row for row in rows if not packed or encoded[row].pictures is not None]
    text = [row for row in rows if packed and encoded[row].pictures is None]
    return plan_packed_rows(text, lengths, tokens) + plan_microbatches(padded, lengths, tokens)


def _padded_inputs(rows: Sequence[Encoded], device: torch.device, pad_token_id: int) -> dict[str, Any]:
    import torch

    from reasonrl.rollout.image_reader import batch_inputs

    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_token_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row.ids, dtype=torch.long)
        mask[number, : len(row)] = 1
    ids = ids.to(device)
    pictures = [{} if row.pictures is None else row.pictures() for row in rows]
    return {"input_ids": ids, "attention_mask": mask.to(device), **batch_inputs(pictures, ids)}
