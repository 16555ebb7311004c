"""What training holds in memory, by arithmetic: weights, gradients, optimizer, and what LoRA and ZeRO make of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reasonrl.models.lora import Lora

#: Bytes of a frozen weight; with 4 bits, blocks of 64 share one 8-bit scale (double quantisation is off).
BASE_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "8bit": 1.0, "4bit": 0.5625}


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters that are frozen, and that are trained."""

    frozen: int
    trained: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.frozen + self.trained


def count_parameters(config: Any, lora: Lora | None) -> Parameters:
    """Of the language model of a transformers config, with an adapter in it or trained whole; nothing is allocated."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    with torch.device("meta"):
        text = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        model = (AutoModelForCausalLM if text else AutoModelForImageTextToText).from_config(config)
        if lora is not None:
            model = get_peft_model(model, lora.peft_config())
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return Parameters(sum(n for n, trained in sizes if not trained), sum(n for n, trained in sizes if trained))


def training_bytes(parameters: Parameters, *, base: str = "float32", zero_stage: int = 0, processes: int = 1) -> float:
    """Bytes of one process for weights, gradients and AdamW's two moments, which are in float32; frozen weights are
    held as `base` (a key of `BASE_BYTES`).

    ZeRO-1 shares out the moments, ZeRO-2 the gradients too, ZeRO-3 all (Rajbhandari et al. 2020, arXiv 1910.02054,
    section 5).
    """
    shared = [1 / processes if zero_stage >= stage else 1.0 for stage in (3, 2, 1)]
    weights = BASE_BYTES[base] * parameters.frozen + 4 * parameters.trained
    return weights * shared[0] + 4 * parameters.trained * shared[1] + 8 * parameters.trained * shared[2]


def cache_bytes_per_token(config: Any, element: int = 2) -> int:
    """Keys and values of one token in all layers of a language model, in elements of so many bytes."""
    text = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * int(text.num_hidden_layers * text.num_key_value_heads * head * element)


def checkpointed_activation_bytes(config: Any, tokens: int, element: int = 2) -> int:
    """Activations of a micro-batch with gradient checkpointing, an estimate from above: the input of every layer, and
    one layer whole (16 vectors of the hidden size and 6 of the intermediate size a token, attention's weights never
    held).
    """
    text = config.get_text_config()
    inside = 16 * text.hidden_size + 6 * text.intermediate_size
    return int(tokens * element * (text.num_hidden_layers * text.hidden_size + inside))
