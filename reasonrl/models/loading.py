"""Loading a policy and its tokenizer: a local checkpoint, a hub id, or a tiny model built in code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import ModelError
from reasonrl.models.tiny import is_tiny, tiny_path

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_USE = "give a folder with config.json, weights and a tokenizer, a hub id, or 'tiny:qwen2'"


def resolve_model(name: str) -> str:
    """The path or hub id that `from_pretrained` takes; a `tiny:` name becomes the folder it was built in.

    Raises:
        ModelError: the name can only be a folder (it is no `owner/name`), and there is none.
    """
    if is_tiny(name):
        return str(tiny_path(name))
    path = Path(name).expanduser()
    if path.exists():
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"model: there is no folder {name!r} -> {_USE}")
    return name


def load_weights(auto_class: Any, name: str, *, key: str = "model", **kwargs: Any) -> Any:
    """`auto_class.from_pretrained(name, **kwargs)` that never leaves a weight to chance.

    Raises:
        ModelError: it cannot be loaded, or the checkpoint lacks weights of the model (transformers would draw them at
            random).
    """
    from safetensors import SafetensorError

    path = resolve_model(name)
    try:
        model, info = auto_class.from_pretrained(path, output_loading_info=True, **kwargs)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{key}: {_cannot(name, path)}: {error} -> {_USE}") from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"{key}: the checkpoint {name!r} lacks {len(missing)} weights of {type(model).__name__}:"
            f" {', '.join(missing[:3])}{', …' if len(missing) > 3 else ''} -> is it the checkpoint of another kind of"
            " model, such as a critic?"
        )
    return model


def _cannot(name: str, path: str) -> str:
    return f"{name!r} cannot be loaded" + ("" if Path(path).exists() else " (there is no such folder, so as a hub id)")


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a pad token; raises ModelError if it cannot be had."""
    from transformers import AutoTokenizer

    path = resolve_model(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise ModelError(f"model: the tokenizer of {_cannot(name, path)}: {error} -> {_USE}") from error
    # Where a checkpoint has no tokenizer files, transformers makes a tokenizer without a vocabulary.
    if not tokenizer.encode("0", add_special_tokens=False):
        raise ModelError(f"model: {name!r} has no tokenizer (one that encodes nothing was loaded) -> {_USE}")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_policy(
    name: str, *, dtype: torch.dtype | str = "float32", trust_remote_code: bool = False, **kwargs: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model, or a vision-language model, and its tokenizer.

    Args:
        name: local folder, hub id, or a `tiny:` name.
        dtype: torch dtype or its name; `auto` keeps the checkpoint's.
        trust_remote_code: run code that the checkpoint ships; off unless a recipe says so.
        kwargs: passed to `from_pretrained`.

    Raises:
        ModelError: the model or its tokenizer cannot be loaded, or the checkpoint lacks weights.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code)
    seeing = reads_images(name, trust_remote_code=trust_remote_code)
    auto = AutoModelForImageTextToText if seeing else AutoModelForCausalLM
    model = load_weights(auto, name, dtype=dtype, trust_remote_code=trust_remote_code, **kwargs)
    return model, tokenizer


def load_processor(name: str, *, trust_remote_code: bool = False) -> Any:
    """The processor of a vision-language model (text and images to tokens and pixels), with a pad token.

    Raises:
        ModelError: it cannot be loaded, or the model has none.
    """
    from transformers import AutoProcessor, ProcessorMixin

    path = resolve_model(name)
    try:
        processor = AutoProcessor.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        if "torchvision" in str(error).lower() and (found := _images_only(path, trust_remote_code)) is not None:
            return found
        raise ModelError(f"model: the processor of {_cannot(name, path)}: {error} -> {_USE}") from error
    if not isinstance(processor, ProcessorMixin):
        raise ModelError(f"model: {name!r} has no processor, so it reads text only -> name a vision-language model")
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def _images_only(path: str, trust_remote_code: bool) -> Any:
    """The processor where torchvision is missing, made of its part for images; None where it is not known how."""
    from transformers import AutoConfig

    from reasonrl.models.images_only import KINDS, load_images_only

    kind = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code).model_type
    if kind not in KINDS:
        return None
    return load_images_only(path, kind, load_tokenizer(path, trust_remote_code=trust_remote_code))


def reads_images(name: str, *, trust_remote_code: bool = False) -> bool:
    """Whether transformers knows the model as one that turns images and text into text."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as TEXT
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as VISION

    try:
        kind = AutoConfig.from_pretrained(resolve_model(name), trust_remote_code=trust_remote_code).model_type
    except (OSError, ValueError):
        return False  # loading the model says what is wrong
    return kind in VISION and kind not in TEXT
