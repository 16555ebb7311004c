"""The policy part of a PPO update against TRL's GRPOTrainer and against a bare packed pass over the same tokens:
`python benchmarks/ppo_update.py`, `--fast` for three rounds.

64 sequences, prompt 64, responses of lognormal length (median 128, sigma 1, clipped to 16 to 1,024), random ids, one
optimizer step's gradient. Four arms take turns in one process:

- ours: `PPOUpdate.train_policy`, sequences packed into rows of `--budget` real tokens;
- padded: the same with `padding_free=False`, micro-batches of `--budget` padded tokens;
- TRL: `GRPOTrainer.compute_loss` and its backward pass, micro-batches of `--trl-batch` sequences, all padded to the
  longest of the whole batch, as TRL makes them;
- bare: the model on our packed rows with our attention, log-softmax of all logits, backward.

All four give one gradient; that is checked first. On a CPU the arms are compared by CPU time of one thread, on a GPU by
wall time; there MFU = FLOPs / (seconds x peak), where FLOPs = Σ over sequences of n tokens of
6 n (parameters - embedding table unless tied) + 6 n² layers heads head_size (forward and backward, causal attention).
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import tempfile
import time
from typing import Any, Protocol

import torch
from datasets import Dataset
from transformers import Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig, GRPOTrainer

from reasonrl.models import build_tokenizer
from reasonrl.models.packing import enable_packing
from reasonrl.trainers.batch import RolloutBatch
from reasonrl.trainers.ppo import PPOTrainer
from reasonrl.trainers.ppo_config import PPOConfig
from reasonrl.trainers.targets import Targets

# name -> hidden size, MLP size, layers, heads, key-value heads, vocabulary (None: the tokenizer's)
SIZES: dict[str, tuple[int, int, int, int, int, int | None]] = {
    "tiny": (128, 512, 2, 2, 1, None),
    "small": (256, 1024, 4, 4, 2, None),
    "medium": (512, 2048, 6, 8, 2, None),
    "0.5b": (896, 4864, 24, 14, 2, 151_936),
    "1.5b": (1536, 8960, 28, 12, 2, 151_936),
}
PROMPT, SIGMA, SHORTEST = 64, 1.0, 16


class Arm(Protocol):
    """One way to the gradient of a batch, on a model of its own."""

    model: Any

    def __call__(self, batch: RolloutBatch, targets: Targets) -> None:
        """Add up the gradient of one optimizer step."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="3 rounds instead of --rounds")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--median", type=int, default=128, help="of the responses, tokens")
    parser.add_argument("--longest", type=int, default=1024, help="response, tokens")
    parser.add_argument("--budget", type=int, default=2048, help="tokens of a micro-batch")
    parser.add_argument("--skip-trl", action="store_true", help="leave TRL out, which takes most of the time")
    parser.add_argument("--trl-batch", type=int, default=0, help="TRL's per_device_train_batch_size; 0: its fastest")
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of the GPU, dense bf16 (H100 and H200: 989)")
    return parser.parse_args()


def lengths_of(options: argparse.Namespace) -> list[int]:
    """Response lengths, tokens."""
    generator = torch.Generator().manual_seed(0)
    drawn = options.median * torch.exp(SIGMA * torch.randn(options.sequences, generator=generator))
    return [int(length) for length in drawn.clamp(SHORTEST, options.longest)]


def build_model(size: str, vocabulary: int, device: torch.device) -> Qwen2ForCausalLM:
    """A Qwen2 with random weights; flash attention on a GPU that has it."""
    hidden, inner, layers, heads, shared, words = SIZES[size]
    config = Qwen2Config(
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=shared,
        vocab_size=words or vocabulary,
        tie_word_embeddings=True,
        max_position_embeddings=32_768,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    attention = "sdpa"
    if device.type == "cuda":
        from transformers.utils import is_flash_attn_2_available

        attention = "flash_attention_2" if is_flash_attn_2_available() else "sdpa"
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = Qwen2ForCausalLM._from_config(config, dtype=dtype, attn_implementation=attention)
    return model.to(device)


def make_batch(lengths: list[int], vocabulary: int, device: torch.device) -> tuple[RolloutBatch, Targets]:
    """Random sequences and advantages."""
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(3, vocabulary, (PROMPT + n,), generator=generator).to(device) for n in lengths]
    mask = (torch.arange(max(lengths)).unsqueeze(0) < torch.tensor(lengths).unsqueeze(1)).long().to(device)
    scores = torch.randn(len(lengths), generator=generator).to(device)
    # What the engine would have reported; only a metric reads it.
    drawn = torch.zeros(mask.shape, device=device)
    batch = RolloutBatch(ids, [PROMPT] * len(lengths), mask, scores, torch.ones_like(scores).bool(), drawn)
    advantages = scores.unsqueeze(1) * mask
    return batch, Targets(mask, advantages, None, None, None, None)


class Ours:
    """Our policy part, packed or padded."""

    def __init__(self, model: Any, tokenizer: Any, options: argparse.Namespace, out: str, packed: bool) -> None:
        args = PPOConfig(
            output_dir=out,
            report_to=[],
            prompts_per_step=options.sequences // 2,
            num_generations=2,
            advantage="group",
            max_completion_length=options.longest,
            tokens_per_microbatch=options.budget,
            padding_free=packed,
            **shared_arguments(),
        )
        rows = Dataset.from_list([{"id": "0", "prompt": "?"}])
        self.trainer = PPOTrainer(
            model, args, rows, [no_reward], prompt_ids=lambda text: [3], processing_class=tokenizer
        )
        self.trainer.update.choose_rows(model, None, tokenizer)
        if self.trainer.update.packed != packed:
            raise SystemExit("the model cannot be packed")
        self.model = model

    def __call__(self, batch: RolloutBatch, targets: Targets) -> None:
        """Add up the gradient of one optimizer step."""
        self.trainer.update.train_policy(self.model, None, batch, targets, 0)


class Theirs:
    """TRL's loss over the same sequences."""

    def __init__(self, model: Any, tokenizer: Any, options: argparse.Namespace, out: str) -> None:
        rows = Dataset.from_list([{"prompt": "?"}])
        args = GRPOConfig(
            output_dir=out,
            report_to=[],
            per_device_train_batch_size=options.sequences,
            num_generations=2,
            beta=0.0,
            loss_type="dapo",
            max_completion_length=options.longest,
            **shared_arguments(),
        )
        self.trainer = GRPOTrainer(model, no_reward, args, rows, processing_class=tokenizer)
        self.model, self.rows = model, 0

    def __call__(self, batch: RolloutBatch, targets: Targets) -> None:
        """Add up the gradient of one optimizer step, in micro-batches of `rows` sequences."""
        trainer, mask = self.trainer, targets.mask
        prompts = torch.stack([ids[:PROMPT] for ids in batch.sequences])
        responses = torch.zeros(mask.shape, dtype=torch.long, device=mask.device)
        for row, ids in enumerate(batch.sequences):
            responses[row, : len(ids) - PROMPT] = ids[PROMPT:]
        parts = len(batch) // self.rows
        trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation = parts
        for start in range(0, len(batch), self.rows):
            part = slice(start, start + self.rows)
            inputs = {
                "prompt_ids": prompts[part],
                "prompt_mask": torch.ones_like(prompts[part]),
                "completion_ids": responses[part],
                "completion_mask": mask[part],
                "advantages": batch.scores[part],
                "num_items_in_batch": mask.sum(),
            }
            trainer.accelerator.backward(trainer.compute_loss(self.model, inputs))
        trainer._metrics["train"].clear()


class Bare:
    """The model on packed rows, and nothing else."""

    def __init__(self, model: Any, ours: Ours) -> None:
        self.model, self.ours = model, ours

    def __call__(self, batch: RolloutBatch, targets: Targets) -> None:
        """Add up the gradient of the same loss, written as a weighted sum of log-probabilities."""
        update = self.ours.trainer.update
        weights = targets.advantages / targets.mask.sum()
        for rows in update.plan(batch, range(len(batch))):
            micro = update.micro_batch(batch, rows)
            row_weights = torch.zeros(micro.labels.shape[1], device=weights.device)
            row_weights[micro.positions] = weights[rows][:, : micro.width]
            logits = self.model(**micro.inputs, use_cache=False).logits[0, :-1].float()
            logprobs = torch.log_softmax(logits, dim=-1).gather(1, micro.inputs["input_ids"][0, 1:, None])[:, 0]
            (-(logprobs * row_weights[:-1]).sum()).backward()


def shared_arguments() -> dict[str, Any]:
    """Of both trainers."""
    return {
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "max_steps": 1,
        "save_strategy": "no",
        "temperature": 1.0,
    }


def no_reward(completions: list[Any], **columns: Any) -> list[float]:
    """Never called: what is scored is made up."""
    return [0.0] * len(completions)


def gradient_of(arm: Arm, *data: Any) -> torch.Tensor:
    """The flat gradient that one arm leaves."""
    arm.model.zero_grad(set_to_none=True)
    arm(*data)
    return torch.cat([p.grad.flatten().double() for p in arm.model.parameters()])


def seconds_of(arm: Arm, *data: Any) -> float:
    """CPU seconds of one arm; on a GPU, wall seconds."""
    arm.model.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        start = time.perf_counter()
        arm(*data)
        torch.cuda.synchronize()
        return time.perf_counter() - start
    start = time.process_time()
    arm(*data)
    return time.process_time() - start


def fastest_batch(theirs: Theirs, options: argparse.Namespace, data: tuple[Any, ...]) -> None:
    """Set the number of sequences with which TRL is fastest; those that do not fit are left out."""
    times: dict[int, float] = {}
    tried = [options.trl_batch] if options.trl_batch else [n for n in (1, 2, 4, 8, 16) if options.sequences % n == 0]
    for rows in tried:
        theirs.rows = rows
        try:
            times[rows] = min(seconds_of(theirs, *data) for _ in range(1 if options.fast else 2))
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
    theirs.rows = min(times, key=lambda rows: times[rows])
    print("TRL by sequences a micro-batch: " + ", ".join(f"{n}: {s:.2f} s" for n, s in times.items()))


def flops_of(model: Any, lengths: list[int]) -> float:
    """FLOPs of forward and backward over these sequences, prompts included (module docstring)."""
    config = model.config
    matrices = sum(p.numel() for p in model.parameters() if p.ndim > 1)
    if not config.tie_word_embeddings:
        matrices -= model.get_input_embeddings().weight.numel()
    heads = config.num_hidden_layers * config.hidden_size
    return float(sum(6 * (PROMPT + n) * matrices + 6 * (PROMPT + n) ** 2 * heads for n in lengths))


def quartiles(values: list[float]) -> str:
    """Median and quartiles, in words."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.3f} (half of the rounds {low:.3f} to {high:.3f})"


def main() -> None:
    options = arguments()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer, lengths = build_tokenizer(), lengths_of(options)
    model = build_model(options.size, len(tokenizer), device)
    data = make_batch(lengths, len(tokenizer), device)
    with tempfile.TemporaryDirectory() as out:
        # Trainers patch the models they are given, so each has its own copy.
        ours = Ours(copy.deepcopy(model), tokenizer, options, out, packed=True)
        padded = Ours(copy.deepcopy(model), tokenizer, options, out, packed=False)
        theirs = Theirs(copy.deepcopy(model), tokenizer, options, out)
    bare = Bare(copy.deepcopy(model), ours)
    if enable_packing(bare.model) is not None:
        raise SystemExit("the model cannot be packed")
    arms: dict[str, Arm] = {"ours": ours, "padded": padded, "TRL": theirs, "bare": bare}
    real, longest = sum(lengths) + PROMPT * len(lengths), PROMPT + max(lengths)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{options.size}: {size:.1f} M parameters, {device.type}, {model.config._attn_implementation}")
    print(f"{len(lengths)} sequences, {real:,} tokens; {longest * len(lengths) / real:.2f} x if padded to {longest}")
    micro = [len(arm.trainer.update.plan(data[0], range(len(lengths)))) for arm in (ours, padded)]
    print(f"{micro[0]} packed rows or {micro[1]} padded micro-batches of at most {options.budget} tokens")
    if options.skip_trl:
        del arms["TRL"]
    else:
        fastest_batch(theirs, options, data)
    reference = gradient_of(padded, *data)
    for name in [name for name in arms if name != "padded"]:
        gap = float((gradient_of(arms[name], *data) - reference).norm() / reference.norm())
        print(f"gradient of {name} against padded: relative {gap:.1e}")
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(3 if options.fast else options.rounds):
        for name, arm in arms.items():
            times[name].append(seconds_of(arm, *data))
    for name, of_arm in times.items():
        line = f"{name}: {statistics.median(of_arm):.3f} s, {real / statistics.median(of_arm):,.0f} real tokens/s"
        if device.type == "cuda":
            share = flops_of(model, lengths) / statistics.median(of_arm) / options.peak_tflops / 1e12
            line += f", MFU {share:.1%}"
        print(line)
    notes = {"TRL": f" (bar 0.40), TRL with {theirs.rows} sequences a micro-batch", "bare": " (bar 1.20)", "padded": ""}
    for other in [name for name in notes if name in arms]:
        note = notes[other]
        ratios = [a / b for a, b in zip(times["ours"], times[other], strict=True)]
        print(f"ours / {other}: {quartiles(ratios)}{note}")


if __name__ == "__main__":
    main()
