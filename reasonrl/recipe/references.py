"""References from one stage to what another stage makes: `${stage:rl}`, `${stage:rl.critic@step=300}`,
`${previous:train,${model}}`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from pydantic_core import PydanticCustomError, core_schema

Part = Literal["model", "critic", "data"]
PARTS: tuple[str, ...] = get_args(Part)

_BODY = re.compile(
    r"(?P<stage>[A-Za-z0-9_-]+(?:\.[0-9]+)?)(?:\.(?P<part>[A-Za-z_]+))?(?:@(?:step=(?P<step>[0-9]+)|(?P<all>all)))?"
)
GRAMMAR = "${stage:NAME}, ${stage:NAME.critic}, ${stage:NAME@step=300}, ${stage:NAME@all} or ${previous:NAME,FALLBACK}"


@dataclass(frozen=True)
class Reference:
    """What another stage makes, named in a recipe.

    Attributes:
        stage: the stage's name; after `expand_stages` the instance's name (`train.2` in pass 2 of a loop).
        part: `model`, `critic` or `data`; None means what the key that holds the reference takes.
        step: a checkpoint's step, `all` for every checkpoint, None for the final product.
        previous: the stage of the loop's previous pass is meant (never after `expand_stages`).
        fallback: what `previous` means in pass 1, as written: a path or hub id, `${model}`, `${data.NAME}` or a
            reference.
    """

    stage: str
    part: Part | None = None
    step: int | Literal["all"] | None = None
    previous: bool = False
    fallback: str | None = None

    def __str__(self) -> str:
        part = f".{self.part}" if self.part else ""
        step = "" if self.step is None else "@all" if self.step == "all" else f"@step={self.step}"
        fallback = "" if self.fallback is None else f",{self.fallback}"
        return f"${{{'previous' if self.previous else 'stage'}:{self.stage}{part}{step}{fallback}}}"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read `${stage:…}` or `${previous:…}`.

        Raises:
            ValueError: the text is not a reference; the message names the grammar.
        """
        head = re.fullmatch(r"\$\{(stage|previous):(.*)\}", text.strip(), flags=re.DOTALL)
        if head is None:
            raise ValueError(f"{text!r} is not a reference; allowed: {GRAMMAR}")
        previous = head[1] == "previous"
        body, comma, fallback = head[2].partition(",")
        match = _BODY.fullmatch(body.strip())
        if match is None or (match["part"] and match["part"] not in PARTS):
            raise ValueError(f"{text!r} is not a well-formed reference; allowed: {GRAMMAR}")
        if comma and not previous:
            raise ValueError(f"{text!r}: only ${{previous:…}} takes a second argument; allowed: {GRAMMAR}")
        if comma and not fallback.strip():
            raise ValueError(f"{text!r}: the second argument is empty; allowed: {GRAMMAR}")
        step: int | Literal["all"] | None = "all" if match["all"] else int(match["step"]) if match["step"] else None
        return cls(match["stage"], cast("Part | None", match["part"]), step, previous, fallback.strip() or None)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        def validate(value: Any) -> Reference:
            if isinstance(value, Reference):
                return value
            if not isinstance(value, str):
                raise PydanticCustomError(
                    "reference_type",
                    "is {value}, not a reference; allowed: {grammar}",
                    {"value": repr(value), "grammar": GRAMMAR},
                )
            try:
                return cls.parse(value)
            except ValueError as error:
                raise PydanticCustomError("reference_syntax", "{message}", {"message": str(error)}) from error

        return core_schema.no_info_plain_validator_function(
            validate, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )


def is_reference(value: object) -> bool:
    """Whether a value is a reference or a text that begins like one (well formed or not)."""
    return isinstance(value, Reference) or (
        isinstance(value, str) and value.strip().startswith(("${stage:", "${previous:"))
    )


def with_references(value: Any) -> Any:
    """A plain value in which every text that begins like a reference is one, in lists and mappings too: for arguments
    that the schema does not know by name.

    Raises:
        PydanticCustomError: such a text is no well-formed reference.
    """
    if isinstance(value, dict):
        return {name: with_references(child) for name, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [with_references(child) for child in value]
    if not is_reference(value) or isinstance(value, Reference):
        return value
    try:
        return Reference.parse(value)
    except ValueError as error:
        raise PydanticCustomError("reference_syntax", "{message}", {"message": str(error)}) from error


def references_settled(value: Any, settle: Callable[[Reference], Any]) -> Any:
    """The same value with `settle(reference)` in the place of every reference."""
    if isinstance(value, Mapping):
        return {name: references_settled(child, settle) for name, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [references_settled(child, settle) for child in value]
    return settle(value) if isinstance(value, Reference) else value
