"""What tells two checkpoints apart without reading them whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BLOCK = 1 << 16
_BLOCKS = 32
_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pt", "*.pth")


def model_fingerprint(path: str | Path) -> str | None:
    """A hash of a checkpoint folder's configuration, and of names, sizes and 32 blocks (64 KiB) of each weight file.

    It does not change when the folder is moved or copied. Weights of another training differ in every block, so that
    blocks spread over the file tell them apart; a change of a few numbers may go unseen.

    Args:
        path: the folder.

    Returns:
        16 hexadecimal digits; None for a model of the hub, which is no folder.
    """
    folder = Path(path)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for name in ("config.json", "generation_config.json", "adapter_config.json"):
        if (folder / name).is_file():
            digest.update(name.encode() + (folder / name).read_bytes())
    for file in sorted(file for pattern in _WEIGHTS for file in folder.glob(pattern)):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as weights:
            for turn in range(_BLOCKS):
                weights.seek(max(0, size - _BLOCK) * turn // (_BLOCKS - 1))
                digest.update(weights.read(_BLOCK))
    return digest.hexdigest()[:16]
