"""Rollouts: one engine protocol, counter-based seeds, and the engines behind it."""

from __future__ import annotations

from typing import Any

from reasonrl.errors import ModelError
from reasonrl.rollout.engine import Request, RolloutEngine, Sample, SamplingParams
from reasonrl.rollout.seeds import sample_seed, uniforms

ENGINES = ("transformers", "vllm", "servers")


def build_engine(engine: str, model: Any, tokenizer: Any, **options: Any) -> RolloutEngine:
    """The engine of this name over a loaded model; `options` are the engine's own.

    `transformers` decodes with the model itself, or with a copy of it (`own_copy`). `vllm` and `servers` also run
    without a loaded model, over `path`, a checkpoint's folder or hub id.

    Raises:
        ModelError: there is no engine of this name, or what it needs is not installed.
    """
    if engine == "transformers":
        if options.pop("own_copy", False):
            from reasonrl.rollout.transformers_copy import TransformersCopyEngine

            return TransformersCopyEngine(model, tokenizer, **options)
        from reasonrl.rollout.transformers_engine import TransformersEngine

        return TransformersEngine(model, tokenizer, **options)
    if engine == "vllm":
        from reasonrl.rollout.vllm_engine import VLLMEngine

        return VLLMEngine(model, tokenizer, **options)
    if engine == "servers":
        from reasonrl.rollout.servers import ServersEngine

        return ServersEngine(model, tokenizer, **options)
    raise ModelError(f"rollout.engine: {engine!r} is not available; available: {', '.join(ENGINES)}")


__all__ = [
    "ENGINES",
    "Request",
    "RolloutEngine",
    "Sample",
    "SamplingParams",
    "build_engine",
    "sample_seed",
    "uniforms",
]
