"""Tiny real models, built in code: random weights, a tokenizer made on the spot, saved and loaded by the ordinary
`from_pretrained` path.

`model: tiny:qwen2` in a recipe is Qwen2's architecture at about 0.4 M parameters. Sizes can be set in the name:
`tiny:qwen2:hidden_size=256,num_hidden_layers=4`. `tiny:qwen3` is Qwen3's, whose queries and keys are normalised.
`tiny:llava` (`tiny_vision.py`), `tiny:qwen2_5_vl` and `tiny:idefics3` (`tiny_vision_kinds.py`) read images. The
tokenizer is byte-level, so any text can be encoded (in Unicode's NFC form, as by all of Qwen2's tokenizers); words of
the chat frame and `\\boxed{` are tokens of their own, digits never merge.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import ModelError
from reasonrl.models.tiny_vision import (
    VISION_CHAT_TEMPLATE,
    VISION_SIZES,
    build_processor,
    build_vision_model,
    spread_of,
)
from reasonrl.models.tiny_vision_kinds import (
    IDEFICS_CHAT_TEMPLATE,
    IDEFICS_SIZES,
    QWEN_CHAT_TEMPLATE,
    QWEN_SIZES,
    build_idefics_model,
    build_idefics_processor,
    build_qwen_model,
    build_qwen_processor,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PREFIX = "tiny:"

#: Sizes of `tiny:qwen2` and `tiny:qwen3`. The head size of 64 is the smallest that every rollout engine accepts.
DEFAULT_SIZES: dict[str, int] = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
    "spread_by_width": 0,
    "seed": 0,
}

#: Sizes that are switches, 0 or 1. `spread_by_width` starts from weights whose standard deviation is the width's to the
#: power -1/2 (0.088 for 128), not 0.02: attention then tells places apart at once, and looking values up by their
#: place, which takes hundreds of steps to begin from 0.02, is learnt in tens.
SWITCHES = frozenset({"spread_by_width"})

#: Tiny architectures, with their sizes.
ARCHITECTURES = {
    "qwen2": DEFAULT_SIZES,
    "qwen3": DEFAULT_SIZES,
    "llava": VISION_SIZES,
    "qwen2_5_vl": QWEN_SIZES,
    "idefics3": IDEFICS_SIZES,
}
#: Of those that read images: chat template, and what makes processor and model.
_VISION: dict[str, tuple[str, Any, Any]] = {
    "llava": (VISION_CHAT_TEMPLATE, build_processor, build_vision_model),
    "qwen2_5_vl": (QWEN_CHAT_TEMPLATE, build_qwen_processor, build_qwen_model),
    "idefics3": (IDEFICS_CHAT_TEMPLATE, build_idefics_processor, build_idefics_model),
}

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
#: Frequent words of chat frames and of answers; each is one token.
WORDS = ("system\n", "user\n", "assistant\n", "\\boxed{", "<think>", "</think>", "<answer>", "</answer>")

#: ChatML, as Qwen2's models use it; the generation part is marked so that assistant-only losses work.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] + '<|im_end|>' -}}{%- endgeneration -%}"
    "{%- else -%}{{- message['content'] + '<|im_end|>' -}}{%- endif -%}"
    "{{- '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def is_tiny(name: str) -> bool:
    """Whether a model name asks for a model built in code."""
    return name.startswith(PREFIX)


def parse_tiny(name: str) -> dict[str, int]:
    """Sizes of a name such as `tiny:qwen2:hidden_size=256`.

    Raises:
        ModelError: the architecture or a size is unknown, or the sizes fit no model.
    """
    architecture, _, options = name.removeprefix(PREFIX).partition(":")
    if architecture not in ARCHITECTURES:
        known = " or ".join(f"'{PREFIX}{known}'" for known in ARCHITECTURES)
        raise ModelError(f"model: {name!r} names an unknown tiny architecture {architecture!r} -> use {known}")
    sizes = dict(ARCHITECTURES[architecture])
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in sizes:
            near = difflib.get_close_matches(key, sizes, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(sizes)}"
            raise ModelError(f"model: {name!r} sets an unknown size {key!r} -> {hint}")
        if not (value.isascii() and value.isdigit()):
            raise ModelError(f"model: {name!r} sets {key}={value!r}, which is not a whole number")
        least, most = (0, 2**63 - 1) if key == "seed" else (0, 1) if key in SWITCHES else (1, 2**31 - 1)
        if not least <= int(value) <= most:
            raise ModelError(f"model: {name!r} sets {key}={value}, allowed are {least} to {most}")
        sizes[key] = int(value)
    _check_fit(name, sizes)
    return sizes


def _check_fit(name: str, sizes: dict[str, int]) -> None:
    hidden, heads, shared = (sizes[key] for key in ("hidden_size", "num_attention_heads", "num_key_value_heads"))
    if hidden % heads or hidden // heads % 2:
        raise ModelError(
            f"model: {name!r}: hidden_size={hidden} over num_attention_heads={heads} -> every head needs the same, even"
            " size; set both"
        )
    if heads % shared:
        raise ModelError(
            f"model: {name!r}: num_attention_heads={heads} is not a multiple of num_key_value_heads={shared}"
        )
    if "image_size" in sizes and sizes["image_size"] % sizes["patch_size"]:
        raise ModelError(
            f"model: {name!r}: image_size={sizes['image_size']} is not a multiple of patch_size={sizes['patch_size']}"
        )
    tower = sizes.get("vision_hidden_size", 64)
    if tower % max(1, tower // 64):
        raise ModelError(f"model: {name!r}: vision_hidden_size={tower} -> up to 127, or a multiple of 64")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with ChatML's special tokens and chat template; made without any file."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    # transformers loads the tokenizer of every qwen2 checkpoint as its own class, which normalises; so does this one,
    # and it is the same before and after it was saved.
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    core.add_tokens([AddedToken(word, special=False, normalized=False) for word in WORDS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_tiny(name: str, directory: Path) -> Path:
    """Write a tiny model and its tokenizer (its processor, where it reads images) into `directory` (created) in the
    ordinary checkpoint layout; returns it.
    """
    import torch

    sizes = parse_tiny(name)
    seed = sizes.pop("seed")
    saved: Any = build_tokenizer()
    vision = _VISION.get(_architecture(name))
    if vision is not None:
        saved = vision[1](saved, sizes)
    with torch.random.fork_rng(devices=[]):
        # The CPU's generator alone: the seeding of all devices would reach past the fork.
        torch.default_generator.manual_seed(seed)
        model = vision[2](saved, sizes) if vision is not None else _build_text(saved, sizes, _architecture(name))
    directory.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(directory)
    saved.save_pretrained(directory)
    return directory


def _build_text(tokenizer: PreTrainedTokenizerFast, sizes: dict[str, int], architecture: str) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    spread = spread_of(sizes["hidden_size"]) if sizes["spread_by_width"] else 0.02
    given: dict[str, Any] = {key: size for key, size in sizes.items() if key not in SWITCHES} | {
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "use_cache": True,
        "initializer_range": spread,
    }
    if architecture == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**given))
    head = sizes["hidden_size"] // sizes["num_attention_heads"]  # Qwen3 sets it apart, 128 if it is not said
    return Qwen3ForCausalLM(Qwen3Config(**given, head_dim=head))


def _architecture(name: str) -> str:
    return name.removeprefix(PREFIX).partition(":")[0]


def tiny_path(name: str) -> Path:
    """A folder that holds this tiny model, built at its first use and kept in the user's cache.

    The folder's name is a hash of the sizes, the tokenizer's words and the chat template, so a changed definition
    never meets an old model. Processes may ask at the same time.
    """
    architecture = _architecture(name)
    # A model that reads images has its own template and random start; Qwen2's folders keep the names that they had.
    own = [] if architecture == "qwen2" else [architecture, *(["spread by width"] if architecture in _VISION else [])]
    templates = [template for template, _, _ in filter(None, [_VISION.get(architecture)])]
    sizes = {key: size for key, size in parse_tiny(name).items() if size or key not in SWITCHES}
    definition = json.dumps([sizes, SPECIAL_TOKENS, WORDS, CHAT_TEMPLATE, *templates, *own], sort_keys=True)
    root = Path(os.environ.get("REASONRL_CACHE") or Path.home() / ".cache" / "reasonrl")
    target = root / "tiny" / hashlib.sha256(definition.encode()).hexdigest()[:16]
    if not (target / "config.json").exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=target.parent))
        try:
            build_tiny(name, staging)
            staging.rename(target)
        except OSError:
            # Another process may have won the race: its folder holds the same bytes.
            if not (target / "config.json").exists():
                raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return target
