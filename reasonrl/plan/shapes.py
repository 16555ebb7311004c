"""Sizes of a decoder: what memory and FLOPs follow from. From a checkpoint's config, or from a table of public ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from reasonrl.errors import ModelError
from reasonrl.plugins import near


@dataclass(frozen=True)
class ModelShape:
    """A decoder with gated MLPs (Qwen2, Qwen3, Llama and those like them), perhaps with a vision tower.

    Attributes:
        hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary: sizes.
        tied: input and output embedding are one matrix.
        attention_bias: query, key and value have biases (Qwen2).
        qk_norm: queries and keys are normalised by head (Qwen3).
        other: parameters beside the language model: a vision tower and its projector.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    head_dim: int = 0
    attention_bias: bool = True
    qk_norm: bool = False
    other: int = 0

    @property
    def head_size(self) -> int:
        """Width of a head."""
        return self.head_dim or self.hidden // self.heads

    @property
    def kv_width(self) -> int:
        """Elements of a token's keys (or values) in one layer."""
        return self.kv_heads * self.head_size

    @property
    def layer_parameters(self) -> int:
        """Of one layer: attention, MLP, two norms."""
        query = self.heads * self.head_size
        attention = 2 * self.hidden * query + 2 * self.hidden * self.kv_width
        bias = query + 2 * self.kv_width if self.attention_bias else 0
        norms = 2 * self.hidden + (2 * self.head_size if self.qk_norm else 0)
        return attention + bias + 3 * self.hidden * self.intermediate + norms

    @property
    def embedding(self) -> int:
        """Elements of one embedding matrix."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All of them, the vision tower's included."""
        matrices = self.embedding * (1 if self.tied else 2)
        return matrices + self.layers * self.layer_parameters + self.hidden + self.other

    @property
    def multiplied(self) -> int:
        """Parameters that every token is multiplied with: all but the input embedding, biases and norms counted in."""
        return self.layers * self.layer_parameters + self.embedding

    def linear_parameters(self, rank: int) -> int:
        """Parameters of a LoRA adapter of this rank in all linear layers but the output layer."""
        query = self.heads * self.head_size
        sides = (self.hidden + query) * 2 + (self.hidden + self.kv_width) * 2 + (self.hidden + self.intermediate) * 3
        return self.layers * rank * sides

    def forward_flops(self, tokens: float, context: float) -> float:
        """FLOPs of reading `tokens` of which each attends to `context` others on average (the causal mean is half the
        length): 2 a multiplied parameter, and 4 a token, layer and query element for scores and their sum.
        """
        attention = 4.0 * self.layers * self.heads * self.head_size * context
        return tokens * (2.0 * self.multiplied + attention)

    def cache_bytes_per_token(self, element: float = 2.0) -> float:
        """Keys and values of one token in all layers."""
        return 2.0 * self.layers * self.kv_width * element

    def layer_activations(self) -> int:
        """Elements a token that one layer keeps for its backward pass: two norms (input, normalised, output each),
        rotated queries and keys, values, attention's output before and after its reshaping, and four of the MLP.

        Attention's weights are not among them (fused attention).
        """
        query = self.heads * self.head_size
        return 6 * self.hidden + 3 * query + 2 * self.kv_width + 4 * self.intermediate


def _qwen2(hidden: int, intermediate: int, layers: int, heads: int, kv: int, vocabulary: int, tied: bool) -> ModelShape:
    return ModelShape(hidden, intermediate, layers, heads, kv, vocabulary, tied)


def _qwen3(hidden: int, intermediate: int, layers: int, heads: int, tied: bool) -> ModelShape:
    return ModelShape(hidden, intermediate, layers, heads, 8, 151936, tied, 128, attention_bias=False, qk_norm=True)


_05, _15 = _qwen2(896, 4864, 24, 14, 2, 151936, True), _qwen2(1536, 8960, 28, 12, 2, 151936, True)
_3, _7 = _qwen2(2048, 11008, 36, 16, 2, 151936, True), _qwen2(3584, 18944, 28, 28, 4, 152064, False)
_14, _32 = _qwen2(5120, 13824, 48, 40, 8, 152064, False), _qwen2(5120, 27648, 64, 40, 8, 152064, False)
_72 = _qwen2(8192, 29568, 80, 64, 8, 152064, False)
_LLAMA8 = ModelShape(4096, 14336, 32, 32, 8, 128256, False, attention_bias=False)

#: Sizes of public checkpoints, by the end of their name; for when the hub is out of reach. As their configs state them.
PUBLIC: dict[str, ModelShape] = {
    "Qwen2.5-0.5B": _05,
    "Qwen2.5-1.5B": _15,
    "Qwen2.5-3B": _3,
    "Qwen2.5-7B": _7,
    "Qwen2.5-14B": _14,
    "Qwen2.5-32B": _32,
    "Qwen2.5-72B": replace(_72, vocabulary=152064),
    "Qwen2.5-Math-1.5B": _15,
    "Qwen2.5-Math-7B": _7,
    "Qwen2.5-VL-3B": replace(_3, other=668_684_288),
    "Qwen2.5-VL-7B": replace(_7, other=676_550_144),
    "Qwen3-0.6B": _qwen3(1024, 3072, 28, 16, True),
    "Qwen3-1.7B": _qwen3(2048, 6144, 28, 16, True),
    "Qwen3-4B": _qwen3(2560, 9728, 36, 32, True),
    "Qwen3-8B": _qwen3(4096, 12288, 36, 32, False),
    "DeepSeek-R1-Distill-Qwen-1.5B": replace(_15, tied=False),
    "DeepSeek-R1-Distill-Qwen-7B": _7,
    "DeepSeek-R1-Distill-Qwen-14B": _14,
    "DeepSeek-R1-Distill-Qwen-32B": _32,
    "QwQ-32B": _32,
    "Open-Reasoner-Zero-7B": _7,
    "Open-Reasoner-Zero-32B": _32,
    "Llama-3.1-8B": _LLAMA8,
    "DeepSeek-R1-Distill-Llama-8B": _LLAMA8,
}


def public_shape(name: str) -> ModelShape:
    """The table's entry for a hub id: its last part, without `-Instruct`, `-Base` and the like.

    Raises:
        ModelError: the table does not have it.
    """
    last = name.rsplit("/", 1)[-1]
    for ending in ("", "-Instruct", "-Base", "-Chat", "-Zero"):
        if last.removesuffix(ending) in PUBLIC:
            return PUBLIC[last.removesuffix(ending)]
    raise ModelError(
        f"model {name!r}: its sizes are not in the table of public checkpoints, and no config of it is on this machine"
        f"{near(last, PUBLIC)}; or give a folder with its config.json"
    )


def shape_of_config(config: Mapping[str, Any], parameters: int | None = None) -> ModelShape:
    """The sizes that a checkpoint's config.json states.

    Args:
        config: as parsed; a vision-language model's has `text_config`.
        parameters: of the whole model, where they were counted; what the language model does not explain is `other`.

    Raises:
        ModelError: sizes are missing: no decoder that this arithmetic knows.
    """
    text = {**config, **(config.get("text_config") or {})}
    try:
        hidden, heads = int(text["hidden_size"]), int(text["num_attention_heads"])
        shape = ModelShape(
            hidden=hidden,
            intermediate=int(text["intermediate_size"]),
            layers=int(text["num_hidden_layers"]),
            heads=heads,
            kv_heads=int(text.get("num_key_value_heads") or heads),
            vocabulary=int(text["vocab_size"]),
            tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
            head_dim=int(text.get("head_dim") or 0),
            attention_bias=str(text.get("model_type", "")).startswith("qwen2") or bool(text.get("attention_bias")),
            qk_norm=str(text.get("model_type", "")).startswith("qwen3"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"the config states no sizes of a decoder: {error} -> use a decoder's checkpoint") from error
    return shape if parameters is None else replace(shape, other=max(0, parameters - shape.parameters))
