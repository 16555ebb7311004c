"""A transformer backbone with a linear head that reads one or more numbers at every position: critics and process
reward models.

transformers has no token-classification classes for vision-language models, so the head is ours and the backbone is
`AutoModel`, which maps them all.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from reasonrl.errors import ModelError
from reasonrl.models.loading import load_weights, resolve_model
from reasonrl.models.lora import Lora, add_lora, is_adapted, trained_state, whole_state

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HeadInit = Literal["normal", "zeros"]

HEAD_WEIGHTS = "scalar_head.safetensors"


class ScalarHeadModel(nn.Module):
    """Backbone plus `nn.Linear(hidden, n_outputs, bias=False)`.

    Args:
        backbone: a model whose output has `last_hidden_state` (B, L, hidden).
        n_outputs: numbers read at every position.
        init: `normal` draws the head from N(0, 1 / (hidden + 1)) as a standard deviation (arXiv 2503.24290's released
            code), `zeros` starts at zero.
        seed: seed of the draw.
    """

    def __init__(
        self, backbone: PreTrainedModel, *, n_outputs: int = 1, init: HeadInit = "normal", seed: int = 0
    ) -> None:
        super().__init__()
        self.backbone = backbone
        hidden = backbone.config.get_text_config().hidden_size
        reference = next(backbone.parameters())
        self.head = nn.Linear(hidden, n_outputs, bias=False, dtype=reference.dtype, device=reference.device)
        # Drawn in float32 on the CPU, so that every dtype and device starts from the same numbers.
        generator = torch.Generator().manual_seed(seed)
        draw = torch.randn(n_outputs, hidden, generator=generator) / (hidden + 1)
        with torch.no_grad():
            self.head.weight.copy_(draw if init == "normal" else torch.zeros_like(draw))

    @property
    def config(self) -> Any:
        """The backbone's configuration."""
        return self.backbone.config

    @property
    def _no_split_modules(self) -> list[str] | None:
        """Names of the backbone's layers: what FSDP splits one by one."""
        base: Any = self.backbone.get_base_model() if is_adapted(self.backbone) else self.backbone
        names = base._no_split_modules
        return None if names is None else list(names)

    def forward(self, **inputs: Any) -> torch.Tensor:
        """Numbers at every position: (B, L) when the head has one output, else (B, L, n_outputs); `inputs` go to the
        backbone.
        """
        hidden = self.backbone(**inputs, use_cache=False).last_hidden_state
        values = self.head(hidden.to(self.head.weight.dtype))
        if values.dtype in (torch.bfloat16, torch.float16):
            values = values.float()  # rewards, advantages and losses are made of them
        # A copy, no view: FSDP hangs its backward pass on the tensor that leaves the model.
        return values.squeeze(-1).clone() if self.head.out_features == 1 else values

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute activations of the backbone in the backward pass."""
        self.backbone.gradient_checkpointing_enable(**kwargs)
        if is_adapted(self.backbone):
            # With a frozen embedding nothing that enters the first layer would carry a gradient.
            self.backbone.enable_input_require_grads()

    def add_lora(self, lora: Lora, *, seed: int, autocast: bool = True) -> None:
        """Freeze the backbone and train an adapter in it, and the head; see `reasonrl.models.lora.add_lora`."""
        self.backbone = add_lora(self.backbone, lora, seed=seed, causal=False, autocast=autocast)
        if autocast:
            self.head.float()

    def whole_state(self) -> dict[str, torch.Tensor]:
        """What `save_pretrained` writes, adapters merged and split parameters gathered; a collective call."""
        backbone = {f"backbone.{name}": tensor for name, tensor in whole_state(self.backbone).items()}
        return backbone | {f"head.{name}": tensor for name, tensor in trained_state(self.head).items()}

    def save_pretrained(self, directory: str | Path, state: dict[str, torch.Tensor] | None = None) -> None:
        """Write the backbone in the ordinary checkpoint layout and the head beside it; with `state` (`whole_state`)
        those weights instead of the model's own.
        """
        from safetensors.torch import save_file

        directory = Path(directory)
        if state is None:
            self.backbone.save_pretrained(directory)
            head = self.head.weight.detach().cpu().contiguous()
        else:
            base = self.backbone.get_base_model() if is_adapted(self.backbone) else self.backbone
            named = {name.removeprefix("backbone."): t for name, t in state.items() if name.startswith("backbone.")}
            base.save_pretrained(directory, state_dict=named)
            head = state["head.weight"]
        save_file({"weight": head}, directory / HEAD_WEIGHTS)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        n_outputs: int = 1,
        init: HeadInit = "normal",
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        trust_remote_code: bool = False,
        **kwargs: Any,
    ) -> ScalarHeadModel:
        """Load a saved scalar-head model, or put a fresh head on the backbone of any checkpoint.

        Args:
            path: local folder, hub id, or a `tiny:` name.
            n_outputs: numbers read at every position.
            init: start of a fresh head; a saved head is loaded as it is.
            seed: seed of a fresh head.
            dtype: of backbone and head.
            trust_remote_code: run code that the checkpoint ships; off unless a recipe says so.
            kwargs: passed to the backbone's `from_pretrained`.

        Raises:
            ModelError: the checkpoint cannot be loaded, lacks weights, or its head has another number of outputs.
        """
        from transformers import AutoModel

        backbone = load_weights(
            AutoModel, str(path), key="critic_model", dtype=dtype, trust_remote_code=trust_remote_code, **kwargs
        )
        model = cls(backbone, n_outputs=n_outputs, init=init, seed=seed)
        saved = Path(resolve_model(str(path))) / HEAD_WEIGHTS
        if saved.is_file():
            from safetensors import SafetensorError
            from safetensors.torch import load_file

            try:
                weight = load_file(saved)["weight"]
            except (SafetensorError, KeyError) as error:
                raise ModelError(f"{saved}: the head cannot be read: {error!r} -> the file is damaged") from error
            if weight.shape != model.head.weight.shape:
                raise ModelError(
                    f"{saved}: the head is {tuple(weight.shape)}, expected {tuple(model.head.weight.shape)}"
                    " (outputs, hidden size)"
                )
            with torch.no_grad():
                model.head.weight.copy_(weight)
        return model
