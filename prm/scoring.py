"""P(step is right) of every step of solutions, in one pass of the model per solution, many solutions to a pass."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.data_tools.prompts import as_messages
from reasonrl.prm.aggregation import AGGREGATIONS, DEFAULT_AGGREGATION, aggregate
from reasonrl.prm.encoding import Encoded, Encoder, Messages, plan_rows, step_logits

if TYPE_CHECKING:
    from reasonrl.models.scalar_head import ScalarHeadModel

__all__ = [
    "AGGREGATIONS",
    "DEFAULT_AGGREGATION",
    "StepScorer",
    "aggregate",
    "load_scorer",
    "load_trained",
    "packing_obstacle",
    "score_solutions",
    "trained_folder",
]

Scores = list[list[float | None]]

TOKENS = 16384
PROBE = "First 2 + 3 = 5. Then 5 * 7 = 35. Wait, let me check: 5 * 7 = 35, so the answer is 35."
#: Lengths of the probe's sequences, two of them equal.
LENGTHS = (21, 12, 12, 5)

_REFUSALS = (TypeError, ValueError, LookupError, AttributeError, ImportError, AssertionError, RuntimeError)
"""What a model's code answers arguments with that it cannot handle."""


def packing_obstacle(model: ScalarHeadModel, tokenizer: Any, *, half: bool = False) -> str | None:
    """None if a model reads packed rows as it reads padded ones, else why it cannot be given any, in words.

    Hidden states are compared, folded into one number each: a head may still be zero everywhere.
    """
    import torch

    from reasonrl.models.packing import enable_packing, special_masks
    from reasonrl.models.packing_check import disagreement

    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    ids = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    ids = ids * (1 + 2 * max(LENGTHS) // len(ids))
    rows = [Encoded(tuple(ids[n : n + size]), 0, tuple(range(size))) for n, size in enumerate(LENGTHS)]
    device = next(model.parameters()).device

    def fold(**inputs: Any) -> torch.Tensor:
        hidden = model.backbone(**inputs, use_cache=False).last_hidden_state.double()
        return hidden @ torch.cos(torch.arange(hidden.shape[-1], device=hidden.device, dtype=torch.float64))

    def read(some: Sequence[Encoded], packed: bool) -> torch.Tensor:
        return step_logits(fold, some, device, packed=packed, pad_token_id=tokenizer.pad_token_id or 0)

    was_training = model.training
    model.eval()
    try:
        if (reason := enable_packing(model)) is not None:
            return reason
        with torch.no_grad(), special_masks() as masks, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*use_cache.*")
            padded, packed = read(rows, False), read(rows, True)
            alone = torch.cat([read([row], False) for row in rows])
    except _REFUSALS as error:
        return f"{type(model).__name__} cannot read them: {type(error).__name__}: {error}"
    finally:
        model.train(was_training)
    if masks:
        return f"{type(model).__name__} asks for {masks[0]}"
    return disagreement(model, float((packed - padded).abs().max()), float((alone - padded).abs().max()), half)


class StepScorer:
    """Scores solutions with a process reward model.

    Args:
        model: a scalar-head model; a score is the sigmoid of its number at a step's last token.
        tokenizer: the model's, or its processor: then pictures are read too.
        tokens_per_microbatch: tokens that go through the model at once.
        max_length: longest prompt and solution together; what lies beyond is cut, and steps that end there have no
            score (None). None keeps all.
        messages: makes a record's conversation.

    Attributes:
        packed: whether solutions are set end to end in rows without padding.
        obstacle: why they are not, in words.
        cut: solutions that were cut so far.
    """

    def __init__(
        self,
        model: ScalarHeadModel,
        tokenizer: Any,
        *,
        tokens_per_microbatch: int = TOKENS,
        max_length: int | None = None,
        messages: Messages = as_messages,
    ) -> None:
        self.model, self.tokens = model, tokens_per_microbatch
        self.encoder = Encoder(tokenizer, max_length, messages)
        self.obstacle = packing_obstacle(model, tokenizer)
        self.packed = self.obstacle is None
        self.cut = 0

    def __call__(self, solutions: Sequence[Mapping[str, Any]]) -> Scores:
        """P(step is right) of every step of every solution; raises DataError for a record that cannot be read."""
        encoded = [self.encoder(solution) for solution in solutions]
        self.cut += sum(one.cut for one in encoded)
        return self.score_encoded(encoded)

    def score_encoded(self, encoded: Sequence[Encoded]) -> Scores:
        """The same of what has been encoded already."""
        import torch

        readable = [index for index, one in enumerate(encoded) if one.reached]
        plan = plan_rows(readable, encoded, self.tokens, packed=self.packed)
        device = next(self.model.parameters()).device
        pad = self.encoder.tokenizer.pad_token_id or 0
        scores: Scores = [[None] * len(one.ends) for one in encoded]
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                for group in plan:
                    rows = [encoded[index] for index in group]
                    logits = step_logits(self.model, rows, device, packed=self.packed, pad_token_id=pad)
                    values = iter(torch.sigmoid(logits).tolist())
                    for index, row in zip(group, rows, strict=True):
                        scores[index] = [None if end is None else next(values) for end in row.ends]
        finally:
            self.model.train(was_training)
        return scores


def score_solutions(
    model: ScalarHeadModel, tokenizer: Any, solutions: Sequence[Mapping[str, Any]], tokens_per_microbatch: int = TOKENS
) -> Scores:
    """P(step is right) of every step; see `StepScorer`."""
    return StepScorer(model, tokenizer, tokens_per_microbatch=tokens_per_microbatch)(solutions)


def trained_folder(name: str) -> Path:
    """The folder of a trained process reward model.

    Raises:
        ModelError: it is not there, or has no trained head.
    """
    from reasonrl.errors import ModelError
    from reasonrl.models import resolve_model
    from reasonrl.models.scalar_head import HEAD_WEIGHTS

    folder = Path(resolve_model(name))
    if not (folder / HEAD_WEIGHTS).is_file():
        raise ModelError(
            f"{name}: there is no {HEAD_WEIGHTS}, so it is no trained process reward model -> train one with a stage of"
            " kind: prm"
        )
    return folder


def load_trained(name: str, dtype: str = "auto") -> tuple[ScalarHeadModel, Any]:
    """A trained process reward model and its tokenizer, or its processor if it reads pictures, on the CPU.

    Args:
        name: the folder, with its head beside the weights.
        dtype: `auto` takes bfloat16 where there is an accelerator and float32 where there is none.

    Raises:
        ModelError: it cannot be loaded, or has no trained head.
    """
    import torch

    from reasonrl.models import ScalarHeadModel

    trained_folder(name)
    chosen = ("bfloat16" if torch.cuda.is_available() else "float32") if dtype == "auto" else dtype
    model = ScalarHeadModel.from_pretrained(name, dtype=getattr(torch, chosen))
    return model.eval(), reader_of_text(name)


def reader_of_text(name: str) -> Any:
    """A model's processor if it reads pictures and has one, else its tokenizer."""
    from reasonrl.errors import ModelError
    from reasonrl.models import load_processor, load_tokenizer, reads_images

    if reads_images(name):
        with contextlib.suppress(ModelError):  # trained on text alone
            return load_processor(name)
    return load_tokenizer(name)


def load_scorer(
    name: str, *, tokens_per_microbatch: int = TOKENS, max_length: int | None = None, dtype: str = "auto"
) -> StepScorer:
    """A trained process reward model (`load_trained`), on the accelerator if there is one, ready to score."""
    import torch

    model, tokenizer = load_trained(name, dtype)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    return StepScorer(model, tokenizer, tokens_per_microbatch=tokens_per_microbatch, max_length=max_length)
