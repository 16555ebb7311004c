"""Supervised examples without padding: a batch is one row, where each example attends to itself alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from reasonrl.models.packing import packed_inputs
from reasonrl.trainers.batch import MicroBatch
from reasonrl.trainers.packing import first_obstacle
from reasonrl.trainers.sft import IGNORED

_log = logging.getLogger(__name__)


class PaddingFreeCollator:
    """Sets the `input_ids` and `labels` of examples end to end: one packed row (`reasonrl.models.packing`)."""

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The packed row's inputs, and `labels` (1, N)."""
        # By length: equally long ones are attended to in one call.
        ordered = sorted(examples, key=lambda example: len(example["input_ids"]))
        labels = []
        for example in ordered:
            own = torch.tensor(example["labels"])
            own[:1] = IGNORED  # it follows another example, which must not predict it
            labels.append(own)
        inputs = packed_inputs([torch.tensor(example["input_ids"]) for example in ordered])
        return {**inputs, "labels": torch.cat(labels).unsqueeze(0)}


class PaddingFree:
    """Mixin over TRL's SFTTrainer: training batches without padding, where the model reads them rightly."""

    data_collator: Any

    def drop_padding(self, model: Any, tokenizer: Any, *, half: bool) -> str | None:
        """Set training batches end to end from now on, or leave all as it is and give the reason in words."""

        def read(micro: MicroBatch) -> torch.Tensor:
            logits = model(**micro.inputs, use_cache=False).logits
            fold = torch.cos(torch.arange(logits.shape[-1], device=logits.device, dtype=torch.float64)).to(logits)
            return micro.gather(logits @ fold)

        reason = first_obstacle([(model, read)], tokenizer, next(model.parameters()).device, half=half)
        if reason is None:
            self._padding, self.data_collator = self.data_collator, PaddingFreeCollator()
        else:
            _log.warning("sft: rows are padded, since %s", reason)
        return reason

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """Held-out examples are padded as ever: their loss is weighted by examples, of which a packed row is one."""
        packed, self.data_collator = self.data_collator, getattr(self, "_padding", self.data_collator)
        try:
            return super().get_eval_dataloader(*args, **kwargs)  # type: ignore[misc]
        finally:
            self.data_collator = packed
