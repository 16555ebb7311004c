"""Peak memory and time of log-probabilities and entropies, forward and backward: `python benchmarks/logprob_memory.py`.

Three ways over the same output layer of a real model (Qwen2 without layers, so that nothing else is measured): plain
logits, TRL's fused head, ours. Every measurement is a fresh process: its peak is the highest resident set during
forward and backward, above what it held before (model and inputs); on a GPU, the allocator's. The three take turns
(A B C A B C …). Values and gradients of the last round are held to those of the plain logits.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

ARMS = ("full", "trl", "ours")
MIB = 2**20


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frozen-head", action="store_true", help="the output layer's weights need no gradient")
    parser.add_argument("--entropy-grad", action="store_true", help="the entropies carry gradient too")
    parser.add_argument("--fast", action="store_true", help="a tenth of the vocabulary, two rounds")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fast:
        given.vocabulary, given.rounds = given.vocabulary // 10, 2
    return given


def resident(name: str) -> float:
    """MiB of this process: `VmRSS` now, or `VmHWM`, the most since the last reset."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found.group(1)) / 1024 if found else float("nan")


def measure(args: argparse.Namespace) -> dict[str, float]:
    """One arm in this process."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    from reasonrl.models import lm_head

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=args.vocabulary,
        hidden_size=args.hidden,
        intermediate_size=8,
        num_hidden_layers=0,
        num_attention_heads=1,
        num_key_value_heads=1,
        initializer_range=args.hidden**-0.5,
    )
    model: Any = Qwen2ForCausalLM(config).to(args.device, getattr(torch, args.dtype))
    model.model.embed_tokens.weight.requires_grad_(False)
    model.lm_head.weight.requires_grad_(not args.frozen_head)
    shape = (1, args.tokens + 1)
    embeds = torch.randn(*shape, args.hidden).to(model.device, model.dtype).requires_grad_()
    labels = torch.randint(args.vocabulary, shape).to(model.device)
    upstream = torch.randn(2, args.tokens).to(model.device)
    if args.arm == "trl":
        add_fused_lm_head(model, temperature=args.temperature, outputs=("log_probs", "entropy"))
    lm_head.PLAIN_LOGITS = 1 << 62 if args.arm == "full" else 0
    reader = lm_head.LogprobReader(args.temperature)
    if args.arm == "ours":
        assert reader.head(model, labels) is not None

    def run() -> tuple[Any, Any]:
        inputs = {"inputs_embeds": embeds}
        if args.arm == "trl":
            out = model(**inputs, labels=labels, use_cache=False, fused_lm_head=True)
            logprobs, entropy = out.log_probs[0], out.entropy[0]
        else:
            found = reader(model, labels, inputs, entropy_grad=args.entropy_grad)
            logprobs, entropy = found[0][0], found[1][0]
        loss = (logprobs * upstream[0]).sum()
        if args.entropy_grad:
            loss = loss + (entropy * upstream[1]).sum()
        loss.backward()
        return logprobs.detach(), entropy.detach()

    cuda = model.device.type == "cuda"
    if cuda:
        run()  # kernels are compiled
        embeds.grad = model.lm_head.weight.grad = model.model.norm.weight.grad = None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated() / MIB
    else:
        Path("/proc/self/clear_refs").write_text("5")
        held = resident("VmRSS")
    clock, cpu = time.perf_counter(), time.process_time()
    values = run()
    if cuda:
        torch.cuda.synchronize()
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    peak = torch.cuda.max_memory_allocated() / MIB if cuda else resident("VmHWM")
    grads = [embeds.grad] if args.frozen_head else [embeds.grad, model.lm_head.weight.grad]
    torch.save([tensor.float().cpu() for tensor in (*values, *grads)], args.keep)
    return {"seconds": clock if cuda else cpu, "peak": peak - held}


def in_process(args: argparse.Namespace, arm: str, keep: Path) -> dict[str, float]:
    """One arm in a fresh process."""
    command = [sys.executable, __file__, "--arm", arm, "--keep", str(keep)]
    for name in ("vocabulary", "tokens", "hidden", "temperature", "dtype", "device"):
        command += [f"--{name}", str(getattr(args, name))]
    command += [f"--{name.replace('_', '-')}" for name in ("frozen_head", "entropy_grad") if getattr(args, name)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def difference(ours: Path, theirs: Path) -> dict[str, float]:
    """The largest difference of values and gradients, relative to the largest one where that is above 1."""
    import torch

    names = ("log-probabilities", "entropies", "gradient to hidden states", "gradient to weights")
    pairs = zip(torch.load(ours), torch.load(theirs), strict=True)
    return {
        name: float((a - b).abs().max()) / max(1.0, float(b.abs().max()))
        for name, (a, b) in zip(names, pairs, strict=False)
    }


def main() -> None:
    args = arguments()
    if args.arm:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(args)))
        return
    print(
        f"V = {args.vocabulary}, T = {args.tokens}, hidden {args.hidden}, {args.dtype}, {args.device}, 1 thread,"
        f" {args.rounds} rounds, forward and backward"
        + ", frozen head" * args.frozen_head
        + ", entropies with gradient" * args.entropy_grad
    )
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        kept = {arm: Path(folder) / arm for arm in ARMS}
        for _ in range(args.rounds):
            for arm in ARMS:
                found[arm].append(in_process(args, arm, kept[arm]))
        differences = {arm: difference(kept[arm], kept["full"]) for arm in ("trl", "ours")}
    for arm in ARMS:
        seconds, peaks = ([row[name] for row in found[arm]] for name in ("seconds", "peak"))
        print(
            f"{arm:5} {statistics.median(seconds):7.3f} s ({min(seconds):.3f} to {max(seconds):.3f})"
            f"   peak {statistics.median(peaks):8.1f} MiB"
        )
    for other in ("full", "trl"):
        pairs = list(zip(found["ours"], found[other], strict=True))
        times, peaks = ([a[name] / b[name] for a, b in pairs] for name in ("seconds", "peak"))
        print(
            f"ours / {other:4}  time {statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f}),"
            f" peak {statistics.median(peaks):.3f} ({min(peaks):.3f} to {max(peaks):.3f})"
        )
    for arm, rows in differences.items():
        print(f"{arm} against full: " + ", ".join(f"{name} {value:.1e}" for name, value in rows.items()))


if __name__ == "__main__":
    main()
