"""Safetensors files read and written a piece at a time: what is in memory is a piece, not a file.

The library maps a file into memory, where every page that was touched counts as the process's own until the system
wants it back; here bytes are read where they are wanted, and nothing stays.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from reasonrl.errors import ModelError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_LONGEST_HEADER = 100_000_000  # as in the format's own description
DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class TensorInfo:
    """What a file's header says of one tensor.

    Attributes:
        dtype: the format's word, such as `BF16`.
        shape: of the tensor.
        start, end: bytes from the beginning of the data.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def count(self) -> int:
        """Numbers in it."""
        count = 1
        for side in self.shape:
            count *= side
        return count


class TensorFile:
    """One open safetensors file.

    Raises:
        ModelError: it is none, is cut, or holds numbers of a kind that is not known here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise ModelError(f"{path}: cannot be read: {error.strerror} -> is the checkpoint whole?") from error
        try:
            self.tensors, self.metadata, self._data = _header(path, self._file)
        except BaseException:
            self._file.close()
            raise

    def read(self, name: str, start: int, count: int) -> torch.Tensor:
        """[count] numbers of a tensor from the `start`-th on, row by row; a copy."""
        info = self.tensors[name]
        dtype = DTYPES[info.dtype]
        wanted = bytearray(count * dtype.itemsize)
        place = self._data + info.start + start * dtype.itemsize
        done, view = 0, memoryview(wanted)
        while done < len(wanted):
            read = os.preadv(self._file.fileno(), [view[done:]], place + done)
            if read == 0:
                raise ModelError(f"{self.path}: ends in the middle of {name!r} -> is the checkpoint whole?")
            done += read
        return torch.frombuffer(wanted, dtype=dtype) if count else torch.empty(0, dtype=dtype)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _header(path: Path, file: Any) -> tuple[dict[str, TensorInfo], dict[str, str], int]:
    size = path.stat().st_size
    head = file.read(8)
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if not 2 <= length <= min(_LONGEST_HEADER, size - 8):
        raise ModelError(f"{path}: is no safetensors file, or cut -> is the checkpoint whole?")
    try:
        header: dict[str, Any] = json.loads(file.read(length))
        metadata = header.pop("__metadata__", None) or {}
        tensors = {
            name: TensorInfo(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
            for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: its header cannot be read: {error} -> is the checkpoint whole?") from error
    for name, info in tensors.items():
        if info.dtype not in DTYPES:
            known = ", ".join(DTYPES)
            raise ModelError(f"{path}: {name!r} holds {info.dtype} -> known are {known}; convert the checkpoint")
        if info.end - info.start != info.count * DTYPES[info.dtype].itemsize or 8 + length + info.end > size:
            raise ModelError(f"{path}: {name!r} is not as long as its shape says -> is the checkpoint whole?")
    return tensors, metadata, 8 + length


class Checkpoint:
    """The weights of a folder, in one file or in shards.

    Attributes:
        shards: names of the files, in order.
        where: file of each tensor.

    Raises:
        ModelError: the folder has none.
    """

    def __init__(self, folder: Path, single: str = SINGLE) -> None:
        self.folder = folder
        index = folder / INDEX
        if (folder / single).is_file():
            names = [single]
        elif index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        else:
            there = ", ".join(sorted(path.name for path in folder.glob("*"))[:8]) if folder.is_dir() else "no folder"
            raise ModelError(
                f"{folder}: has no {single} and no {INDEX} ({there}) -> name a folder with safetensors weights"
                " (pickled .bin files are not read)"
            )
        self.files = {name: TensorFile(folder / name) for name in names}
        self.shards = names
        self.where = {name: file for file in self.files.values() for name in file.tensors}

    def read(self, name: str, start: int, count: int) -> torch.Tensor:
        """As `TensorFile.read`."""
        return self.where[name].read(name, start, count)

    def info(self, name: str) -> TensorInfo:
        """Kind and shape of a tensor."""
        return self.where[name].tensors[name]

    def close(self) -> None:
        """Close its files."""
        for file in self.files.values():
            file.close()


def write_tensors(
    target: Path,
    like: Mapping[str, TensorInfo],
    metadata: Mapping[str, str],
    pieces: Iterable[torch.Tensor],
) -> None:
    """Write a file of tensors of these kinds and shapes, whole or not at all.

    Args:
        target: the file.
        like: what stands in it; its order is that of `pieces`.
        metadata: of the file.
        pieces: the numbers of all tensors one after the other, in pieces.
    """
    place, header = 0, {}
    for name, info in like.items():
        size = info.count * DTYPES[info.dtype].itemsize
        header[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [place, place + size]}
        place += size
    text = json.dumps({"__metadata__": dict(metadata), **header} if metadata else header).encode()
    text += b" " * (-len(text) % 8)
    staging, written = target.with_name(f".{target.name}.partial"), 0
    with staging.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for piece in pieces:
            written += file.write(piece.contiguous().view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
    if written != place:
        staging.unlink()
        raise ModelError(f"{target}: {written} bytes of {place} were made -> this is a fault of reasonrl")
    staging.replace(target)
