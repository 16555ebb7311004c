"""Steps one after the other against overlapped ones: `python benchmarks/rollout_staleness.py`, in `.venv-vllm`.

A real PPO trainer with one real vLLM server. Generation (the server) is held to one core and the trainer to another.
Runs with `max_staleness` 0 and 1 take turns (A B A B) over the same server. The learning rate is 0, so both draw the
same tokens (checked) and do the same work at every step, weight transfer and importance correction included. The number
of passes over a batch is chosen so that the update takes about as long as the generation (`--passes`). First and last
steps are left out: the first draws for itself, the last draws nothing. The aim is a step of at most 1.15 x
max(generation, update).

What counts is wall time, so the machine must be otherwise idle; `--fast` makes two short rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import psutil
from datasets import Dataset
from rollout_servers import hold, members

from reasonrl.models import ScalarHeadModel, load_policy, resolve_model
from reasonrl.rollout import build_engine
from reasonrl.trainers.ppo import PPOTrainer
from reasonrl.trainers.ppo_config import PPOConfig

MODEL = "tiny:qwen2:hidden_size=256,intermediate_size=1024,num_hidden_layers=4,num_attention_heads=4"
SAMPLES, PROMPT_TOKENS, MOST_TOKENS = 2, 48, 96
AIM = 1.15
Line = dict[str, Any]


def even_share(completions: list[Any], completion_ids: list[list[int]], **columns: Any) -> list[float]:
    """A reward that costs nothing."""
    return [sum(token % 2 == 0 for token in ids) / len(ids) for ids in completion_ids]


class Arm:
    """Runs of the trainer over one server."""

    def __init__(self, prompts: int, most_tokens: int = MOST_TOKENS) -> None:
        self.prompts, self.most_tokens = prompts, most_tokens
        self.policy, self.tokenizer = load_policy(MODEL)
        self.critic = ScalarHeadModel.from_pretrained(resolve_model(MODEL), seed=0)
        self.engine: Any = build_engine(
            "servers", self.policy, self.tokenizer, start=1, max_model_len=512, kv_cache_memory_bytes=1 << 30
        )
        cores = sorted(os.sched_getaffinity(0))
        hold([process for row in self.engine.health() for process in members(row["group"])], cores[0])
        hold([psutil.Process()], cores[-1])
        rows = [{"id": str(place), "prompt": f"{place:0{PROMPT_TOKENS}d}"} for place in range(256)]
        self.rows = Dataset.from_list(rows)

    def run(self, staleness: int, steps: int, passes: int) -> tuple[list[Line], dict[int, list[str]]]:
        """The lines of the metrics of one run, and the texts of its steps."""
        lines: list[Line] = []
        texts: dict[int, list[str]] = {}
        with tempfile.TemporaryDirectory() as folder:
            args = PPOConfig(
                output_dir=folder,
                prompts_per_step=self.prompts,
                num_generations=SAMPLES,
                num_iterations=passes,
                max_completion_length=self.most_tokens,
                max_steps=steps,
                max_staleness=staleness,
                # In both arms: the correction reads the old log-probabilities, a pass that belongs to the update.
                vllm_importance_sampling_correction=True,
                learning_rate=0.0,
                critic_learning_rate=0.0,
                reward_requires_stop=False,
                save_strategy="no",
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                report_to=[],
                disable_tqdm=True,
                tokens_per_microbatch=2048,
            )
            trainer = PPOTrainer(
                self.policy,
                args,
                self.rows,
                [even_share],
                prompt_ids=lambda text: self.tokenizer.encode(text),
                critic=self.critic,
                engine=self.engine,
                processing_class=self.tokenizer,
                on_metrics=lines.append,
                on_completions=lambda step, samples: texts.__setitem__(step, [row["text"] for row in samples]),
            )
            trainer.train()
        return lines, texts


def parts(line: Line) -> dict[str, float]:
    """Seconds of one step: the whole, drawing and weight transfer where they were not overlapped, and the rest."""
    sync = line.get("time/sync", 0.0)
    return {
        "step": line["time/step"],
        "sync": sync,
        "generation": line["time/generate"] - sync,
        "update": line["time/step"] - line["time/generate"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fast", action="store_true", help="two rounds of four steps")
    parser.add_argument("--passes", type=int, default=0, help="passes over a batch; 0: found beforehand")
    parser.add_argument(
        "--tokens", type=int, default=MOST_TOKENS, help="most tokens of a sample: more of them weigh on the generation"
    )
    parser.add_argument("--prompts", type=int, default=8, help="prompts of a step: fewer weigh on the generation")
    options = parser.parse_args()
    rounds, steps = (2, 4) if options.fast else (6, 8)
    prompts = options.prompts
    arm = Arm(prompts, options.tokens)
    try:
        arm.run(0, 2, 1)
        passes = options.passes
        if not passes:
            one, three = (parts(arm.run(0, 3, passes)[0][-1]) for passes in (1, 3))
            each = max((three["update"] - one["update"]) / 2, 1e-3)
            passes = max(1, round(1 + (one["generation"] - one["update"]) / each))
        seen: dict[int, list[dict[str, float]]] = {0: [], 1: []}
        ahead: list[float] = []
        for turn in range(rounds):
            drawn = {}
            for staleness in (0, 1) if turn % 2 == 0 else (1, 0):
                lines, drawn[staleness] = arm.run(staleness, steps, passes)
                seen[staleness] += [parts(line) for line in lines[1:-1]]
                ahead += [line["time/generate_ahead"] for line in lines[1:-1] if staleness]
            assert drawn[0] == drawn[1], "the arms did not draw the same samples"
    finally:
        arm.engine.close()
    middle = {
        staleness: {name: statistics.median(step[name] for step in found) for name in found[0]}
        for staleness, found in seen.items()
    }
    alone, longest = middle[0], max(middle[0]["generation"], middle[0]["update"])
    ratios = sorted(step["step"] / longest for step in seen[1])
    quarter = len(ratios) // 4
    print(
        f"{prompts} prompts x {SAMPLES} samples, up to {options.tokens} tokens, {passes} passes; seconds, medians of"
        " steps"
    )
    print(f"  alone: generation {alone['generation']:.2f}, update {alone['update']:.2f}, transfer {alone['sync']:.2f}")
    print(f"  step at staleness 0: {alone['step']:.2f}   at 1: {middle[1]['step']:.2f}")
    print(
        f"  of it at staleness 1: update {middle[1]['update']:.2f}, transfer {middle[1]['sync']:.2f}, waiting"
        f" {middle[1]['generation']:.2f}; drawing meanwhile took {statistics.median(ahead):.2f}"
    )
    print(
        f"  step at 1 / max(generation, update) {middle[1]['step'] / longest:.2f} (half of the steps:"
        f" {ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f}; aim {AIM:.2f})"
    )


if __name__ == "__main__":
    main()
