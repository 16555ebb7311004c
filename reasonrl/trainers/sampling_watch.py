"""A watch on whether the engine draws from the policy that is trained, over all steps of a run.

The check after a transfer (`reasonrl.rollout.agreement`) reads one text, by the engines that have it; this one reads
what was drawn, whatever the engine. An engine that stopped taking weights is off by a little more at every step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from reasonrl.errors import ModelError
from reasonrl.rollout.agreement import LIMIT_FLOAT32, LIMIT_HALF
from reasonrl.rollout.images import placeholder_ids

NAME = "sampling/logprob_difference"


def has_dropout(model: torch.nn.Module) -> bool:
    """Whether a model draws random numbers while it trains."""
    config: Any = getattr(model, "config", None)
    inner = config.get_text_config() if hasattr(config, "get_text_config") else config
    return bool(getattr(inner, "attention_dropout", 0.0)) or any(
        isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules()
    )


def refuse_dropout(engine: Any, models: Iterable[torch.nn.Module | None], device: torch.device) -> None:
    """Refuse dropout beside an engine that draws in a thread of this process and sets torch's generator back.

    vLLM's sampler on CPU draws from the global generator, and is made to leave it as it was. What a policy draws from
    it meanwhile, in another thread, is set back too: the same masks again and again.

    Raises:
        ModelError: a model has dropout.
    """
    rewinds = getattr(engine, "rewinds_generator", False) and device.type == "cpu"
    if rewinds and any(model is not None and has_dropout(model) for model in models):
        raise ModelError(
            "ppo: max_staleness = 1 with rollout.engine: vllm on CPU and a model with dropout: two threads would draw"
            " from torch's one generator, and masks repeat -> set dropout to 0 (LoRA's too), or use"
            " rollout.engine=servers"
        )


class SamplingWatch:
    """Stops a run whose drawn tokens have other log-probabilities than the trainer computes for them.

    Args:
        policy: the model that is trained.
        engine: draws.
        limit: largest mean difference, nats a token; by default 1e-3, or 0.1 where policy or engine compute in half
            precision or the policy trains with dropout, and not less than the engine's own limit. A vision-language
            model gets what its placeholders weigh in a model that has learnt nothing, twice: no engine draws them.
        half: the policy computes in half precision whatever its weights are in (autocast).
        corrected: the samples may come from other weights, and ratios correct for it; then there is no limit by
            default.
    """

    def __init__(
        self, policy: Any, engine: Any, limit: float | None, *, half: bool = False, corrected: bool = False
    ) -> None:
        rough = half or has_dropout(policy) or policy.dtype in (torch.bfloat16, torch.float16)
        usual = max(LIMIT_HALF if rough else LIMIT_FLOAT32, getattr(engine, "max_logprob_gap", 0.0))
        config: Any = policy.config
        if never := placeholder_ids(config):
            usual -= 2 * math.log1p(-len(never) / config.get_text_config().vocab_size)
        self.limit = limit if limit is not None else math.inf if corrected else usual

    def check(self, metrics: Mapping[str, Any], step: int) -> None:
        """Look at the metrics of a step; every rank has the same ones.

        Raises:
            ModelError: the difference is above the limit, or is no number.
        """
        if NAME not in metrics or metrics[NAME] <= self.limit:
            return
        raise ModelError(
            f"rollout: step {step}: the trainer gives the drawn tokens other log-probabilities than the engine did:"
            f" {NAME} = {metrics[NAME]:.3g} nats a token on average, allowed is {self.limit:g} -> the engine no longer"
            " draws from the policy that is trained: resume from the last checkpoint; if it is only rounding or"
            " dropout, raise rollout.max_logprob_gap"
        )
