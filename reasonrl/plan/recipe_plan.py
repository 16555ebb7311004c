"""What every stage of a recipe needs on given hardware."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reasonrl.plan.hardware import STATED, Efficiency, Gpu
from reasonrl.plan.memory import Setting, longest_sequence
from reasonrl.plan.models import Shapes, trained
from reasonrl.plan.placing import Job, Placement, placements, smallest_engine
from reasonrl.plan.shapes import ModelShape
from reasonrl.plan.timing import Lengths, StepWork
from reasonrl.recipe.batch import BatchPlan, plan_batch

if TYPE_CHECKING:
    from reasonrl.recipe import ResolvedRecipe

TRAINING = ("sft", "ppo", "prm", "bcpg", "dpo")
DRAWING = ("rollout", "eval")


@dataclass(frozen=True)
class Hardware:
    """What a recipe is planned for.

    Attributes:
        gpu: the device; gpus: how many of them.
        efficiency: shares of the device's peak that are counted on.
        mean_length, longest_length: response tokens; None: half of what is allowed, and all of it.
        prompt_tokens: mean length of a prompt.
        per_machine: devices of one machine.
    """

    gpu: Gpu
    gpus: int
    efficiency: Efficiency = STATED
    mean_length: float | None = None
    longest_length: float | None = None
    prompt_tokens: float = 256.0
    per_machine: int = 8

    def lengths(self, allowed: int, prompt: int | None) -> Lengths:
        """Of responses that may have so many tokens, to prompts that may have so many."""
        longest = min(float(allowed), self.longest_length or allowed)
        mean = min(longest, self.mean_length or allowed / 2)
        return Lengths(mean, longest, min(self.prompt_tokens, prompt or self.prompt_tokens))


@dataclass(frozen=True)
class StagePlan:
    """What one stage needs.

    Attributes:
        name, kind, model: of the stage.
        shape: the model's sizes; None for stages without a model.
        batch: the batch arithmetic of a `ppo` stage on the devices that train.
        work: of a step, where lengths are known.
        placed: all candidates, the best first.
        longest: tokens of the longest sequence that it trains or draws.
        longest_possible: that fits one device beside everything else, under the best candidate.
        notes: what is to be known.
    """

    name: str
    kind: str
    model: str = ""
    shape: ModelShape | None = None
    critic: ModelShape | None = None
    batch: BatchPlan | None = None
    work: StepWork | None = None
    placed: tuple[Placement, ...] = ()
    longest: int = 0
    longest_possible: int = 0
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Placement | None:
        """The chosen candidate; it may not fit."""
        return self.placed[0] if self.placed else None

    @property
    def fits(self) -> bool:
        """Whether there is nothing to place, or a candidate that fits."""
        return self.best is None or self.best.fits


def plan_recipe(resolved: ResolvedRecipe, hardware: Hardware, fallback: str | None = None) -> list[StagePlan]:
    """Plan every stage of a recipe.

    Args:
        resolved: from `load_recipe`.
        hardware: what it is planned for.
        fallback: a model whose sizes stand in for unknown ones.

    Raises ModelError where a model's sizes are not known and there is no stand-in.
    """
    from reasonrl.recipe import expand_stages

    instances = expand_stages(resolved.recipe)
    shapes = Shapes({instance.name: instance.config for instance in instances}, fallback)
    return [plan_stage(instance.name, instance.config, shapes, hardware) for instance in instances]


def plan_stage(name: str, config: Any, shapes: Shapes, hardware: Hardware) -> StagePlan:
    """Plan one stage."""
    model = shapes.name_of(getattr(config, "model", None))
    if model is None or config.kind not in (*TRAINING, *DRAWING):
        return StagePlan(name, config.kind, model or "", notes=("nothing to place: runs where the recipe runs",))
    shape = shapes.of(model)
    if config.kind in DRAWING:
        return _drawing(name, config, model, shape, hardware)
    return _training(name, config, model, shapes, hardware)


def _drawing(name: str, config: Any, model: str, shape: ModelShape, hardware: Hardware) -> StagePlan:
    from reasonrl.plan.memory import Trained

    limit = hardware.gpu.memory * hardware.efficiency.usable
    longest = int(_longest_response(config) + hardware.prompt_tokens)
    tensor = smallest_engine(Trained(shape), longest, limit, hardware.gpus)
    if not tensor:
        note = f"does not fit: {2 * shape.parameters / 1e9:.0f} GB of weights and one sample on {hardware.gpus} devices"
        return StagePlan(name, config.kind, model, shape, longest=longest, notes=(note,))
    room = limit * tensor - 2.0 * shape.parameters - 1.5e9 * tensor
    at_once = int(room / (shape.cache_bytes_per_token() * longest))
    note = (
        f"{hardware.gpus // tensor} engines of {tensor} device{'s' if tensor > 1 else ''}, each with room for {at_once}"
        f" samples of {longest} tokens at a time"
    )
    return StagePlan(name, config.kind, model, shape, longest=longest, longest_possible=longest, notes=(note,))


def _longest_response(config: Any) -> float:
    suites = getattr(config, "suites", None)
    if isinstance(suites, dict):
        return max(float(suite.max_tokens) for suite in suites.values())
    return float(getattr(config, "max_tokens", None) or 4096)


def _training(name: str, config: Any, model: str, shapes: Shapes, hardware: Hardware) -> StagePlan:
    job = training_job(config, model, shapes, hardware)
    critic = None if job.critic is None else job.critic.shape
    samples = config.prompts_per_step * config.num_generations if config.kind == "ppo" else 0
    found = placements(
        job, hardware.gpu, hardware.gpus, hardware.efficiency, lambda count: samples == 0 or samples % count == 0
    )
    best = found[0] if found else None
    batch, possible, notes = None, 0, list(_notes(job, best, hardware))
    if best is not None:
        activations = ("activations", "logits")
        parts = best.memory.parts
        room = best.limit - sum(size for part, size in parts.items() if part not in activations)
        possible = longest_sequence(room, job.policy, job.setting)
        if config.kind == "ppo":
            batch = _batch(config, best.trainers)
    if possible and possible < job.longest:
        notes.append(
            f"a sequence of {job.longest} tokens does not fit: beside the rest a device has room for {possible}; a"
            " sequence is one piece here (no sequence parallelism) -> shorter responses, larger devices"
            + ("" if config.gradient_checkpointing else ", gradient_checkpointing: true")
        )
    return StagePlan(
        name,
        config.kind,
        model,
        job.policy.shape,
        critic,
        batch,
        job.work,
        tuple(found),
        job.longest,
        possible,
        tuple(notes),
    )


def _batch(config: Any, processes: int) -> BatchPlan:
    return plan_batch(
        config.prompts_per_step,
        config.num_generations,
        num_processes=processes,
        critic_steps=config.critic_steps,
        actor_steps=config.actor_steps,
        num_iterations=config.num_iterations,
        has_critic=config.advantage == "gae",
    )


def training_job(config: Any, model: str, shapes: Shapes, hardware: Hardware) -> Job:
    """What a training stage asks of the devices; `model` is the name of its model."""
    policy = trained(shapes.of(model), config, config.lora, head=config.kind == "prm")
    if config.kind != "ppo":
        longest = int(getattr(config, "max_length", None) or 4096)
        tokens = getattr(config, "tokens_per_microbatch", None) or longest * getattr(
            config, "per_device_train_batch_size", 1
        )
        setting = _setting(config, max(tokens, longest) * (2 if config.kind == "dpo" else 1))
        work = _logged_work(config, hardware, longest)
        return Job(policy, setting, reference=config.kind == "dpo", work=work, longest=longest)
    lengths = hardware.lengths(config.max_completion_length, config.max_prompt_length)
    longest = config.max_completion_length + int(config.max_prompt_length or lengths.prompt)
    setting = _setting(config, max(config.tokens_per_microbatch, longest))
    critic = None
    if config.advantage == "gae":
        start = shapes.name_of(config.critic_model) or model
        critic = trained(shapes.of(start), config, config.critic_lora, head=True)
    on_policy = config.actor_steps * config.num_iterations == 1
    work = StepWork(
        samples=config.prompts_per_step * config.num_generations,
        lengths=lengths,
        policy_passes=config.num_iterations,
        critic_passes=1.0 if critic is not None else 0.0,
        policy_reads=(0.0 if on_policy else 1.0) + (1.0 if config.beta else 0.0),
        critic_reads=1.0 if critic is not None else 0.0,
        checkpointing=config.gradient_checkpointing,
    )
    overlapped = bool(getattr(config, "max_staleness", 0))
    reference = bool(config.beta) and config.lora is None
    return Job(policy, setting, critic, reference, work, draws=True, overlapped=overlapped, longest=longest)


def _setting(config: Any, tokens: int) -> Setting:
    return Setting(
        half=bool(config.bf16),
        checkpointing=bool(config.gradient_checkpointing),
        microbatch_tokens=tokens,
    )


def _logged_work(config: Any, hardware: Hardware, longest: int) -> StepWork | None:
    """Of a step that trains on rows: so many sequences, of the stated mean length."""
    samples = getattr(config, "samples_per_step", None) or getattr(config, "solutions_per_step", None)
    if config.kind == "sft":
        samples = config.per_device_train_batch_size * config.gradient_accumulation_steps * hardware.gpus
    if not samples:
        return None
    lengths = hardware.lengths(longest, None)
    return StepWork(int(samples), lengths, policy_reads=0.0, checkpointing=bool(config.gradient_checkpointing))


def _notes(job: Job, best: Placement | None, hardware: Hardware) -> Sequence[str]:
    if best is None:
        return ("no number of devices divides the samples of a step",)
    notes = []
    if not best.fits:
        over = best.memory.peak - best.limit
        notes.append(
            f"does not fit {hardware.gpus} x {hardware.gpu.name}: {over / 1e9:.1f} GB a device too much in"
            f" {best.memory.worst}, under ZeRO-{best.zero}"
        )
    idle = hardware.gpus - best.trainers - best.servers
    if idle:
        notes.append(
            f"{idle} of {hardware.gpus} devices stay idle: {best.trainers} processes divide the step's samples"
        )
    return notes
