"""The stage kind `prm_eval`: what a process reward model's scores are worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from reasonrl.recipe.annotate_stage import SegmentConfig
from reasonrl.recipe.fields import (
    EXTENSIBLE,
    OPERATIONAL,
    Config,
    Count,
    Fraction,
    Issue,
    Name,
    NonNegative,
    OpenFraction,
    PositiveFraction,
    Text,
)
from reasonrl.recipe.references import Reference, is_reference
from reasonrl.recipe.sources import TRAINING_OPTIONS, Data, ModelSource, RewardSpec, RolloutConfig
from reasonrl.recipe.stage_base import Stage

Aggregation = Literal["last", "min", "product", "mean"]
Aggregations = Annotated[tuple[Aggregation, ...], Field(min_length=1)]


class StepsExam(Config):
    """Step scores against labels.

    Attributes:
        data: label rows.
        scores: column of the rows that holds their step scores; None asks the model.
        threshold: from which score on a step, and a solution, is called right.
        aggregation: what makes one score of a solution's steps.
    """

    data: Data
    scores: Text | None = None
    threshold: OpenFraction = 0.5
    aggregation: Aggregation = "last"
    hints: ClassVar[Mapping[str, str]] = {"aggregations": "aggregation"}


class BestOfExam(Config):
    """Best-of-N among samples, as the expectation over subsets of k of them.

    Attributes:
        data: sample rows, several a problem (`problem_id`), with `correct`.
        k: sizes of the subsets.
        aggregations: what makes one score of a sample's steps; the first is the one that counts.
        scores: column of the rows that holds step scores, or one score of the whole; None asks the model.
        segment: how samples without steps get them; None takes the stage's.
        reward: reads the answers of samples that bring neither `class` nor `extracted`, for votes.
    """

    data: Data
    scores: Text | None = None
    k: Annotated[tuple[Count, ...], Field(min_length=1), EXTENSIBLE] = (2, 4, 8, 16)
    aggregations: Annotated[Aggregations, EXTENSIBLE] = ("last", "min", "product", "mean")
    segment: SegmentConfig | None = None
    reward: RewardSpec = "math"
    hints: ClassVar[Mapping[str, str]] = {"n": "k", "aggregation": "aggregations", "samples": "data"}


class WorldWriter(Config):
    """Steps that a synthetic world writes by its law.

    Attributes:
        world: its name; `reflective` writes.
        args: of its law: `preset`, `shares`, `teacher_seed`, `operators`.
    """

    world: Name
    args: dict[str, Any] = Field(default_factory=dict)


def _policy_tag(value: Any) -> str:
    if isinstance(value, (Mapping, WorldWriter)):
        return "@world"
    return "@reference" if is_reference(value) else "@value"


Policy = Annotated[
    Annotated[Text, Tag("@value")] | Annotated[Reference, Tag("@reference")] | Annotated[WorldWriter, Tag("@world")],
    Discriminator(_policy_tag),
]


class SearchExam(Config):
    """Guided search: several continuations of a step, the best by the model's scores are kept.

    Attributes:
        policy: writes the steps: a model, or a synthetic world (`world`, `args`).
        data: problems with answers.
        candidates: continuations of a step, drawn for each problem; each number is a search of its own, 1 keeps the
            policy alone.
        width: chains that are kept (beams); candidates are shared out among them.
        step_end: text that ends a step and belongs to it.
        max_steps, max_step_tokens: of a chain, of a step.
        reward: what says whether a solution is right.
    """

    policy: Policy
    data: Data
    candidates: Annotated[tuple[Count, ...], Field(min_length=1), EXTENSIBLE] = (8,)
    width: Count = 1
    step_end: Text = "\n\n"
    max_steps: Count = 64
    max_step_tokens: Count = 512
    temperature: NonNegative = 1.0
    top_p: PositiveFraction = 1.0
    aggregation: Aggregation = "last"
    reward: RewardSpec = "math"
    hints: ClassVar[Mapping[str, str]] = {
        "model": "policy",
        "beams": "width",
        "n": "candidates",
        "k": "candidates",
        "separator": "step_end",
        "max_tokens": "max_step_tokens",
        "aggregations": "aggregation",
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        width, sizes = given.get("width", 1), given.get("candidates", ())
        odd = [size for size in sizes if isinstance(size, int) and size % width]
        if odd:
            text = f"holds {odd[0]}, which cannot be shared out evenly among width = {width} chains"
            return [Issue("candidates", text, f"use multiples of {width}")]
        return []


class BenchmarksExam(Config):
    """Published benchmarks, from local files.

    Attributes:
        processbench: names of its subsets (`<folder>/processbench/<name>.jsonl`).
        prmbench: files of it, relative to `<folder>/prmbench`.
        folder: of the files; None takes `$REASONRL_DATA`.
        threshold: below which score a step is wrong; `gsm8k` takes the one that is best on that subset of ProcessBench.
    """

    processbench: tuple[Name, ...] = ()
    prmbench: tuple[Text, ...] = ()
    folder: Text | None = None
    threshold: Literal["gsm8k"] | Fraction = 0.5
    hints: ClassVar[Mapping[str, str]] = {"subsets": "processbench", "data": "folder"}

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        if not given.get("processbench", True) and not given.get("prmbench", True):
            return [Issue("processbench", "is empty, and so is prmbench", "processbench: [gsm8k, math]")]
        if given.get("threshold") == "gsm8k" and "gsm8k" not in given.get("processbench", ("gsm8k",)):
            return [Issue("threshold", "is gsm8k, which is not among the subsets", "add gsm8k to processbench")]
        return []


def _one_or_named(value: Any) -> str:
    """A single exam has `data`; a mapping of names to exams has not."""
    return "@one" if not isinstance(value, Mapping) or "data" in value or not _all_mappings(value) else "@named"


def _all_mappings(value: Mapping[str, Any]) -> bool:
    return bool(value) and all(isinstance(item, (Mapping, Config)) for item in value.values())


Steps = Annotated[
    Annotated[StepsExam, Tag("@one")] | Annotated[dict[Name, StepsExam], Tag("@named")], Discriminator(_one_or_named)
]
BestOf = Annotated[
    Annotated[BestOfExam, Tag("@one")] | Annotated[dict[Name, BestOfExam], Tag("@named")], Discriminator(_one_or_named)
]
Search = Annotated[
    Annotated[SearchExam, Tag("@one")] | Annotated[dict[Name, SearchExam], Tag("@named")], Discriminator(_one_or_named)
]


class PRMEvalStage(Stage):
    """Examines a process reward model (docs/prm_eval.md); its figures stand in `compare` and in studies.

    Attributes:
        model: a trained process reward model; may be left out where all rows hold scores.
        steps, best_of, search: one exam each, or several by name; a name is a suite of the results.
        benchmarks: published ones.
        segment: how solutions without steps get them.
        max_length: tokens of prompt and solution that are read; None reads all.
    """

    kind: Literal["prm_eval"] = "prm_eval"
    model: ModelSource | None = None
    steps: Steps | None = None
    best_of: BestOf | None = None
    search: Search | None = None
    benchmarks: BenchmarksExam | None = None
    segment: SegmentConfig = Field(default_factory=SegmentConfig)
    max_length: Count | None = None
    tokens_per_microbatch: Annotated[Count, OPERATIONAL] = 16384
    rollout: RolloutConfig = Field(default_factory=RolloutConfig)

    hints: ClassVar[Mapping[str, str]] = {
        "type": "kind",
        "prm": "model",
        "best_of_n": "best_of",
        "bon": "best_of",
        "guided_search": "search",
        "suites": "benchmarks",
        "processbench": "benchmarks",
        "data": "steps",
    }

    def exams(self) -> dict[str, StepsExam | BestOfExam | SearchExam]:
        """All exams by the name of their suite, in the order of running."""
        found: dict[str, StepsExam | BestOfExam | SearchExam] = {}
        for name in ("steps", "best_of", "search"):
            exam = getattr(self, name)
            if exam is not None:
                found |= exam if isinstance(exam, dict) else {name: exam}
        return found

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        names = ("steps", "best_of", "search", "benchmarks")
        if all(name in given and given[name] is None for name in names):
            return [Issue("", "examines nothing", "add steps, best_of, search or benchmarks")]
        seen: dict[str, str] = {}
        issues = []
        for kind in names[:3]:
            exam = given.get(kind)
            own = exam if isinstance(exam, Mapping) and _one_or_named(exam) == "@named" else {kind: exam}
            for name, one in own.items() if exam is not None else ():
                scores = one.get("scores") if isinstance(one, Mapping) else getattr(one, "scores", None)
                if scores is None and given.get("model", "") is None:
                    issues.append(Issue("model", f"is missing, and {name} asks it", "add model: ${stage:NAME}"))
                if name in seen:
                    text = f"{name!r} is the name of an exam under {seen[name]} already"
                    issues.append(Issue(kind, text, "name it otherwise: names are suites of the results"))
                seen[name] = kind
        if given.get("benchmarks") is not None and given.get("model", "") is None:
            issues.append(Issue("model", "is missing, and benchmarks ask it", "add model: ${stage:NAME}"))
        rollout = given.get("rollout", {})
        there = rollout if isinstance(rollout, Mapping) else {key: getattr(rollout, key) for key in TRAINING_OPTIONS}
        issues += [
            Issue(f"rollout.{key}", f"is {there[key]}, which means something in training only", "remove it")
            for key in TRAINING_OPTIONS
            if there.get(key) not in (None, False)
        ]
        return issues
