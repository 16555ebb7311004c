"""Protocols: named sets of sampling settings, as a paper or a model card states them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from reasonrl.errors import Problem, RecipeError
from reasonrl.eval.suites.files import read_models
from reasonrl.recipe.fields import Config, Count, Flag, NonNegative, PositiveFraction, Text
from reasonrl.recipe.fields import near as nearest


class SuiteSettings(Config):
    """Sampling of one suite, or of all; what is not given stays as it is."""

    n: Count | None = None
    temperature: NonNegative | None = None
    top_p: PositiveFraction | None = None
    max_tokens: Count | None = None
    k: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    greedy: Flag | None = None
    hints: ClassVar[Mapping[str, str]] = {"max_new_tokens": "max_tokens", "num_samples": "n"}

    def given(self) -> dict[str, Any]:
        """What it says."""
        return {key: value for key in SuiteSettings.model_fields if (value := getattr(self, key)) is not None}


class SelfConsistency(Config):
    """Majority votes estimated from a pool of samples.

    Attributes:
        pool: samples a problem to draw from.
        resamplings: how often votes are drawn.
        k: numbers of votes.
    """

    pool: Count
    resamplings: Count
    k: tuple[Count, ...]


class Protocol(SuiteSettings):
    """Sampling settings by suite.

    Attributes:
        about: whose protocol it is.
        settings_from: where it is stated.
        derived: what was not stated and had to be derived or assumed; None if everything was stated.
        suites: what is different for single suites.
        self_consistency: the votes it reports besides.
    """

    about: Text
    settings_from: Text
    derived: Text | None = None
    suites: dict[str, SuiteSettings] = Field(default_factory=dict)
    self_consistency: SelfConsistency | None = None

    def settings_of(self, suite: str) -> dict[str, Any]:
        """What it says of a suite; for a suite that it does not name, what it says of all."""
        own = self.suites.get(suite)
        return {**self.given(), **(own.given() if own is not None else {})}


@cache
def protocols() -> dict[str, Protocol]:
    """The shipped protocols by name."""
    return read_models(Path(__file__).parent / "protocols.yaml", Protocol)


def get_protocol(name: str) -> Protocol:
    """The protocol of a name; raises RecipeError, with the nearest name, if there is none."""
    known = protocols()
    if name not in known:
        close = nearest(name, known)
        fix = f"did you mean {close!r}?" if close else f"protocols: {', '.join(known)}"
        raise RecipeError([Problem("protocol", f"there is no protocol {name!r}", fix=fix)])
    return known[name]
