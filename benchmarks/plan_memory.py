"""Planned against measured peak memory of training stages on CPU, models of 0.2 B parameters and more.

python benchmarks/plan_memory.py [NAME …]

Each configuration runs in a process of its own. Measured is the peak resident set (VmHWM) less the resident set right
after the imports that a run of the stage needs; planned is `reasonrl.plan` for one process on CPU, in which the largest
micro-batch is the one that the run had.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

SIZES = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 14, "num_attention_heads": 16}
MODEL = "tiny:qwen2:" + ",".join(f"{name}={size}" for name, size in SIZES.items()) + ",num_key_value_heads=4"
HEAD = "recipe: measured\nmodel: {model}\noutput: {output}\nstages:\n  it: {stage}\n"
PPO = (
    "kind: ppo, data: {world: arithmetic, n: 32}, reward: math, prompts_per_step: 8, num_generations: 2,"
    " max_completion_length: 16, max_steps: 2, save_steps: 2, rollout: {batch_size: 16}"
)
#: Name -> the stage, and the tokens of its largest micro-batch.
CONFIGURATIONS = {
    "sft": (
        "{kind: sft, data: {world: arithmetic, n: 32}, max_steps: 2, per_device_train_batch_size: 16, max_length: 64}",
        None,
    ),
    "ppo_critic": (f"{{{PPO}, tokens_per_microbatch: 512}}", 512),
    "ppo_group_checkpointing": (
        f"{{{PPO}, advantage: group, tokens_per_microbatch: 1024, gradient_checkpointing: true}}",
        1024,
    ),
    "ppo_lora": (
        f"{{{PPO}, tokens_per_microbatch: 512, lora: {{r: 16}}, critic_lora: {{r: 16}}, learning_rate: 1.0e-4}}",
        512,
    ),
}


def planned(recipe: Path, tokens: int) -> dict[str, float]:
    """Parts of the plan's worst moment on one CPU process."""
    from dataclasses import replace

    from reasonrl.plan.hardware import Gpu
    from reasonrl.plan.memory import training_memory
    from reasonrl.plan.models import Shapes
    from reasonrl.plan.recipe_plan import Hardware, training_job
    from reasonrl.recipe import expand_stages, load_recipe

    instances = expand_stages(load_recipe(recipe).recipe)
    shapes = Shapes({instance.name: instance.config for instance in instances})
    (stage,) = instances
    hardware = Hardware(Gpu("cpu", 1e12, 1e11, 1e10, 1e10), 1)
    job = training_job(stage.config, str(stage.config.model), shapes, hardware)
    setting = replace(job.setting, microbatch_tokens=tokens)
    memory = training_memory(job.policy, setting, critic=job.critic, reference=job.reference)
    return {**memory.parts, "peak": memory.peak, "parameters": float(job.policy.shape.parameters)}


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return float(line.split()[1]) * 1024
    raise ValueError(field)


def measure(name: str) -> None:
    """Run one configuration here and print what was planned and measured, as JSON."""
    import trl  # noqa: F401
    from peft import get_peft_model  # noqa: F401
    from trl import SFTTrainer  # noqa: F401

    from reasonrl.models import resolve_model
    from reasonrl.pipeline import train
    from reasonrl.recipe import load_recipe

    stage, tokens = CONFIGURATIONS[name]
    # Built before, in another process: making the model is no part of training it.
    subprocess.run(
        [sys.executable, "-c", f"from reasonrl.models import resolve_model; resolve_model({MODEL!r})"], check=True
    )
    resolve_model(MODEL)
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "measured.yaml"
        recipe.write_text(HEAD.format(model=f'"{MODEL}"', output=f"{folder}/run", stage=stage))
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        result = train(load_recipe(recipe), say=lambda line: print(line, file=sys.stderr, flush=True))["it"]
        measured = resident("VmHWM") - before
        if tokens is None:  # padded rows: the longest of them
            tokens = 16 * int(result.metrics["tokens"] / result.metrics["examples"] * 1.15)
        plan = planned(recipe, tokens)
    ratio = plan["peak"] / measured
    print(json.dumps({"name": name, "measured": measured, "ratio": ratio, "tokens": tokens, "planned": plan}))


def run(name: str) -> dict[str, float]:
    """One configuration in a process of its own."""
    done = subprocess.run([sys.executable, __file__, "--here", name], stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(names: list[str]) -> None:
    """Print a row a configuration."""
    print("| configuration | parameters | planned, GB | measured, GB | planned / measured |\n|---|---|---|---|---|")
    for name in names or CONFIGURATIONS:
        row = run(name)
        plan = row["planned"]
        print(
            f"| {name} | {plan['parameters'] / 1e9:.3f} B | {plan['peak'] / 1e9:.2f} | {row['measured'] / 1e9:.2f} |"
            f" {row['ratio']:.2f} |",
            flush=True,
        )
        print({part: round(size / 1e9, 3) for part, size in plan.items()}, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        measure(sys.argv[2])
    else:
        main(sys.argv[1:])
