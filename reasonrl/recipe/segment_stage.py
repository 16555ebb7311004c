"""The stage kind `segment`: steps for solutions, by rules or by a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from reasonrl.recipe.annotate_stage import SegmentConfig
from reasonrl.recipe.endpoint_source import EndpointSource
from reasonrl.recipe.fields import Config, Count, Issue, NonNegative, NonNegativeCount, Text
from reasonrl.recipe.sources import Data
from reasonrl.recipe.stage_base import Stage


class ModelCuts(Config):
    """A language model that says where steps begin.

    Attributes:
        endpoint: where it answers.
        temperature, max_tokens, seed: of its replies.
        re_asks: how often it is asked again, with the reason, after a reply that cannot be used.
        reply: how the form of replies is asked of the server; `text` does not ask.
        prompt: file of a prompt of your own.
    """

    endpoint: EndpointSource
    temperature: NonNegative = 0.0
    max_tokens: Count = 2048
    seed: NonNegativeCount | None = 0
    re_asks: NonNegativeCount = 2
    reply: Literal["json_schema", "json_object", "text"] = "json_schema"
    prompt: Text | None = None
    hints: ClassVar[Mapping[str, str]] = {"max_new_tokens": "max_tokens", "retries": "re_asks", "template": "prompt"}


class SegmentStage(Stage):
    """Steps for solutions, and, with `separator`, solutions that mark their steps.

    Attributes:
        data: rows with a problem and a solution (`text`, `response` or `solution`).
        segment: the rules; with `llm`, the lengths that are asked for, and what cuts where the model has no answer.
        llm: a language model that joins the rules' finest pieces to steps.
        separator: write each solution anew, in each step all white space one space, with this between the steps: what a
            generator is trained on that marks its steps. Null leaves texts as they are.
        shard_size: rows a file.
    """

    kind: Literal["segment"] = "segment"
    data: Data
    segment: SegmentConfig = Field(default_factory=SegmentConfig)
    llm: ModelCuts | None = None
    separator: Text | None = None
    shard_size: Count = 500
    makes: ClassVar[tuple[str, ...]] = ("data",)
    hints: ClassVar[Mapping[str, str]] = {
        "type": "kind",
        "rules": "segment",
        "judge": "llm",
        "endpoint": "llm",
        "step_separator": "separator",
        "solutions": "data",
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        segment = given.get("segment")
        method = segment.get("method") if isinstance(segment, Mapping) else getattr(segment, "method", None)
        if method == "given":
            return [Issue("segment.method", "is given, but this stage makes the steps", "use rules, lines or sat")]
        if given.get("llm") is not None and method not in (None, "rules"):
            text = f"is {method}, but llm joins pieces that rules make"
            return [Issue("segment.method", text, "remove it, or remove llm")]
        return []
