"""Log-probabilities and entropies out of a model's own forward pass, without its logits.

While `reading` is active, a call of the model's output layer gives scores instead of logits, for labelled positions
only; the call itself runs as ever, with every hook on it (ZeRO-3 gathers the weights for it, DDP sees its gradient).
What a model does to its logits afterwards (a soft cap, a factor) is put out of action meanwhile and computed here. A
model is read so only if `check` finds that a few tokens come out as from its plain logits; others are read plainly.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch.distributed.fsdp import FSDPModule

from reasonrl.algorithms.logprobs import token_logprobs
from reasonrl.errors import ModelError

#: Micro-batches whose logits have at most this many elements (64 MiB in float32) are read plainly: that is faster.
PLAIN_LOGITS = 1 << 24
#: Names under which models keep the cap and the factor of their logits, on themselves or in their config. A factor
#: multiplies or divides: the check finds out.
SOFTCAPS = ("final_logit_softcapping", "logits_soft_cap")
FACTORS = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
#: A cap that changes nothing. A power of two, so that dividing and multiplying by it is exact.
NO_CAP = 2.0**60
#: The check brings the largest logit to this size, so that a cap or a factor shows in a model whose own are small.
CHECKED_SIZE = 50.0


def score_logits(
    logits: torch.Tensor, labels: torch.Tensor, temperature: float, entropy_grad: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability and entropy (nats) of each label: (b, L, V) and (b, L) to two (b, L) tensors, zero at -100."""
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    logprobs = torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)
    labelled = labels != -100
    chosen = logprobs.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    with contextlib.nullcontext() if entropy_grad else torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(dim=-1)
    return chosen.masked_fill(~labelled, 0), entropy.masked_fill(~labelled, 0)


@dataclass(frozen=True)
class Head:
    """A model's output layer and what its logits go through afterwards.

    Attributes:
        layers: the linear layers that may be called as the output layer (several where peft trains a copy of it).
        logit_scale, softcap: as `token_logprobs` takes them.
        neutral: (attributes, name, value) that put scale and cap out of action in the model's own code.
    """

    layers: tuple[torch.nn.Linear, ...]
    logit_scale: float | None
    softcap: float | None
    neutral: tuple[tuple[dict[str, Any], str, float], ...]


@dataclass(frozen=True)
class Reading:
    """What is wanted of one call: (b, L) labels, -100 where nothing is, and how they are scored."""

    labels: torch.Tensor
    temperature: float
    entropy: bool
    entropy_grad: bool


def possible_heads(model: torch.nn.Module) -> list[Head]:
    """What the output layer of an unwrapped transformers model may be, likeliest first; none where it is no plain
    linear layer (an adapter on it, a quantized one, a forward of its own) or the model is compiled.
    """
    base: Any = model
    if hasattr(base, "get_base_model"):
        base = base.get_base_model()
    if hasattr(model, "_orig_mod"):
        return []
    layer: Any = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
    copies = [layer]
    if type(layer).__name__ == "ModulesToSaveWrapper":
        copies = [layer.original_module, *layer.modules_to_save.values()]
    if not all(_is_plain(copy) for copy in copies):
        return []
    config = getattr(base, "config", None)
    text = config.get_text_config() if config is not None else None
    owners = [vars(owner) for owner in (base, getattr(base, "base_model", None), config, text) if owner is not None]
    caps, factors = _known(owners, SOFTCAPS), _known(owners, FACTORS)
    # Multiplied, divided, or named in the config and never used.
    powers = (1, -1, 0) if factors else (0,)
    return [
        _head(tuple(copies), caps if capped else {}, factors if power else {}, power, owners)
        for capped, power in itertools.product((True, False) if caps else (False,), powers)
    ]


def _is_plain(layer: Any) -> bool:
    return (
        isinstance(layer, torch.nn.Linear)
        and type(layer).forward is torch.nn.Linear.forward
        and "forward" not in vars(layer)
        and not hasattr(layer, "parametrizations")
        # What FSDP2 splits is whole while it is called; what tensor parallelism splits is not.
        and (type(layer.weight).__name__ != "DTensor" or isinstance(layer, FSDPModule))
    )


def _known(owners: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, float]:
    found: dict[str, float] = {}
    for owner, name in itertools.product(owners, names):
        value = owner.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
            found.setdefault(name, float(value))
    return found


def _head(
    layers: tuple[torch.nn.Linear, ...],
    caps: dict[str, float],
    factors: dict[str, float],
    power: int,
    owners: list[dict[str, Any]],
) -> Head:
    scale = 1.0
    for factor in factors.values():
        scale *= factor**power
    settings = {**dict.fromkeys(caps, NO_CAP), **dict.fromkeys(factors, 1.0)}
    neutral = tuple(
        (owner, name, value) for owner in owners for name, value in settings.items() if owner.get(name) is not None
    )
    return Head(layers, scale if factors else None, next(iter(caps.values()), None), neutral)


@contextlib.contextmanager
def reading(head: Head, wanted: Reading) -> Iterator[None]:
    """While active, the model's `logits` are (b, L, 2): log-probability and entropy, at position j those of the label
    at j + 1, zero where there is none. Other threads that use the model see no difference in its output layer.
    """
    kept = [(owner, name, owner[name]) for owner, name, _ in head.neutral]
    owner_thread = threading.get_ident()
    try:
        for attributes, name, value in head.neutral:
            attributes[name] = value
        for layer in head.layers:
            vars(layer)["forward"] = _reader(layer, head, wanted, owner_thread)
        yield
    finally:
        for layer in head.layers:
            vars(layer).pop("forward", None)
        for attributes, name, value in kept:
            attributes[name] = value


def _reader(layer: torch.nn.Linear, head: Head, wanted: Reading, thread: int) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(hidden: torch.Tensor) -> torch.Tensor:
        if threading.get_ident() != thread:
            return torch.nn.Linear.forward(layer, hidden)
        if hidden.shape[:-1] != wanted.labels.shape:
            raise ModelError(
                f"the output layer was given {tuple(hidden.shape[:-1])} positions for labels of"
                f" {tuple(wanted.labels.shape)} -> labels of the shape of input_ids"
            )
        labels = wanted.labels.to(hidden.device).roll(-1, dims=1)
        labels[:, -1] = -100
        labels = labels.reshape(-1)
        places = (labels != -100).nonzero().squeeze(1)
        logprobs, entropy = token_logprobs(
            hidden.reshape(-1, hidden.shape[-1]).index_select(0, places),
            layer.weight,
            labels.index_select(0, places),
            temperature=wanted.temperature,
            bias=layer.bias,
            softcap=head.softcap,
            logit_scale=head.logit_scale,
            entropy=wanted.entropy,
            entropy_grad=wanted.entropy_grad,
        )
        pair = torch.stack([logprobs, torch.zeros_like(logprobs) if entropy is None else entropy], dim=-1)
        return pair.new_zeros(len(labels), 2).index_copy(0, places, pair).view(*wanted.labels.shape, 2)

    return forward


class LogprobReader:
    """Reads log-probabilities and entropies of labelled tokens from models, each in the way that fits it.

    Args:
        temperature: of the distributions.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature
        self._heads: weakref.WeakKeyDictionary[torch.nn.Module, Head | None] = weakref.WeakKeyDictionary()

    def __call__(
        self,
        model: torch.nn.Module,
        labels: torch.Tensor,
        inputs: dict[str, Any],
        *,
        entropy: bool = True,
        entropy_grad: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(b, L - 1) log-probabilities and entropies, as `forward_logprobs` describes them."""
        base = unwrapped(model)
        vocabulary = base.config.get_text_config().vocab_size  # type: ignore[union-attr, operator]
        head = None if labels.numel() * vocabulary <= PLAIN_LOGITS else self.head(model, labels)
        if head is None:
            logits = model(**inputs, use_cache=False).logits[:, :-1]
            logprobs, plain_entropy = score_logits(logits, labels[:, 1:], self.temperature, entropy_grad)
            return logprobs, plain_entropy if entropy else None
        with reading(head, Reading(labels, self.temperature, entropy, entropy_grad)):
            scores = model(**inputs, use_cache=False).logits[:, :-1]
        return scores[..., 0], scores[..., 1] if entropy else None

    def head(self, model: torch.nn.Module, labels: torch.Tensor) -> Head | None:
        """How a model's output layer is read; None: from plain logits. Checked at a model's first use, in a few short
        forward passes that every process makes.
        """
        base = unwrapped(model)
        if base not in self._heads:
            self._heads[base] = check(model, possible_heads(base), labels, self.temperature)
            if self._heads[base] is None:
                warnings.warn(
                    f"{type(base).__name__}: what follows its output layer is not known -> log-probabilities are read"
                    " from plain logits, which takes more memory",
                    stacklevel=2,
                )
        return self._heads[base]


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The model without DDP, DeepSpeed and compilation around it."""
    module: torch.nn.Module = extract_model_from_parallel(model, keep_torch_compile=True)
    return module


def check(model: torch.nn.Module, heads: list[Head], labels: torch.Tensor, temperature: float) -> Head | None:
    """The first of these heads that scores eight tokens as the model's plain logits say, with hidden states enlarged so
    that a cap would show; None if none does.
    """
    if not heads:
        return None
    tokens = labels[labels != -100][:8]
    if len(tokens) < 8:
        tokens = torch.cat([tokens, torch.arange(8 - len(tokens), device=labels.device)])
    inputs = {"input_ids": tokens[None], "attention_mask": torch.ones_like(tokens)[None]}
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            return _first_right(model, heads, inputs, temperature)
    except Exception as problem:  # whatever the model's own code says to such inputs
        warnings.warn(f"the output layer could not be checked: {problem!r}", stacklevel=2)
        return None
    finally:
        for module in training:
            module.training = True


def _first_right(
    model: torch.nn.Module, heads: list[Head], inputs: dict[str, torch.Tensor], temperature: float
) -> Head | None:
    labels, layers, seen = inputs["input_ids"], heads[0].layers, []
    observers = [layer.register_forward_hook(lambda _, __, out: seen.append(out)) for layer in layers]
    try:
        model(**inputs, use_cache=False)
    finally:
        for observer in observers:
            observer.remove()
    if len(seen) != 1:
        return None
    enlarge = CHECKED_SIZE / max(float(seen[0].abs().max()), 1e-6)
    precision = (
        torch.finfo(seen[0].dtype).eps if seen[0].dtype.itemsize == 2 else 2.0 ** (-9 if labels.is_cuda else -17)
    )
    hooks = [layer.register_forward_pre_hook(lambda _, args: (args[0] * enlarge, *args[1:])) for layer in layers]
    try:
        plain = score_logits(model(**inputs, use_cache=False).logits[:, :-1], labels[:, 1:], temperature)
        for head in heads:
            with reading(head, Reading(labels, temperature, True, False)):
                scores = model(**inputs, use_cache=False).logits
            bound = 8 * CHECKED_SIZE * precision * max(1.0, head.logit_scale or 1.0) / temperature
            if scores.shape == (*labels.shape, 2) and all(
                float((scores[:, :-1, i] - plain[i]).abs().max()) <= bound for i in range(2)
            ):
                return head
    finally:
        for hook in hooks:
            hook.remove()
    return None
