"""Packed rows: sequences set end to end in one row, where each attends to itself alone.

A packed row has `input_ids` (1, N), `position_ids` that start at 0 for every sequence, no attention mask, and the
sequences' bounds under the names that transformers hands on to its attention functions (`cu_seq_lens_q`, …). Flash
attention's kernels read those. For models that run torch's scaled dot product attention, this module registers an
attention of its own: per group of equally long sequences one causal call, so that neither an N x N mask nor N x N work
is made. Without bounds it is transformers' sdpa, mask and all, so a model may keep it while it decodes or is given
padded rows.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, cast
from weakref import WeakSet

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakIdKeyDictionary
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

#: The name under which transformers knows the attention of this module.
PACKED_SDPA = "reasonrl_packed_sdpa"

_BOUNDS = "cu_seq_lens_q"
# How many packed forward passes this thread is inside of; masks are made without knowing the inputs.
_inside: ContextVar[int] = ContextVar("_inside", default=0)
_found: ContextVar[list[str] | None] = ContextVar("_found", default=None)
# Bounds to their lengths: every layer asks for the same ones, and on an accelerator each answer waits for the device.
_lengths: Any = WeakIdKeyDictionary()
_hooked: WeakSet[nn.Module] = WeakSet()


def packed_inputs(sequences: Sequence[torch.Tensor]) -> dict[str, Any]:
    """The model inputs of one packed row, N tokens in all.

    Args:
        sequences: token ids, each (n,); equally long ones that stand next to each other are attended to in one call.

    Returns:
        `input_ids` and `position_ids` (1, N), `cu_seq_lens_q` and `cu_seq_lens_k` (sequences + 1,) in int32, and
        `max_length_q` and `max_length_k`, the longest sequence.
    """
    device = sequences[0].device
    lengths = [len(sequence) for sequence in sequences]
    positions = torch.cat([torch.arange(length, device=device) for length in lengths])
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
    _lengths[bounds] = lengths
    return {
        "input_ids": torch.cat(list(sequences)).unsqueeze(0),
        "position_ids": positions.unsqueeze(0),
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }


def attention_blocks(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of equal lengths, as (length, how many)."""
    return [(length, len(list(run))) for length, run in itertools.groupby(lengths)]


def packed_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within the sequences of a packed row; anything else goes to transformers' sdpa.

    Args:
        module: the attention layer.
        query: (1, H, N, D).
        key, value: (1, H_kv, N, D); H is a multiple of H_kv.
        attention_mask: given where a model masks in a way of its own; it then says everything.
        dropout: share of attention weights that is dropped.
        scaling: of the scores; None is D^-0.5.
        is_causal: whether a token sees only itself and what stands before it; None asks the layer.
        kwargs: what else a model hands to its attention, the bounds of the sequences among them.

    Returns:
        (1, N, H, D), and None for the weights.
    """
    bounds: Any = kwargs.get(_BOUNDS)
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    plain = bounds is None or attention_mask is not None or not causal or kwargs.get("position_bias") is not None
    if plain or query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        return cast(
            "tuple[torch.Tensor, None]",
            sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout, scaling, is_causal=is_causal, **kwargs
            ),
        )
    blocks = attention_blocks(_lengths_of(bounds))
    sizes = [length * count for length, count in blocks]
    grouped = query.shape[1] != key.shape[1]
    parts = []
    # Split once, not sliced: the gradient of a slice fills a whole row with zeros.
    pieces = zip(*(tensor.squeeze(0).split(sizes, dim=1) for tensor in (query, key, value)), strict=True)
    for (length, count), piece in zip(blocks, pieces, strict=True):
        q, k, v = (tensor.unflatten(1, (count, length)).transpose(0, 1) for tensor in piece)
        out = scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
        )
        parts.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts).unsqueeze(0), None


def _lengths_of(bounds: torch.Tensor) -> list[int]:
    lengths: list[int] | None = _lengths.get(bounds)
    if lengths is None:
        lengths = _lengths[bounds] = bounds.diff().tolist()
    return lengths


def _packed_mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """No mask within a packed forward pass that wants a causal one; else sdpa's."""
    if not _inside.get() or kwargs.get("attention_mask") is not None:
        return cast("torch.Tensor | None", sdpa_mask(*args, **kwargs))
    special = None
    if kwargs.get("local_size") is not None:
        special = f"attention within a window or chunks of {kwargs['local_size']} tokens"
    elif kwargs.get("use_vmap"):
        special = "an attention mask of its own"
    if special is None:
        return None
    if (found := _found.get()) is not None:
        found.append(special)
    return cast("torch.Tensor | None", sdpa_mask(*args, **kwargs))


@contextlib.contextmanager
def special_masks() -> Iterator[list[str]]:
    """Collects, in words, the masks other than causal that models ask for in packed forward passes meanwhile."""
    found: list[str] = []
    token = _found.set(found)
    try:
        yield found
    finally:
        _found.reset(token)


def _enter(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    if kwargs.get(_BOUNDS) is not None:
        _inside.set(_inside.get() + 1)


def _leave(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
    if kwargs.get(_BOUNDS) is not None:
        _inside.set(_inside.get() - 1)


def enable_packing(model: nn.Module) -> str | None:
    """Have a model attend within the sequences of packed rows; may be called again.

    Args:
        model: a transformers model, or a module around one (a scalar head, an adapter).

    Returns:
        None, or in words why it cannot. Where it can, that its numbers are right is for the caller to check: layers
        other than attention may carry something from one sequence to the next.
    """
    roots = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    if not roots:
        return f"{type(model).__name__} is no transformers model"
    root = roots[0]
    text = root.config.get_text_config()
    name = str(text._attn_implementation)
    if "flash" in name:
        return None
    if name not in ("sdpa", PACKED_SDPA):
        return f"{type(root).__name__} runs {name!r} attention, which has no form for packed rows"
    if name == "sdpa":
        AttentionInterface.register(PACKED_SDPA, packed_attention)
        AttentionMaskInterface.register(PACKED_SDPA, _packed_mask)
        keys = [key for key in root.config.sub_configs if getattr(root.config, key) is text]
        root.set_attn_implementation({keys[0]: PACKED_SDPA} if keys else PACKED_SDPA)
        if text._attn_implementation != PACKED_SDPA:
            return f"the attention of {type(root).__name__} cannot be replaced"
    for module in roots:
        if module not in _hooked:
            _hooked.add(module)
            module.register_forward_pre_hook(_enter, with_kwargs=True)
            module.register_forward_hook(_leave, with_kwargs=True, always_call=True)
    return None
