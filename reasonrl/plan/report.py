"""A plan as tables for the terminal, as JSON, and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.observe import format_seconds
from reasonrl.observe.tables import table
from reasonrl.plan.hardware import GB
from reasonrl.plan.placing import Placement
from reasonrl.plan.recipe_plan import Hardware, StagePlan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 4


def plan_text(title: str, plans: Sequence[StagePlan], hardware: Hardware) -> str:
    """Tables of all stages with what one must know to read them."""
    gpu, share = hardware.gpu, hardware.efficiency
    parts = [
        f"{title} on {hardware.gpus} x {gpu.name} ({gpu.memory / GB:.0f} GB, {gpu.flops / 1e12:.0f} TFLOPS,"
        f" {gpu.bandwidth / 1e12:.1f} TB/s each)",
        f"planned, not measured: {share.train:.0%} of the FLOPS in training, {share.read:.0%} in reading,"
        f" {share.decode:.0%} of the bandwidth in drawing, {share.usable:.0%} of the memory",
    ]
    for plan in plans:
        parts += ["", *_stage(plan, hardware)]
    return "\n".join(parts)


def _stage(plan: StagePlan, hardware: Hardware) -> list[str]:
    size = "" if plan.shape is None else f": {plan.model}, {plan.shape.parameters / 1e9:.2f} B parameters"
    critic = "" if plan.critic is None else f", critic {plan.critic.parameters / 1e9:.2f} B"
    lines = [f"{plan.name} ({plan.kind}){size}{critic}"]
    if plan.batch is not None:
        lines.append(f"  batch: {plan.batch}")
    if plan.work is not None:
        lengths = plan.work.lengths
        flops = sum(plan.work.flops(plan.shape, plan.critic).values()) if plan.shape is not None else 0.0
        lines.append(
            f"  a step: {plan.work.samples} samples of {lengths.prompt:.0f} + {lengths.mean:.0f} tokens (longest"
            f" {lengths.longest:.0f}) = {plan.work.tokens / 1e6:.2f} M tokens, {flops:.2g} FLOPs"
        )
    if plan.best is not None:
        lines += [f"  {line}" for line in table(*_placements(plan)).splitlines()]
        lines += [f"  {line}" for line in table(*_memory(plan.best)).splitlines()]
        lines += _advice(plan, plan.best, hardware)
    lines += [f"  ! {note}" if "not fit" in note else f"  {note}" for note in plan.notes]
    return lines


def _placements(plan: StagePlan) -> tuple[list[str], list[list[str]]]:
    header = ["placement", "train", "draw", "ZeRO", "GB a device", "fits", "a step", "drawing", "training"]
    body = []
    for number, placed in enumerate(_different(plan.placed)):
        drawing = placed.seconds.get("generate", 0.0)
        rest = sum(placed.seconds.values()) - drawing
        draws = "-" if placed.name == "training" else f"{placed.servers or placed.trainers}"
        tensor = f" (tensor parallel {placed.tensor_parallel})" if placed.tensor_parallel > 1 else ""
        body.append(
            [
                ("* " if number == 0 else "  ") + placed.name,
                str(placed.trainers),
                draws + tensor,
                str(placed.zero or "-"),
                f"{placed.memory.peak / GB:.1f} of {placed.limit / GB:.0f}",
                "yes" if placed.fits else "no",
                format_seconds(placed.total) if placed.seconds else "?",
                format_seconds(drawing) if drawing else "-",
                format_seconds(rest) if placed.seconds else "?",
            ]
        )
    return header, body


def _different(placed: Sequence[Placement]) -> list[Placement]:
    """The first few, at least one of each kind of placement."""
    shown = list(placed[:SHOWN])
    for one in placed:
        if one.name not in {other.name for other in shown}:
            shown.append(one)
    return shown


def _memory(placed: Placement) -> tuple[list[str], list[list[str]]]:
    parts = sorted(placed.memory.parts.items(), key=lambda item: -item[1])
    body = [[name, f"{size / GB:.2f}"] for name, size in parts if size >= 0.005 * GB]
    return [f"memory in {placed.memory.worst if placed.memory.phases else 'use'}", "GB"], body


def _advice(plan: StagePlan, best: Placement, hardware: Hardware) -> list[str]:
    machines = -(-(best.trainers + best.servers) // hardware.per_machine)
    lines = [f"  {best.launch}" + (f", over {machines} machines of {hardware.per_machine}" if machines > 1 else "")]
    if best.name == "servers":
        lines[0] += (
            f"; rollout: {{engine: servers}} on {best.servers} devices, tensor_parallel_size {best.tensor_parallel}"
        )
    elif best.name == "colocated":
        share = best.memory.held.get("engine", 0.0) / (best.limit / hardware.efficiency.usable)
        lines[0] += f"; rollout: {{engine: vllm, gpu_memory_utilization: {max(0.01, share):.2f}}}"
    if best.at_once:
        lines.append(f"  an engine decodes {best.at_once} samples at a time")
    drawing = best.seconds.get("generate", 0.0)
    if drawing:
        share = drawing / sum(best.seconds.values())
        lines.append(f"  drawing takes {share:.0%} of the work of a step")
    return lines


def plan_json(plans: Sequence[StagePlan], hardware: Hardware) -> dict[str, Any]:
    """Every figure as plain values; bytes and seconds."""
    return {
        "hardware": asdict(hardware),
        "stages": [
            {
                "name": plan.name,
                "kind": plan.kind,
                "model": plan.model,
                "parameters": None if plan.shape is None else plan.shape.parameters,
                "samples_per_step": None if plan.work is None else plan.work.samples,
                "tokens_per_step": None if plan.work is None else plan.work.tokens,
                "flops": {} if plan.work is None or plan.shape is None else plan.work.flops(plan.shape, plan.critic),
                "longest_sequence": plan.longest,
                "longest_possible": plan.longest_possible,
                "fits": plan.fits,
                "placements": [
                    {
                        "name": placed.name,
                        "trainers": placed.trainers,
                        "servers": placed.servers,
                        "tensor_parallel": placed.tensor_parallel,
                        "zero": placed.zero,
                        "fits": placed.fits,
                        "memory": placed.memory.parts,
                        "peak": placed.memory.peak,
                        "limit": placed.limit,
                        "seconds": placed.seconds,
                        "seconds_per_step": placed.total,
                    }
                    for placed in plan.placed
                ],
                "notes": list(plan.notes),
            }
            for plan in plans
        ],
    }


def draw_plan(plans: Sequence[StagePlan], path: Path) -> Path:
    """Write a picture: memory of a device by part and stage, and seconds of a step by part."""
    from matplotlib.figure import Figure

    from reasonrl.observe.style import styled

    placed = [(plan.name, plan.best) for plan in plans if plan.best is not None]

    @styled
    def draw() -> Figure:
        figure = Figure(figsize=(11, 1.6 + 0.7 * max(1, len(placed))), layout="constrained")
        left, right = figure.subplots(1, 2)
        _bars(left, [(name, {k: v / GB for k, v in best.memory.parts.items()}) for name, best in placed])
        left.set_title("Memory of a device")
        left.set_xlabel("GB")
        for _, best in placed[:1]:
            left.axvline(best.limit / GB, color="#c8453f", linestyle="--", linewidth=1.2)
        _bars(right, [(name, best.seconds) for name, best in placed])
        right.set_title("A step, as planned")
        right.set_xlabel("seconds")
        return figure

    draw().savefig(path, dpi=130)
    return path


def _bars(axes: Any, rows: Sequence[tuple[str, dict[str, float]]]) -> None:
    from reasonrl.observe.style import COLOURS

    names = list(dict.fromkeys(part for _, parts in rows for part, size in parts.items() if size > 0))
    for place, (_, parts) in enumerate(rows):
        left = 0.0
        for number, part in enumerate(names):
            size = parts.get(part, 0.0)
            label = part if not any(part in other for _, other in rows[:place]) else None
            axes.barh(
                place,
                size,
                left=left,
                color=COLOURS[number % len(COLOURS)],
                label=label,
                height=0.6,
                hatch="//" if number >= len(COLOURS) else None,
                edgecolor="white",
                linewidth=0.4,
            )
            left += size
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    if names:
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(0, -0.18), ncols=3)
