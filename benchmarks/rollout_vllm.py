"""Our vLLM engine against bare `vllm.LLM.generate`, in one process: `python benchmarks/rollout_vllm.py [--fast]`.

Both get the same prompts, seeds and `SamplingParams`, so they draw the same tokens (checked), and take turns (A B A B).
What counts is response tokens a CPU second: another process on the machine then disturbs the ratio little. Two bare
arms: one leaves token ids, as our parameters ask (the bar is 0.97 of it); the other makes text and Python
log-probabilities, as `LLM.generate` does by default and as one would write it without us.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

from rollout_load import CASES, LENGTH, requests_of

from reasonrl.models import load_tokenizer, resolve_model
from reasonrl.rollout import Request, SamplingParams, build_engine

MODELS = {
    "3.9 M": "tiny:qwen2:hidden_size=256,intermediate_size=1024,num_hidden_layers=4,num_attention_heads=4",
    "0.5 M": "tiny:qwen2",
}
ROUNDS = 24


class Arms:
    """The engine and the bare `LLM` over the same checkpoint, with equal settings."""

    def __init__(self, model: str) -> None:
        from vllm import LLM

        self.tokenizer, path = load_tokenizer(model), resolve_model(model)
        same: dict[str, Any] = {"max_model_len": LENGTH, "kv_cache_memory_bytes": 1 << 30, "enforce_eager": True}
        same["enable_chunked_prefill"] = False
        self.engine: Any = build_engine("vllm", None, self.tokenizer, path=path, **same)
        bare: dict[str, Any] = {**same, "dtype": "float32", "logprobs_mode": "processed_logprobs"}
        self.ids = LLM(path, skip_tokenizer_init=True, **bare)
        self.text = LLM(path, **bare)

    def ours(self, requests: list[Request], most: int) -> list[tuple[int, ...]]:
        """Through `stream`."""
        samples = {int(sample.request.id): sample for sample in self.engine.stream(requests, SamplingParams(most))}
        return [samples[place].token_ids for place in range(len(requests))]

    def bare(self, requests: list[Request], most: int) -> list[tuple[int, ...]]:
        """`LLM.generate` with the engine's own `SamplingParams`."""
        params = [self.engine.sampling(request.seed, SamplingParams(most)) for request in requests]
        return self._generate(self.ids, requests, params)

    def default(self, requests: list[Request], most: int) -> list[tuple[int, ...]]:
        """`LLM.generate` as one writes it: text and log-probabilities of the drawn tokens."""
        from vllm import SamplingParams as Theirs

        stop = sorted(self.engine.stop_ids)
        params = [
            Theirs(max_tokens=most, seed=request.seed & (2**63 - 1), stop_token_ids=stop, logprobs=0)
            for request in requests
        ]
        return self._generate(self.text, requests, params)

    def _generate(self, llm: Any, requests: list[Request], params: list[Any]) -> list[tuple[int, ...]]:
        prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
        return [tuple(output.outputs[0].token_ids) for output in llm.generate(prompts, params, use_tqdm=False)]


def measure(draw: Callable[..., list[tuple[int, ...]]], *arguments: Any) -> tuple[float, list[tuple[int, ...]]]:
    """Response tokens a CPU second of one call, and what was drawn."""
    start = time.process_time()
    drawn = draw(*arguments)
    return sum(map(len, drawn)) / (time.process_time() - start), drawn


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", action="store_true", help="the first model alone, 2 rounds")
    parser.add_argument("--rounds", type=int, help=f"rounds a case (default: {ROUNDS}, with --fast 2)")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    fast, rounds = options.fast, options.rounds or (2 if options.fast else ROUNDS)
    for size, model in list(MODELS.items())[: 1 if fast else None]:
        arms = Arms(model)
        print(f"{size} parameters, 1 thread, {rounds} rounds; response tokens a CPU second, medians", flush=True)
        for name, case in CASES.items():
            for draw in (arms.ours, arms.bare, arms.default):
                draw(requests_of(case, len(arms.tokenizer), -1)[:8], 4)
            rates: dict[str, list[float]] = {"ours": [], "bare": [], "default": []}
            for turn in range(rounds):
                requests = requests_of(case, len(arms.tokenizer), turn)
                order = ("ours", "bare", "default") if turn % 2 == 0 else ("default", "bare", "ours")
                drawn = {}
                for arm in order:
                    rate, drawn[arm] = measure(getattr(arms, arm), requests, case[3])
                    rates[arm].append(rate)
                assert drawn["ours"] == drawn["bare"] == drawn["default"], "the arms did not draw the same tokens"
            ratios = sorted(one / other for one, other in zip(rates["ours"], rates["bare"], strict=True))
            usual = [one / other for one, other in zip(rates["ours"], rates["default"], strict=True)]
            quarter = len(ratios) // 4
            middle = {arm: statistics.median(values) for arm, values in rates.items()}
            print(
                f"  {name:<46} engine {middle['ours']:6.0f}  bare {middle['bare']:6.0f}  default"
                f" {middle['default']:6.0f}  engine/bare {statistics.median(ratios):.3f} (half of the rounds:"
                f" {ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f})  engine/default {statistics.median(usual):.3f}",
                flush=True,
            )
        arms.engine.close()


if __name__ == "__main__":
    main()
