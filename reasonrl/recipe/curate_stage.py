"""The stage kind `curate`: from sources of rows to a training set, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from reasonrl.recipe.endpoint_source import EndpointSource
from reasonrl.recipe.fields import (
    OPERATIONAL,
    Config,
    Count,
    Issue,
    NonNegative,
    NonNegativeCount,
    Number,
    OpenFraction,
    Positive,
    PositiveFraction,
    Text,
)
from reasonrl.recipe.references import is_reference
from reasonrl.recipe.sources import Data, ModelSource, _expression
from reasonrl.recipe.stage_base import Stage

Condition = Annotated[Text, BeforeValidator(_expression)]
Ends = tuple[NonNegativeCount | None, NonNegativeCount | None]
Patterns = dict[Text, Annotated[tuple[Text, ...], Field(min_length=1)]]


class PictureConfig(Config):
    """What pictures may be; see `data_tools.curate.PictureRules`."""

    max_pixels: Count = 1 << 24
    min_side: Count = 1
    resize_to_pixels: Count | None = None
    most: Count = 16


class RulesStep(Config):
    """Rows go by length, by patterns, by too few options."""

    step: Literal["rules"] = "rules"
    characters: dict[Text, Ends] = Field(default_factory=dict)
    drop: Patterns = Field(default_factory=dict)
    require: Patterns = Field(default_factory=dict)
    options_from: Count | None = None


class KeepStep(Config):
    """Rows stay for which a condition over their numbers holds."""

    step: Literal["keep"] = "keep"
    when: Condition


class LossStep(Config):
    """Rows with a high loss under a light model go.

    Attributes:
        top: share of rows that goes; over: nats a token from which a row goes. One of them, or both.
        max_length: tokens; a longer solution is cut for this.
    """

    step: Literal["loss"] = "loss"
    model: ModelSource
    top: OpenFraction | None = None
    over: Positive | None = None
    max_length: Count = 4096
    tokens_per_microbatch: Annotated[Count, OPERATIONAL] = 16384

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        if {"top", "over"} <= given.keys() and given["top"] is None and given["over"] is None:
            return [Issue("top", "is missing, and over too, so no row would go", "write top: 0.03")]
        return []


class JudgeStep(Config):
    """A model is asked about each row, several times; too few votes for it, and the row goes.

    Attributes:
        question: `checkable`, whether an answer can be checked against the reference; `relevance`, whether picture and
            question need each other (rows of text stay); or a name of your own, with `prompt`.
        votes: how often; agree: least share of votes for the row.
        prompt: file of a prompt of your own, with places for `problem`, and if you like `answer`.
    """

    step: Literal["judge"] = "judge"
    question: Text
    endpoint: EndpointSource
    votes: Count = 4
    agree: PositiveFraction = 1.0
    temperature: NonNegative | None = None
    max_tokens: Count = 2048
    seed: NonNegativeCount | None = 0
    re_asks: NonNegativeCount = 2
    prompt: Text | None = None

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        if given.get("question") not in (None, *QUESTIONS) and given.get("prompt") is None:
            text = f"is {given['question']!r}, which has no prompt here"
            return [Issue("question", text, f"one of {', '.join(QUESTIONS)}, or give prompt: FILE")]
        return []


QUESTIONS = ("checkable", "relevance")


class PassRateStep(Config):
    """Rows get the figures of answers that a `rollout` stage has drawn for them, and stay where a condition holds."""

    step: Literal["pass_rate"] = "pass_rate"
    data: Data
    when: Condition = "0 < pass_rate < 1"


class BehavioursStep(Config):
    """Rows get counts of behaviours by patterns: columns `n_backtracking`, …, and `n_behaviours`, how many differ."""

    step: Literal["behaviours"] = "behaviours"
    column: Text = "solution"


class DeduplicateStep(Config):
    """Rows alike to one before them go."""

    step: Literal["deduplicate"] = "deduplicate"
    share: PositiveFraction = 0.8
    column: Text = "problem"


class DecontaminateStep(Config):
    """Rows that stand in suites go. `against`: named sources, or names of shipped suites."""

    step: Literal["decontaminate"] = "decontaminate"
    suites: tuple[Text, ...] = ()
    against: dict[Text, Data] = Field(default_factory=dict)
    words: Annotated[Count, Field(ge=2)] = 13
    share: PositiveFraction = 0.5

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        if {"suites", "against"} <= given.keys() and not given["suites"] and not given["against"]:
            return [Issue("suites", "is empty, and against too", "name suites: [math500]")]
        return []


class StratifyStep(Config):
    """Strata get factors and caps.

    Attributes:
        by: a column; with `bins` one of numbers, whose strata are written `low..high`.
        weights: stratum -> how often its rows shall be there.
        cap: rows of a stratum, at most.
    """

    step: Literal["stratify"] = "stratify"
    by: Text
    bins: tuple[Number, ...] | None = None
    weights: dict[str, NonNegative] = Field(default_factory=dict)
    cap: Count | None = None

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        bins = given.get("bins")
        if isinstance(bins, (list, tuple)) and list(bins) != sorted(set(bins)):
            return [Issue("bins", f"are {list(bins)}", "write edges that rise")]
        return []


class MixStep(Config):
    """Sources get shares of the whole.

    Attributes:
        weights: source -> weight; total: rows in the end; caps: rows of a source, at most; repeats: how often a
            source's rows may be there.
    """

    step: Literal["mix"] = "mix"
    weights: Annotated[dict[Text, NonNegative], Field(min_length=1)]
    total: Count | None = None
    caps: dict[Text, Count] = Field(default_factory=dict)
    repeats: Annotated[Number, Field(ge=1)] = 1.0


def _step_tag(value: Any) -> str:
    name = value.get("step") if isinstance(value, Mapping) else getattr(value, "step", None)
    return f"@{name}"


CurateStep = Annotated[
    Annotated[RulesStep, Tag("@rules")]
    | Annotated[KeepStep, Tag("@keep")]
    | Annotated[LossStep, Tag("@loss")]
    | Annotated[JudgeStep, Tag("@judge")]
    | Annotated[PassRateStep, Tag("@pass_rate")]
    | Annotated[BehavioursStep, Tag("@behaviours")]
    | Annotated[DeduplicateStep, Tag("@deduplicate")]
    | Annotated[DecontaminateStep, Tag("@decontaminate")]
    | Annotated[StratifyStep, Tag("@stratify")]
    | Annotated[MixStep, Tag("@mix")],
    Discriminator(_step_tag),
]


def _is_made(source: Any) -> bool:
    """Whether rows come from a stage, whose own sources they name."""
    path = source.get("path") if isinstance(source, Mapping) else getattr(source, "path", None)
    return is_reference(source) or is_reference(path)


class CurateStage(Stage):
    """Rows of sources through steps, in the order written (docs/curation.md).

    Attributes:
        sources: by name; `limit` of a source is its cap.
        require: columns that a row must have.
        pictures: what pictures may be; rows with others are set aside.
        steps: what is done, in order.
    """

    kind: Literal["curate"] = "curate"
    sources: Annotated[dict[Text, Data], Field(min_length=1)]
    require: tuple[Literal["problem", "answer", "solution", "images"], ...] = ("problem", "answer")
    pictures: PictureConfig = Field(default_factory=PictureConfig)
    steps: tuple[CurateStep, ...] = ()
    makes: ClassVar[tuple[str, ...]] = ("data",)
    hints: ClassVar[Mapping[str, str]] = {"type": "kind", "data": "sources", "filters": "steps", "images": "pictures"}

    @classmethod
    def prepare(cls, raw: dict[str, Any]) -> dict[str, Any]:
        if "sources" not in raw and raw.get("data") is not None:
            raw["sources"] = {"data": raw.pop("data")}
        return raw

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        sources, issues = given.get("sources"), []
        for name, source in sources.items() if isinstance(sources, Mapping) else ():
            one = source if isinstance(source, Mapping) else source.model_dump() if isinstance(source, Config) else {}
            for key in ("template", "system_prompt", "shuffle"):
                if one.get(key):
                    fix = f"set it where the rows are used: data: {{path: ${{stage:NAME}}, {key}: …}}"
                    issues.append(Issue(f"sources.{name}.{key}", "is no part of curated rows", fix))
        for number, step in enumerate(given.get("steps") or ()):
            one = step if isinstance(step, Mapping) else step.model_dump() if isinstance(step, Config) else {}
            if one.get("step") != "mix" or not isinstance(sources, Mapping) or any(map(_is_made, sources.values())):
                continue
            for key in ("weights", "caps"):
                unknown = [name for name in one.get(key) or () if name not in sources]
                if unknown:
                    known = ", ".join(sources)
                    issues.append(Issue(f"steps.{number}.{key}.{unknown[0]}", "is no source", f"sources: {known}"))
        return issues
