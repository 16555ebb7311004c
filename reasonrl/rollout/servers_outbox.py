"""What is written for servers: whole versions of a policy, or its base once and then adapters over it."""

from __future__ import annotations

import collections
import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import ModelError
from reasonrl.models.weights import checkpoint_names, checkpoint_weights
from reasonrl.rollout.adapters import (
    ADAPTER_MARK,
    LoraTransfer,
    Parts,
    adapter_weights,
    base_weights,
    require_adapter,
    write_adapter,
)
from reasonrl.rollout.servers_weights import WeightFolders, read_weights, require_names, write_weights
from reasonrl.rollout.vllm_images import file_names
from reasonrl.rollout.vllm_start import write_skeleton

if TYPE_CHECKING:
    import torch

Pairs = Iterable[tuple[str, "torch.Tensor"]]


class Outbox:
    """Writes versions, each into a folder of its own, under the labels that servers remember.

    Args:
        policy: the model in training, or None over a checkpoint.
        folders: where to write; None in a process that writes nothing, but takes part in gathering.
        labels: a new one for each folder.
        lora: `adapter` writes the base once, then only adapters.
        processor: written beside the weights, for servers whose model reads images.
    """

    def __init__(
        self,
        policy: Any,
        folders: WeightFolders | None,
        labels: Iterator[str],
        lora: LoraTransfer,
        processor: Any = None,
    ) -> None:
        self._processor = processor
        self._policy, self._folders, self._labels, self.lora = policy, folders, labels, lora
        #: Label and folder of the base, once it is written; the folder is None where nothing is.
        self.base: tuple[str, Path | None] | None = None

    def weights_of(self, policy: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """What `write` takes of a policy now."""
        if self.lora == "merge":
            return checkpoint_weights(policy)
        require_adapter(policy)
        return itertools.chain(() if self.base is not None else base_weights(policy), adapter_weights(policy))

    def write_base(self) -> tuple[str, Path | None]:
        """Write what servers start from: the whole policy, or its base without an adapter."""
        if self.lora == "merge":
            return self.write(checkpoint_weights(self._policy))
        with _read_to_the_end(base_weights(self._policy)) as weights:
            self.base = self._whole(weights)
        return self.base

    def write(self, weights: Pairs) -> tuple[str, Path | None]:
        """Write one version; its label and folder. Every process reads to the end: weights that are split over
        processes are gathered on the way.

        Raises:
            ModelError: weights are missing or unknown, or there is no room.
        """
        with _read_to_the_end(iter(weights)) as pairs:
            return self._whole(pairs) if self.lora == "merge" else self._parts(pairs)

    def _parts(self, weights: Pairs) -> tuple[str, Path | None]:
        parts = Parts(weights)
        base = parts.base()
        first = next(base, None)
        if first is not None:
            self.base = self._whole(itertools.chain([first], base))
        if self.base is None:
            raise ModelError("sync_weights: the adapter came before its base -> give what weights_of(policy) yields")
        label, folder = next(self._labels), None
        factors = parts.require_factors()
        if self._folders is not None:
            folder = self._folders.new(label)
            write_adapter(factors, folder)
        return f"{self.base[0]}{ADAPTER_MARK}{label}", folder

    def kept(self, folder: Path) -> set[str]:
        """Folders that servers may still start from or load, `folder` being the newest version's."""
        base = self.base[1] if self.base is not None else None
        return {str(folder)} if base is None else {str(folder), str(base)}

    def _whole(self, weights: Pairs) -> tuple[str, Path | None]:
        label = next(self._labels)
        if self._folders is None:
            for _ in weights:
                pass
            return label, None
        folder = self._folders.new(label)
        theirs = file_names(self._policy)
        seen = write_weights(((theirs(name), tensor) for name, tensor in weights), folder)
        if self._policy is not None:
            write_skeleton(self._policy, folder, self._processor)
            require_names(seen, frozenset(map(theirs, checkpoint_names(self._policy))))
        return label, folder

    def read(self, folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
        """What was written there, under the names that `write` takes."""
        ours = {} if self._policy is None else {file_names(self._policy)(n): n for n in checkpoint_names(self._policy)}
        for name, tensor in read_weights(sorted(folder.glob("*.safetensors"))):
            yield ours.get(name, name), tensor


@contextlib.contextmanager
def _read_to_the_end(weights: Iterator[tuple[str, torch.Tensor]]) -> Iterator[Iterator[tuple[str, torch.Tensor]]]:
    """Also where writing them fails: other processes gather split weights together with this one, and would wait."""
    try:
        yield weights
    except BaseException:
        collections.deque(weights, maxlen=0)
        raise
