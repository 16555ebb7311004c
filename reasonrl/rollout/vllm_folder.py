"""A checkpoint's folder as vLLM can start from it: vLLM finds some towers only under the names of their first release,
and transformers 5 saves them under newer ones.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

from reasonrl.errors import ModelError
from reasonrl.rollout.vllm_images import NESTED_TOWERS, file_names_of

_INDEX = "model.safetensors.index.json"


def startable(path: str, place: Path) -> str:
    """What vLLM starts from to get the checkpoint at `path`.

    Args:
        path: a folder, or the hub id of a checkpoint.
        place: an existing folder that lives as long as the engine.

    Returns:
        `path`, or, where the weights of a tower have other names than vLLM's, a new folder in `place`: links to the
        checkpoint's files, and copies of those with such weights, renamed.

    Raises:
        ModelError: there is no room for the copies.
    """
    source = Path(path)
    theirs = file_names_of(_tower(source))
    renamed = [file for file in sorted(source.glob("*.safetensors")) if _head(file, theirs) is not None]
    if not renamed:
        return path
    folder = place / "checkpoint"
    try:
        _write(source, renamed, folder, theirs)
    except OSError as problem:
        raise ModelError(
            f"rollout: {path!r} names the weights of its tower as vLLM does not, and a renamed copy cannot be written"
            f" to {str(folder)!r}: {problem} -> make room there"
        ) from None
    return str(folder)


def _write(source: Path, renamed: list[Path], folder: Path, theirs: Callable[[str], str]) -> None:
    folder.mkdir()
    for file in source.iterdir():
        if file.name == _INDEX:
            index = json.loads(file.read_text())
            index["weight_map"] = {theirs(name): where for name, where in index["weight_map"].items()}
            (folder / file.name).write_text(json.dumps(index))
        elif file not in renamed:
            (folder / file.name).symlink_to(file.resolve())
    for file in renamed:
        _copy(file, folder / file.name, theirs)


def _tower(source: Path) -> str | None:
    """The kind of a checkpoint's tower; None for a text model, and for what is no folder here."""
    config = source / "config.json"
    if not config.is_file():
        return None
    kind = (json.loads(config.read_text()).get("vision_config") or {}).get("model_type")
    return kind if kind in NESTED_TOWERS else None


def _head(file: Path, theirs: Callable[[str], str]) -> tuple[bytes, int] | None:
    """A safetensors file's header with names changed, and where its data begins; None where no name changes.

    The format (https://github.com/huggingface/safetensors): eight bytes, the header's length N, little-endian; N bytes
    of JSON from names to dtype, shape and place in the data; the data.
    """
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        entries = json.loads(stream.read(length))
    changed = {theirs(name): entry for name, entry in entries.items()}
    if changed.keys() == entries.keys():
        return None
    text = json.dumps(changed).encode()
    return text + b" " * (-len(text) % 8), 8 + length


def _copy(file: Path, target: Path, theirs: Callable[[str], str]) -> None:
    found = _head(file, theirs)
    assert found is not None
    head, start = found
    with file.open("rb") as source, target.open("wb") as out:
        out.write(struct.pack("<Q", len(head)) + head)
        source.seek(start)
        shutil.copyfileobj(source, out, 1 << 24)
