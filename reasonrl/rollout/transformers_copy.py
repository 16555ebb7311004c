"""The transformers engine over a copy of the policy: an engine with weights of its own, and nothing but transformers.

The copy takes the policy's weights when it is given them, and not before; so it may draw while the policy is trained.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from reasonrl.errors import ModelError
from reasonrl.rollout.transformers_engine import TransformersEngine

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class TransformersCopyEngine(TransformersEngine):
    """Batched decoding with a copy of the policy; LoRA layers are merged in the copy.

    Args:
        model: the policy; it is not changed.
        tokenizer: see `TransformersEngine`, as the options.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **options: Any) -> None:
        own: Any = copy.deepcopy(model)
        for module in own.modules():
            # A trainer puts its own `forward` before the class's; a copy of that would still run the policy.
            vars(module).pop("forward", None)
        if hasattr(own, "peft_config"):
            own = own.merge_and_unload()
        own.requires_grad_(False)
        if own.is_gradient_checkpointing:
            own.gradient_checkpointing_disable()
        super().__init__(own, tokenizer, **options)

    def held_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The weights that it draws with, as `sync_weights` takes them."""
        yield from self.model.named_parameters()

    def sync_weights(self, weights: Iterable[tuple[str, torch.Tensor]], version: int, *, compare: bool = True) -> None:
        """Copy weights by name; the copy moves to their device. With an empty iterator only the version moves on.
        Nothing is compared, whatever `compare` says.

        Raises:
            ModelError: a name is unknown, a tensor has another shape, or a parameter was not given.
        """
        del compare
        weights = iter(weights)
        first = next(weights, None)
        if first is None:
            self.weight_version = version
            return
        if first[1].device != self.model.device and first[1].device.type != "cpu":  # files are read to main memory
            self.model.to(first[1].device)
        seen: set[int] = set()
        own = dict(self.model.named_parameters(remove_duplicate=False))

        def noted() -> Iterable[tuple[str, torch.Tensor]]:
            for name, tensor in itertools.chain([first], weights):
                seen.add(id(own.get(name)))
                yield name, tensor

        super().sync_weights(noted(), version)
        missing = [name for name, parameter in self.model.named_parameters() if id(parameter) not in seen]
        if missing:
            raise ModelError(
                f"sync_weights: {len(missing)} weights were not given: {', '.join(missing[:3])} -> give all weights of"
                " the policy, under the names of its checkpoint"
            )
