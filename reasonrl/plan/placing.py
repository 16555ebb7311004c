"""Where a stage's work goes on N devices, and what does not fit: candidates, each with memory and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from reasonrl.plan.hardware import GB, Efficiency, Gpu
from reasonrl.plan.memory import Memory, Setting, Trained, training_memory
from reasonrl.plan.timing import StepWork, decode_seconds, training_seconds, transfer_seconds

#: Context of the device, libraries and allocator, of a process.
OVERHEAD = 1.5 * GB
#: Work space of an engine beside weights and cache.
ENGINE_OVERHEAD = 1.5 * GB


@dataclass(frozen=True)
class Job:
    """What is to be placed: a training stage, perhaps with samples to be drawn.

    Attributes:
        policy, critic, reference, setting: as `training_memory` takes them.
        work: of one step; None where the stage's data say nothing of lengths.
        draws: samples are drawn between updates.
        overlapped: the next step's samples are drawn while this one trains.
    """

    policy: Trained
    setting: Setting
    critic: Trained | None = None
    reference: bool = False
    work: StepWork | None = None
    draws: bool = False
    overlapped: bool = False
    longest: int = 0


@dataclass(frozen=True)
class Placement:
    """One way to use the devices.

    Attributes:
        name: `colocated`, `servers` (some devices draw, the others train) or `training`.
        trainers, servers: devices that train, and that draw alone; both at once if colocated.
        tensor_parallel: devices of one engine.
        zero: stage of ZeRO.
        memory: of a training process, by part.
        limit: bytes that it may use.
        at_once: samples that one engine decodes together.
        cache: bytes of keys and values that one engine can hold.
        seconds: of a step, by part.
        overlapped: drawing and training run side by side.
    """

    name: str
    trainers: int
    servers: int
    tensor_parallel: int
    zero: int
    memory: Memory
    limit: float
    at_once: int = 0
    cache: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    overlapped: bool = False

    @property
    def fits(self) -> bool:
        """Whether a training process, and an engine with one longest sample, have room."""
        return self.memory.peak <= self.limit and self.cache >= 0

    @property
    def total(self) -> float:
        """Seconds of a step."""
        drawing = self.seconds.get("generate", 0.0)
        rest = sum(self.seconds.values()) - drawing
        return max(drawing, rest) if self.overlapped else drawing + rest

    @property
    def launch(self) -> str:
        """As a recipe says it."""
        zero = f", deepspeed: zero{self.zero}" if self.zero else ""
        return f"launch: {{num_processes: {self.trainers}{zero}}}"


def placements(
    job: Job, gpu: Gpu, devices: int, efficiency: Efficiency, allowed: Callable[[int], bool]
) -> list[Placement]:
    """All candidates, those that fit first, the quickest first among them.

    Args:
        job: what is placed.
        gpu, devices, efficiency: the hardware.
        allowed: whether so many processes divide the samples of a step.
    """
    found = list(_candidates(job, gpu, devices, efficiency, allowed))
    return sorted(found, key=lambda one: (not one.fits, one.total if one.fits else one.memory.peak, one.zero))


def _candidates(
    job: Job, gpu: Gpu, devices: int, efficiency: Efficiency, allowed: Callable[[int], bool]
) -> Iterator[Placement]:
    limit = gpu.memory * efficiency.usable
    tensor = smallest_engine(job.policy, job.longest, limit, devices) if job.draws else 1
    splits = [0, *(count for count in _counts(devices) if job.draws and tensor and count % tensor == 0)]
    for servers in splits:
        trainers = max((n for n in range(1, devices - servers + 1) if allowed(n)), default=0)
        if not trainers or (servers == 0 and job.draws and not tensor):
            continue
        fitting = False
        for zero in (0, 1, 2, 3) if trainers > 1 else (0,):
            setting = replace(job.setting, processes=trainers, zero=zero)
            placed = _place(job, setting, gpu, limit, servers, tensor, efficiency)
            yield placed
            fitting |= placed.fits
            if fitting:
                break  # more sharing is slower, and nothing needs it


def _counts(devices: int) -> list[int]:
    """Numbers of devices that draw alone, out of all: at least one trains."""
    steps = {max(1, round(devices * share / 16)) for share in range(1, 16)}
    return sorted(count for count in steps if count < devices)


def smallest_engine(policy: Trained, longest: int, limit: float, devices: int) -> int:
    """Devices of one engine: the fewest (1, 2, 4, …) that hold the weights in bfloat16 and one longest sample."""
    need = 2.0 * policy.shape.parameters + policy.shape.cache_bytes_per_token() * longest
    for count in (1, 2, 4, 8, 16):
        if count <= devices and need / count + ENGINE_OVERHEAD <= limit:
            return count
    return 0


def _place(
    job: Job, setting: Setting, gpu: Gpu, limit: float, servers: int, tensor: int, efficiency: Efficiency
) -> Placement:
    weights = 2.0 * job.policy.shape.parameters / max(1, tensor) + ENGINE_OVERHEAD
    memory = training_memory(job.policy, setting, critic=job.critic, reference=job.reference, overhead=OVERHEAD)
    least = job.policy.shape.cache_bytes_per_token() * job.longest / max(1, tensor)
    cache = 0.0
    if job.draws and servers == 0:
        # The engine stays on the device while it trains: it gets what training leaves.
        room = limit - memory.peak - weights
        cache = max(room, least)
        memory = replace(memory, held={**memory.held, "engine": weights + cache})
    elif job.draws:
        cache = limit - weights
    name = "training" if not job.draws else "servers" if servers else "colocated"
    placed = Placement(name, setting.processes, servers, tensor, setting.zero, memory, limit, cache=cache * tensor)
    if job.work is None:
        return placed
    critic = None if job.critic is None else job.critic.shape
    seconds = training_seconds(job.work, job.policy.shape, critic, gpu, setting.processes, efficiency)
    at_once = 0
    if job.draws:
        engines = max(1, (servers or setting.processes) // tensor)
        drawing, at_once = decode_seconds(job.work, job.policy.shape, gpu, engines, tensor, cache * tensor, efficiency)
        seconds = {
            "generate": drawing,
            **seconds,
            "weights to engines": transfer_seconds(job.policy.shape, gpu, efficiency),
        }
    overlapped = job.overlapped and servers > 0
    return replace(placed, seconds=seconds, at_once=at_once, overlapped=overlapped)
