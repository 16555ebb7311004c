"""What devices can do, and the share of it that a plan counts on."""

from __future__ import annotations

import re
from dataclasses import dataclass

from reasonrl.errors import RunError
from reasonrl.plugins import near

GB = 10**9
GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """A device, as its maker states it.

    Attributes:
        memory: bytes.
        flops: bfloat16 matrix products a second, dense.
        bandwidth: bytes a second of its own memory.
        link: bytes a second to another device of the machine.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    link: float


def _gpu(name: str, gib: float, teraflops: float, terabytes: float, link: float) -> Gpu:
    return Gpu(name, gib * GIB, teraflops * 1e12, terabytes * 1e12, link * GB)


#: By the name on the command line; memory as the driver shows it (GiB).
GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        _gpu("b200-180", 178, 2250, 8.0, 900),
        _gpu("h200-141", 140, 989, 4.8, 450),
        _gpu("h100-80", 79.6, 989, 3.35, 450),
        _gpu("h800-80", 79.6, 989, 3.35, 200),
        _gpu("h20-96", 95, 148, 4.0, 450),
        _gpu("a100-80", 79.3, 312, 2.04, 300),
        _gpu("a100-40", 39.6, 312, 1.56, 300),
        _gpu("l40s-48", 44.7, 362, 0.86, 32),
        _gpu("a10-24", 22.5, 125, 0.6, 32),
        _gpu("rtx4090-24", 24, 165, 1.01, 32),
    )
}


@dataclass(frozen=True)
class Efficiency:
    """Shares of what a device can do that a run gets. Stated, not measured: change them to what your runs show.

    Attributes:
        train: of the FLOPs, in forward and backward passes.
        read: of the FLOPs, in forward passes alone and in reading prompts.
        decode: of the memory bandwidth, while tokens are drawn.
        transfer: of the link, while weights go to the engines.
        usable: of a device's memory that can be filled before fragments stop a run.
    """

    train: float = 0.35
    read: float = 0.45
    decode: float = 0.5
    transfer: float = 0.5
    usable: float = 0.92


STATED = Efficiency()


def parse_gpu(text: str) -> Gpu:
    """A name of the table, or `name:GIB:TFLOPS:TB_PER_S` for another device.

    Raises:
        RunError: neither.
    """
    if text.lower() in GPUS:
        return GPUS[text.lower()]
    match = re.fullmatch(r"([\w-]+):([\d.]+):([\d.]+):([\d.]+)", text)
    if match is None:
        raise RunError(f"--gpu {text!r} is not known{near(text.lower(), GPUS)}; or NAME:GIB:TFLOPS:TB_PER_S")
    return _gpu(match[1], float(match[2]), float(match[3]), float(match[4]), 32)
