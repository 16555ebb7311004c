"""The doctor's self-test: real verdicts, and a real recipe of seconds that draws, judges and trains."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from reasonrl.pipeline.doctor import Check, guarded

#: (gold, response, whether it is right)
PAIRS = (
    ("1/2", r"so \boxed{0.5}", True),
    ("12", r"\boxed{13}", False),
    (r"x^2-1", r"\boxed{(x-1)(x+1)}", True),
    (r"\{1,2\}", r"\boxed{\{2,1\}}", True),
    ("7", "I do not know.", False),
)
RECIPE = """\
recipe: self_test
output: {output}
model: tiny:qwen2
stages:
  rl:
    kind: ppo
    data: {{world: arithmetic, n: 8}}
    reward: math
    prompts_per_step: 4
    num_generations: 2
    max_completion_length: 8
    max_steps: 2
    save_steps: 2
"""


def self_test_checks() -> Iterable[Check]:
    """Verify, generate and update, each as a check."""
    yield guarded("self-test verify", _verify)
    with tempfile.TemporaryDirectory(prefix="reasonrl-doctor-") as folder:
        yield guarded("self-test train", lambda: _train(Path(folder)))


def _verify() -> str:
    from reasonrl.rewards.math import verify

    started = time.perf_counter()
    for gold, response, right in PAIRS:
        verdict = verify(gold, response)
        if verdict.correct is not right:
            raise ArithmeticError(f"gold {gold!r} against {response!r} gives {verdict.status}")
    return f"{len(PAIRS)} verdicts right in {time.perf_counter() - started:.1f} s"


def _train(folder: Path) -> str:
    """Two PPO steps with a critic: samples, rewards, updates, checkpoint and final model."""
    from reasonrl.observe import read_metrics
    from reasonrl.pipeline import train
    from reasonrl.recipe import load_recipe

    started = time.perf_counter()
    recipe = folder / "self_test.yaml"
    recipe.write_text(RECIPE.format(output=folder / "run"), encoding="utf-8")
    said: list[str] = []
    keep: Callable[[str], None] = said.append
    result = train(load_recipe(recipe), say=keep)["rl"]
    lines = [line for line in read_metrics(folder / "run/stages/rl/metrics.jsonl") if "time/generate" in line]
    moved = sum(line["grad_norm"] > 0 or line["critic_grad_norm"] > 0 for line in lines)
    if len(lines) != 2 or not moved or result.model is None or not any(result.model.glob("*.safetensors")):
        raise ArithmeticError(f"two steps made {len(lines)} lines and {moved} updates; the end of the log: {said[-3:]}")
    drawn = sum(line["time/generate"] for line in lines)
    trained = sum(line["time/critic"] + line["time/actor"] for line in lines)
    whole = time.perf_counter() - started
    return f"16 samples drawn in {drawn:.1f} s, updates in {trained:.1f} s, all in {whole:.0f} s with imports"
