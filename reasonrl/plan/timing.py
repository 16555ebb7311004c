"""Tokens, FLOPs and seconds of a step from stated efficiencies."""

from __future__ import annotations

import math
from dataclasses import dataclass

from reasonrl.plan.hardware import Efficiency, Gpu
from reasonrl.plan.shapes import ModelShape


@dataclass(frozen=True)
class Lengths:
    """Of a response, in tokens.

    Attributes:
        mean: over all.
        longest: of a batch: it decides when drawing ends.
        prompt: mean length of a prompt.
    """

    mean: float
    longest: float
    prompt: float


@dataclass(frozen=True)
class StepWork:
    """What a step reads, draws and trains.

    Attributes:
        samples: sequences of a step.
        lengths: theirs.
        policy_passes, critic_passes: passes with a gradient over all samples.
        policy_reads, critic_reads: passes without one.
        checkpointing: a pass with a gradient then costs four forward passes instead of three.
    """

    samples: int
    lengths: Lengths
    policy_passes: float = 1.0
    critic_passes: float = 0.0
    policy_reads: float = 1.0
    critic_reads: float = 0.0
    checkpointing: bool = False

    @property
    def tokens(self) -> float:
        """Read in one pass over all samples."""
        return self.samples * (self.lengths.prompt + self.lengths.mean)

    def flops(self, policy: ModelShape, critic: ModelShape | None) -> dict[str, float]:
        """Of a whole step over all devices, by part."""
        context = (self.lengths.prompt + self.lengths.mean) / 2
        price = 4.0 if self.checkpointing else 3.0
        one = policy.forward_flops(self.tokens, context)
        other = critic.forward_flops(self.tokens, context) if critic is not None else 0.0
        return {
            "generate": policy.forward_flops(self.tokens, context),
            "log-probabilities": self.policy_reads * one,
            "values": self.critic_reads * other,
            "critic update": self.critic_passes * price * other,
            "policy update": self.policy_passes * price * one,
        }


def training_seconds(
    work: StepWork, policy: ModelShape, critic: ModelShape | None, gpu: Gpu, devices: int, efficiency: Efficiency
) -> dict[str, float]:
    """Seconds of a step's passes on `devices`, by part."""
    flops = work.flops(policy, critic)
    flops.pop("generate")
    share = {name: efficiency.train if "update" in name else efficiency.read for name in flops}
    return {name: count / (gpu.flops * share[name] * devices) for name, count in flops.items() if count}


def decode_seconds(
    work: StepWork,
    shape: ModelShape,
    gpu: Gpu,
    engines: int,
    tensor_parallel: int,
    cache_bytes: float,
    efficiency: Efficiency,
) -> tuple[float, int]:
    """Seconds of drawing a step's samples on `engines` of `tensor_parallel` devices each, and samples decoded at once.

    A decode step reads all weights and the cache of all its samples from memory, or is bound by arithmetic. Drawing
    lasts at least as long as the longest sample's steps, and as long as all tokens in batches of what the cache holds.
    """
    lengths = work.lengths
    context = lengths.prompt + lengths.mean / 2
    each_bytes = shape.cache_bytes_per_token() * (lengths.prompt + lengths.mean)
    share = math.ceil(work.samples / engines)
    at_once = max(1, min(share, int(cache_bytes / each_bytes))) if cache_bytes > 0 else 1

    def step(batch: float) -> float:
        moved = 2.0 * shape.multiplied + batch * context * shape.cache_bytes_per_token()
        memory = moved / (gpu.bandwidth * efficiency.decode * tensor_parallel)
        arithmetic = shape.forward_flops(batch, context) / (gpu.flops * efficiency.read * tensor_parallel)
        return max(memory, arithmetic)

    throughput = share * lengths.mean / at_once * step(at_once)
    tail = max(0.0, lengths.longest - lengths.mean) * step(1)
    prefill = shape.forward_flops(share * lengths.prompt, lengths.prompt / 2)
    return throughput + tail + prefill / (gpu.flops * efficiency.read * tensor_parallel), at_once


def transfer_seconds(shape: ModelShape, gpu: Gpu, efficiency: Efficiency) -> float:
    """Seconds for bfloat16 weights to every engine, each over its own link."""
    return 2.0 * shape.parameters / (gpu.link * efficiency.transfer)
