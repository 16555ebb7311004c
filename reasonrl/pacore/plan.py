"""How many calls a round has, and what every call is asked with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from reasonrl.pacore.compaction import Compaction, after_think
from reasonrl.pacore.errors import PacoreError
from reasonrl.pacore.synthesis import SynthesisPrompt
from reasonrl.plugins import near

LEVELS: dict[str, tuple[int, ...]] = {"low": (4,), "medium": (16,), "high": (32, 4)}
"""The paper's three settings (arXiv 2601.05593, section 3.2); the last round of one call is added to each."""

MOST_CALLS = 4096
"""A typing error should not ask for a million calls."""

FitRule = Literal["longest", "last", "shorten"]
FIT_RULES: tuple[FitRule, ...] = ("longest", "last", "shorten")


def estimated_tokens(text: str) -> int:
    """Tokens of a text where no tokenizer is at hand: a third of its UTF-8 bytes, rounded up, which is more than most
    tokenizers take.
    """
    return math.ceil(len(text.encode("utf-8", "surrogatepass")) / 3)


def read_rounds(value: Any) -> tuple[int, ...]:
    """The rounds that a level's name, `"32,4"`, a number or a list of numbers says, without the last round of one.

    Raises:
        PacoreError: none of these, a number below 1, or more than 4,096 calls.
    """
    if isinstance(value, str):
        name = value.strip()
        if name in LEVELS:
            return LEVELS[name]
        parts = [part.strip() for part in name.strip("[]").split(",")] if name.strip("[] ") else []
        if not all(part.isdecimal() for part in parts):
            raise PacoreError(f"rounds {value!r}{near(name, LEVELS)}, or numbers such as 32,4")
        value = [int(part) for part in parts]
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, Sequence) or not all(
        isinstance(count, int) and not isinstance(count, bool) and count >= 1 for count in value
    ):
        raise PacoreError(f"rounds {value!r} -> a list of whole numbers above 0, such as [32, 4], or a level")
    if sum(value) >= MOST_CALLS:
        raise PacoreError(f"rounds {list(value)} are {sum(value) + 1} calls -> at most {MOST_CALLS}")
    return tuple(value)


@dataclass(frozen=True)
class Fit:
    """How a synthesis prompt is made to fit the context window.

    Attributes:
        window: tokens of prompt and answer together that the model takes; None fits nothing.
        reserve: tokens kept for the answer where a call has no `max_tokens`; None keeps half of the window.
        rule: `longest` leaves out the longest messages first, `last` the last ones in the shuffled order (which takes
            no account of their length), `shorten` cuts the beginnings of the longest to one common length.
        tokens: counts the tokens of a text.
        image_tokens: of one picture.
    """

    window: int | None = None
    reserve: int | None = None
    rule: FitRule = "longest"
    tokens: Callable[[str], int] = estimated_tokens
    image_tokens: int = 1280

    def __post_init__(self) -> None:
        if self.rule not in FIT_RULES:
            raise PacoreError(f"fit {self.rule!r}{near(str(self.rule), FIT_RULES)}")
        if self.window is not None and self.window < 1:
            raise PacoreError(f"window {self.window} -> tokens, above 0")


@dataclass(frozen=True)
class Plan:
    """Everything that decides what is asked, but for the conversation and the seed.

    Attributes:
        rounds: calls of each round; a last round of one call is always added.
        temperature, top_p: of every call; 1 and 1 in the paper.
        max_tokens: of one call; None leaves it to the server.
        compaction: makes a message of an answer.
        prompt: the synthesis prompt.
        fit: to the context window.
        tolerate: share of a round's calls that may fail; the last call may not. Empty messages are no failures.
        budget: tokens that all calls together may generate, held exactly where the server heeds `max_tokens`: every
            call may take an equal share of what is left. None sets no limit.
    """

    rounds: tuple[int, ...] = LEVELS["medium"]
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = None
    compaction: Compaction = after_think
    prompt: SynthesisPrompt = field(default_factory=SynthesisPrompt)
    fit: Fit = field(default_factory=Fit)
    tolerate: float = 0.5
    budget: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "rounds", read_rounds(self.rounds))
        if not 0 <= self.tolerate <= 1:
            raise PacoreError(f"tolerate {self.tolerate} -> a share between 0 and 1")
        for name in ("max_tokens", "budget"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise PacoreError(f"{name} {value} -> a number of tokens above 0")
        if self.budget is not None and self.budget < self.calls:
            raise PacoreError(
                f"budget {self.budget} is less than a token for each of {self.calls} calls -> raise it, or ask for"
                " fewer rounds"
            )

    @property
    def all_rounds(self) -> tuple[int, ...]:
        """The rounds with the last one of one call."""
        return (*self.rounds, 1)

    @property
    def calls(self) -> int:
        """Calls in all."""
        return sum(self.rounds) + 1
