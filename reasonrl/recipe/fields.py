"""Building blocks of the schema: the base model, the classes a field can have, and strict scalar types."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticUndefined


class FieldClass(Enum):
    """What a change of the field means for a stage that has run already.

    IDENTITY changes the result (the default), OPERATIONAL does not, EXTENSIBLE may grow and reuse what is there.
    """

    IDENTITY = "identity"
    OPERATIONAL = "operational"
    EXTENSIBLE = "extensible"


OPERATIONAL = FieldClass.OPERATIONAL
EXTENSIBLE = FieldClass.EXTENSIBLE

# Strict: a quoted number, a 0/1 flag or a 3.0 count is a mistake to be shown, not to be guessed at.
Flag = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(strict=True, gt=0)]
NonNegativeCount = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
PositiveFraction = Annotated[float, Field(strict=True, gt=0, le=1, allow_inf_nan=False)]
OpenFraction = Annotated[float, Field(strict=True, ge=0, lt=1, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*$")]
Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class Issue:
    """A problem found across fields of one model; `key` is relative to the model."""

    key: str
    message: str
    fix: str = ""


def near(word: str, known: Iterable[str]) -> str | None:
    """The known word closest to `word`, or None if none is close."""
    names = list(known)
    folded = {name.lower().replace("-", "_"): name for name in names}
    wanted = str(word).lower().replace("-", "_")
    found = difflib.get_close_matches(wanted, folded, n=1, cutoff=0.7)
    # Two letters swapped in a short name (`lr` for `rl`) count for more than the ratio says.
    found = found or [name for name in folded if sorted(name) == sorted(wanted)]
    return folded[found[0]] if found else None


def raise_issues(title: str, issues: Sequence[Issue], others: Sequence[Any] = ()) -> None:
    """Raise one pydantic ValidationError that holds `issues` and the already known error details `others`."""
    details: list[InitErrorDetails] = [
        InitErrorDetails(type=other["type"], loc=other["loc"], input=other["input"], ctx=other.get("ctx", {}))
        if other["type"] not in _CUSTOM
        else InitErrorDetails(
            type=PydanticCustomError(other["type"], "{message}", {**other.get("ctx", {}), "message": other["msg"]}),
            loc=other["loc"],
            input=other["input"],
        )
        for other in others
    ]
    details += [
        InitErrorDetails(
            type=PydanticCustomError("reasonrl", "{message}", {"message": issue.message, "fix": issue.fix}),
            loc=tuple(part for part in issue.key.split(".") if part),
            input=None,
        )
        for issue in issues
    ]
    raise ValidationError.from_exception_data(title, details)


_CUSTOM = frozenset({"reasonrl", "reference_type", "reference_syntax"})


class Config(BaseModel):
    """Base of all models of a recipe: frozen, unknown keys refused, every problem reported at once.

    A subclass overrides `cross_checks` for rules that span fields. It is called with the fields that are right by
    themselves, so that a typo in
    one key does not hide a wrong combination of two others.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    hints: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        """Problems that span fields; `given` holds the raw values and defaults of the fields that are right by
        themselves.
        """
        return []

    @classmethod
    def prepare(cls, raw: dict[str, Any]) -> dict[str, Any]:
        """Rearrange the raw mapping before validation (a copy; may be changed in place)."""
        return raw

    @classmethod
    def meant_by(cls, key: str) -> str | None:
        """The field that an unknown key probably means, or None."""
        return cls.hints.get(key) or near(key, cls.model_fields)

    @model_validator(mode="wrap")
    @classmethod
    def _validate_all(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(data, Mapping):
            return handler(data)
        raw = cls.prepare(dict(data))
        errors: Sequence[Any] = ()
        model: Self | None = None
        try:
            model = handler(raw)
        except ValidationError as error:
            errors = error.errors(include_url=False)
        # A misspelt key is one problem: that the right one is missing, or what follows from its default, is not
        # another.
        meant = {cls.meant_by(str(error["loc"][0])) for error in errors if error["type"] == "extra_forbidden"}
        errors = [
            error for error in errors if not (error["type"] == "missing" and error["loc"] and error["loc"][0] in meant)
        ]
        bad = {error["loc"][0] for error in errors if error["loc"]} | meant
        given = {
            name: raw.get(name, field.get_default(call_default_factory=True))
            for name, field in cls.model_fields.items()
            if name not in bad
            and (name in raw or field.get_default() is not PydanticUndefined or not field.is_required())
        }
        issues = cls.cross_checks(given)
        if errors or issues or model is None:
            raise_issues(cls.__name__, issues, errors)
        assert model is not None
        return model


def field_class(model: type[BaseModel], name: str) -> FieldClass:
    """The class of a model's field; IDENTITY unless it is marked otherwise."""
    marks = [mark for mark in model.model_fields[name].metadata if isinstance(mark, FieldClass)]
    return marks[0] if marks else FieldClass.IDENTITY
