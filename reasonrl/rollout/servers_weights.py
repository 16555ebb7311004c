"""Weights on their way to servers: one folder a version, in shared memory where there is room, as files that every
server reads by itself.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from reasonrl.errors import ModelError

if TYPE_CHECKING:
    import torch

_SHARD_BYTES = 4 << 30
_PREFIX = "reasonrl-servers-"
_SHARED_MEMORY = Path("/dev/shm")
_SPARE = 1.2


class WeightFolders:
    """The run's folder with one folder a version below it; readable by this user only.

    Args:
        parent: where to make it; None takes shared memory if twice `needed` fits there, else the temporary folder.
        needed: bytes of one version.

    Raises:
        ModelError: the folder cannot be made.
    """

    def __init__(self, parent: str | None, needed: int) -> None:
        place = Path(parent) if parent is not None else _roomy(needed)
        try:
            sweep(place)
            self.root = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=place))
        except OSError as problem:
            raise ModelError(
                f"rollout.weights_dir: {str(place)!r} takes no new folder ({problem}) -> name one that exists and that"
                " this user may write"
            ) from None

    def new(self, label: str) -> Path:
        """An empty folder for a version."""
        folder = self.root / label
        folder.mkdir()
        return folder

    def keep_only(self, folders: set[str]) -> None:
        """Remove all versions but these."""
        for folder in self.root.glob("v*"):
            if str(folder) not in folders:
                shutil.rmtree(folder, ignore_errors=True)

    def remove(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.root, ignore_errors=True)


def write_weights(weights: Iterable[tuple[str, torch.Tensor]], folder: Path) -> frozenset[str]:
    """Write tensors as safetensors files of at most 4 GiB each (or one tensor), at most that much held at a time.

    Returns:
        The names that were written.

    Raises:
        ModelError: a name came twice, or the folder is full.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    seen: set[str] = set()
    shard: dict[str, torch.Tensor] = {}
    held = files = 0

    def flush() -> None:
        nonlocal held, files, shard
        if shard:
            save_file(shard, folder / f"model-{files:05d}.safetensors", metadata={"format": "pt"})
            files, held, shard = files + 1, 0, {}

    try:
        for name, tensor in weights:
            if name in seen:
                raise ModelError(f"sync_weights: {name!r} came twice")
            seen.add(name)
            tensor = tensor.detach().to("cpu").contiguous()
            size = tensor.numel() * tensor.element_size()
            if tensor.untyped_storage().nbytes() != size:  # a view: the file format takes no shared storage
                tensor = tensor.clone()
            if held + size > _SHARD_BYTES:
                flush()
            shard[name] = tensor
            held += size
        flush()
    except (OSError, SafetensorError) as problem:
        raise ModelError(
            f"sync_weights: the weights cannot be written to {str(folder)!r}: {problem} -> make room, or set"
            " rollout.weights_dir"
        ) from None
    return frozenset(seen)


def read_weights(files: Iterable[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of safetensors files, one at a time."""
    from safetensors import safe_open

    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                yield name, tensors.get_tensor(name)


def bytes_of(model: torch.nn.Module) -> int:
    """Of one version of a model's weights, those that ZeRO-3 has split counted whole."""
    return sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in model.parameters())


def require_names(given: frozenset[str], expected: frozenset[str]) -> None:
    """Raises ModelError where weights are missing, or unknown to the policy."""
    if given != expected:
        raise ModelError(
            f"sync_weights: {len(expected - given)} weights are missing ({_some(expected - given)}) and"
            f" {len(given - expected)} are unknown ({_some(given - expected)}) -> give all weights of the policy,"
            " under the names of its checkpoint"
        )


def _some(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)[:3]) or "none"


def sweep(place: Path) -> None:
    """Remove folders of runs whose process is gone."""
    for folder in place.glob(f"{_PREFIX}*"):
        found = re.match(rf"{_PREFIX}(\d+)-", folder.name)
        if found and folder.stat().st_uid == os.getuid() and not _alive(int(found[1])):
            shutil.rmtree(folder, ignore_errors=True)


def _roomy(needed: int) -> Path:
    there = _SHARED_MEMORY.is_dir() and os.access(_SHARED_MEMORY, os.W_OK)
    # The next version is written while a server may still start from the last one.
    roomy = there and shutil.disk_usage(_SHARED_MEMORY).free > 2 * _SPARE * needed
    return _SHARED_MEMORY if roomy else Path(tempfile.gettempdir())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
