"""Memory of one process of a training stage, by part and by phase."""

from __future__ import annotations

from dataclasses import dataclass

from reasonrl.plan.shapes import ModelShape

#: Bytes a parameter of a frozen base weight.
BASE = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "8bit": 1.0, "4bit": 0.5625}
#: Elements of one of DeepSpeed's exchange buffers, as it sets them.
ZERO_BUCKET = 500_000_000
#: The head is scored in pieces of so many logits, or at once below; a piece is held about this many times over.
LOGITS_PIECE, LOGITS_COPIES = 1 << 24, 3.0


@dataclass(frozen=True)
class Trained:
    """A model in training.

    Attributes:
        shape: its sizes.
        adapter: trained parameters of a LoRA adapter; None: all are trained.
        base: type of frozen weights, a key of `BASE`.
        head: whether the model ends in one number a token (a critic), not in logits.
    """

    shape: ModelShape
    adapter: int | None = None
    base: str = "float32"
    head: bool = False

    @property
    def parameters(self) -> int:
        """All: a critic has no output embedding of its own."""
        shape = self.shape
        return shape.parameters - (shape.embedding if self.head and not shape.tied else 0)

    @property
    def trained(self) -> int:
        """Those that have a gradient and two moments."""
        return self.parameters if self.adapter is None else self.adapter

    @property
    def frozen(self) -> int:
        """The others."""
        return 0 if self.adapter is None else self.parameters


@dataclass(frozen=True)
class Setting:
    """How it is trained.

    Attributes:
        processes: that share the work.
        zero: stage of ZeRO; 0 for none.
        half: bfloat16 arithmetic (weights and moments stay in float32).
        checkpointing: activations are computed again in the backward pass.
        microbatch_tokens: of the largest micro-batch.
    """

    processes: int = 1
    zero: int = 0
    half: bool = False
    checkpointing: bool = False
    microbatch_tokens: int = 16384

    def share(self, stage: int) -> float:
        """What one process holds of what this stage of ZeRO splits up: 3 weights, 2 gradients, 1 moments."""
        return 1 / self.processes if self.zero >= stage else 1.0


@dataclass(frozen=True)
class Memory:
    """Bytes of one process by part; `peak` is that of the phase that needs most, with what lies beside it.

    Attributes:
        held: parts that are there all the time, by name.
        phases: parts of each phase, by name.
    """

    held: dict[str, float]
    phases: dict[str, dict[str, float]]

    @property
    def worst(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def peak(self) -> float:
        """Bytes at the worst moment."""
        return sum(self.held.values()) + max((sum(parts.values()) for parts in self.phases.values()), default=0.0)

    @property
    def parts(self) -> dict[str, float]:
        """The parts of the worst moment."""
        return {**self.held, **self.phases[self.worst]} if self.phases else dict(self.held)


def training_memory(
    policy: Trained,
    setting: Setting,
    *,
    critic: Trained | None = None,
    reference: bool = False,
    generation: float = 0.0,
    engine: float = 0.0,
    overhead: float = 0.0,
) -> Memory:
    """Memory of a training stage.

    Args:
        policy: the model (of a supervised stage too).
        setting: how it is trained.
        critic: PPO's.
        reference: a third model is held frozen.
        generation: bytes while samples are drawn, in the trainer's process (its KV cache; a gathered copy).
        engine: bytes that an engine in the same process or on the same device holds all the time.
        overhead: of the device: context, libraries.
    """
    held: dict[str, float] = {"overhead": overhead, "engine": engine}
    phases: dict[str, dict[str, float]] = {}
    for name, model in (("policy", policy), ("critic", critic)):
        if model is None:
            continue
        held[f"{name} weights"] = (BASE[model.base] * model.frozen + 4.0 * model.trained) * setting.share(3)
        held[f"{name} optimizer"] = 8.0 * model.trained * setting.share(1)
        held[f"{name} exchange"] = exchange_bytes(model.trained, setting)
        phases[f"{name} update"] = {
            "gradients": 4.0 * model.trained * setting.share(2),
            "activations": activation_bytes(model, setting),
            "logits": 0.0 if model.head else logits_bytes(model.shape, setting),
            "half copies": 2.0 * model.trained if setting.half and not setting.zero else 0.0,
            "gathered layer": gathered_bytes(model.shape, setting),
        }
    if reference and policy.adapter is None:
        held["reference weights"] = 4.0 * policy.parameters * setting.share(3)
    if generation:
        phases["generate"] = {"generation": generation}
    return Memory({name: size for name, size in held.items() if size}, phases)


def activation_bytes(model: Trained, setting: Setting) -> float:
    """Activations of the largest micro-batch; with checkpointing the input of every layer, and one layer whole."""
    shape, element = model.shape, 2.0 if setting.half else 4.0
    layer = shape.layer_activations()
    elements = shape.layers * shape.hidden + layer if setting.checkpointing else shape.layers * layer
    return setting.microbatch_tokens * element * (elements + 3 * shape.hidden)


def logits_bytes(shape: ModelShape, setting: Setting) -> float:
    """Logits of a piece of a micro-batch (TRL's losses and ours make none whole), gradient and log-softmax; float32."""
    count = float(setting.microbatch_tokens * shape.vocabulary)
    return 4.0 * LOGITS_COPIES * min(count, LOGITS_PIECE)


def exchange_bytes(trained: int, setting: Setting) -> float:
    """What goes over between processes: DDP's buckets are as large as the gradients; ZeRO has two of its own size."""
    if setting.processes == 1:
        return 0.0
    if setting.zero == 0:
        return 4.0 * trained
    return 2.0 * (2.0 if setting.half else 4.0) * min(ZERO_BUCKET, trained)


def gathered_bytes(shape: ModelShape, setting: Setting) -> float:
    """Under ZeRO-3: the weights of the layer at work, the next one, and the embedding."""
    if setting.zero < 3:
        return 0.0
    return (2.0 if setting.half else 4.0) * (2 * shape.layer_parameters + shape.embedding)


def longest_sequence(room: float, model: Trained, setting: Setting) -> int:
    """Tokens of the longest sequence whose activations and logits fit into `room` bytes: a sequence is one piece here,
    no part of it can be trained on another device.
    """
    one = Setting(**{**vars(setting), "microbatch_tokens": 1})
    fixed = 0.0 if model.head else 4.0 * LOGITS_COPIES * LOGITS_PIECE
    return max(0, int((room - fixed) / activation_bytes(model, one)))
