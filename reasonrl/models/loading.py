"""Loading a policy and its tokenizer: a local checkpoint, a hub id, or a tiny model built in code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reasonrl.errors import ModelError
from reasonrl.models.tiny import is_tiny, tiny_path

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def resolve_model(name: str) -> str:
    """The path or hub id that `from_pretrained` takes; a `tiny:` name becomes the folder it was built in."""
    return str(tiny_path(name)) if is_tiny(name) else name


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a pad token; raises ModelError if it cannot be had."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve_model(name), trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ModelError(f"model: the tokenizer of {name!r} cannot be loaded: {error}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(
    name: str, *, dtype: torch.dtype | str = "float32", trust_remote_code: bool = False, **kwargs: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer.

    Args:
        name: local folder, hub id, or `tiny:qwen2`.
        dtype: torch dtype or its name; `auto` keeps the checkpoint's.
        trust_remote_code: run code that the checkpoint ships; off unless a recipe says so.
        kwargs: passed to `from_pretrained`.

    Raises:
        ModelError: the model or its tokenizer cannot be loaded.
    """
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            resolve_model(name), dtype=dtype, trust_remote_code=trust_remote_code, **kwargs
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model: {name!r} cannot be loaded: {error} -> give a folder with config.json and weights, a hub id, "
            "or 'tiny:qwen2'"
        ) from error
    return model, tokenizer
