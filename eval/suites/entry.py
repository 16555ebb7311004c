"""One evaluation suite: where its rows are, how they are asked and judged, and how it is sampled by default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from reasonrl.recipe.fields import Config, Count, Flag, Issue, NonNegative, NonNegativeCount, PositiveFraction, Text
from reasonrl.recipe.sources import COLUMNS, RewardSpec

UNVERIFIED = "unverified"
"""Stands where a file could not be had: nothing is compared with it."""

ANSWERS = ("math", "choice", "mixed", "yes_no", "code", "judge")
HEADLINES: dict[str, tuple[str, ...]] = {
    "accuracy": (),
    "worst_case": ("worst_case",),
    "pairs": ("pairs",),
    "we_math": ("we_math_strict", "we_math_loose"),
}
"""What a suite's `metric` may be, with the figures (`recipe.metric_names`) that it asks for besides accuracy."""
METRICS = tuple(HEADLINES)
SAMPLING = ("n", "temperature", "top_p", "max_tokens", "k", "greedy")
"""The keys of an entry that say how it is sampled; the recipe's names."""

_BOX = r"Reason step by step, and put the final answer in \boxed{}."
_LETTER = r"Reason step by step, and put the letter of the right option in \boxed{}."
INSTRUCTIONS: dict[str, str] = {
    "math": _BOX,
    "choice": _LETTER,
    "yes_no": r"Reason step by step, and put yes or no in \boxed{}.",
    "code": "Write a Python program that solves the problem, and put it in one fenced block of code.",
    "judge": "",
}
"""What is asked behind the problem, by the type of the answer; `mixed` rows take `choice` where they have options."""


KIND = "answer_kind"
"""The column of a `mixed` suite's rows that says how each is judged: `choice` or `math`."""


def _judged(name: str, policy: str) -> Any:
    return name if policy == "default" else {"name": name, "args": {"policy": policy}}


def _names(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[tuple[Text, ...], BeforeValidator(_names), Field(min_length=1)]


class SuiteSource(Config):
    """Where the rows are: a local file, a data set of the hub, or both; the local file is taken if it is there.

    Attributes:
        path: relative to the data root, or to the YAML file that names it.
        format: as in a recipe's data source.
        hub, name, split, revision: as in a recipe's data source.
        names: configurations of the hub's data set that make the suite together.
    """

    path: Text | None = None
    format: Text | None = None
    hub: Text | None = None
    name: Text | None = None
    names: tuple[Text, ...] | None = None
    split: Text | None = None
    revision: Text | None = None
    hints: ClassVar[Mapping[str, str]] = {
        "file": "path",
        "dataset": "hub",
        "repo": "hub",
        "config": "name",
        "subset": "name",
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        if {"path", "hub"} <= given.keys() and given["path"] is None and given["hub"] is None:
            return [Issue("", "has neither path nor hub", "add path: FILE")]
        return [
            Issue(key, f"belongs to a hub source, and there is no hub (it is {given[key]!r})", f"remove {key}")
            for key in ("name", "names", "revision")
            if given.get(key) is not None and "hub" in given and given["hub"] is None
        ]


class CompoundFrame(Config):
    """Several problems of a suite in one prompt (`reasonrl.data_tools.compound`).

    Attributes:
        k: problems in a prompt.
        framed: put even one problem into the frame; null: from k = 2 on.
        rotations: cyclic orders of each block; null: all k.
        seed: of the blocks.
    """

    k: Count
    framed: Flag | None = None
    rotations: Count | None = None
    seed: NonNegativeCount = 0
    hints: ClassVar[Mapping[str, str]] = {"size": "k", "frame": "framed", "orders": "rotations"}

    @property
    def in_frame(self) -> bool:
        """Whether its prompts are worded by the frame."""
        return self.k > 1 if self.framed is None else self.framed

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        k, rotations = given.get("k"), given.get("rotations")
        issues = []
        if isinstance(k, int) and isinstance(rotations, int) and rotations > k:
            issues.append(Issue("rotations", f"is {rotations}, and a block of {k} has {k} orders", f"set {k}"))
        if isinstance(k, int) and k > 1 and given.get("framed") is False:
            issues.append(Issue("framed", f"is false, and {k} problems need a frame", "remove it"))
        return issues


class SuiteEntry(Config):
    """One suite.

    Attributes:
        about: what it is, in a line.
        source: where the rows are.
        columns: our column -> theirs (problem, answer, solution, prompt, id, images).
        question: what is asked in every row, where the pictures hold the questions.
        images: columns that hold pictures, in order, where there are several.
        options: the column with a question's options, or one column an option.
        gold: how the answer names its option: by `letter`, by `index` (from 0), by its `text`, or it is the `first`.
        gold_values: the data's word for an answer -> the answer.
        shuffle_options: options in an order drawn from the problem's text (GPQA keeps the right one first).
        options_listed: the problem's text lists the options already.
        only: column -> value, or list of values, that a row has to have.
        since, until: column -> first and last date (ISO, both inclusive).
        text_only: rows without pictures.
        group: column whose rows are variants or parts of one question.
        labels: `level` and `subject` -> the columns that hold them.
        answer: type of the answer; it chooses the reward and the instruction.
        policy: what counts as the same answer (docs/verifier.md).
        reward: instead of the type's own.
        metric: the headline: `accuracy`, `worst_case` (a question counts by its worst variant), `pairs` (both of a
            pair), `we_math` (strict and loose).
        system_prompt: first message.
        template: the user's message; None puts the type's instruction behind the problem.
        n, temperature, top_p, max_tokens, k, greedy: default sampling.
        settings_from: the paper or card that the sampling is from.
        used_by: papers whose tables have this suite.
        rows: rows expected after `only`, `since`, `until` and `text_only`; None: not checked.
        rows_from: where the number is from; None with a verified `content`.
        content: SHA-256 of the rows (`rows.content_of`), or `unverified`.
        notes: what differs from the official evaluation.
        compound: ask several of its problems in one prompt.
    """

    about: Text
    source: SuiteSource
    columns: dict[Literal[COLUMNS], Text] = Field(default_factory=dict)  # type: ignore[valid-type]
    question: Text | None = None
    images: Names | None = None
    options: Names | None = None
    gold: Literal["letter", "index", "text", "first"] = "letter"
    gold_values: dict[str, Text] = Field(default_factory=dict)
    shuffle_options: Flag = False
    options_listed: Flag = False
    only: dict[str, Any] = Field(default_factory=dict)
    since: dict[str, Text] = Field(default_factory=dict)
    until: dict[str, Text] = Field(default_factory=dict)
    text_only: Flag = False
    group: Text | None = None
    labels: dict[Literal["level", "subject"], Text] = Field(default_factory=dict)
    answer: Literal[ANSWERS] = "math"  # type: ignore[valid-type]
    policy: Literal["strict", "default", "lenient"] = "default"
    reward: RewardSpec | None = None
    metric: Literal[METRICS] = "accuracy"  # type: ignore[valid-type]
    system_prompt: str | None = None
    template: Text | None = None
    n: Count = 1
    temperature: NonNegative = 1.0
    top_p: PositiveFraction = 1.0
    max_tokens: Count = 32768
    k: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    greedy: Flag = False
    settings_from: Text = "the entry"
    used_by: tuple[Text, ...] = ()
    rows: Count | None = None
    rows_from: Text | None = None
    content: Annotated[Text, Field(pattern=r"^([0-9a-f]{64}|unverified)$")] = UNVERIFIED
    notes: Text | None = None
    compound: CompoundFrame | None = None

    hints: ClassVar[Mapping[str, str]] = {
        "data": "source",
        "path": "source",
        "hub": "source",
        "description": "about",
        "num_samples": "n",
        "max_new_tokens": "max_tokens",
        "prompt": "template",
        "sha256": "content",
        "hash": "content",
        "choices": "options",
        "type": "answer",
    }

    @classmethod
    def prepare(cls, raw: dict[str, Any]) -> dict[str, Any]:
        # A short form: `source: my.jsonl` is a file.
        if isinstance(raw.get("source"), str):
            raw["source"] = {"path": raw["source"]}
        return raw

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        issues = []
        n, options = given.get("n", 1), given.get("options")
        if "n" in given and max(given.get("k", (1,))) > n:
            most = max(given["k"])
            issues.append(Issue("k", f"asks for pass@{most} from n = {n} samples a problem", f"raise n to {most}"))
        if given.get("temperature") == 0 and n > 1:
            issues.append(Issue("n", f"is {n} at temperature 0, where all samples are the same", "set n: 1"))
        if given.get("metric") not in (None, "accuracy") and "group" in given and given["group"] is None:
            issues.append(Issue("group", f"is needed by metric: {given['metric']}", "name the column of the groups"))
        if given.get("answer") == "choice" and "options" in given and not (options or given.get("options_listed")):
            fix = "name the column, or set options_listed: true if the problem lists them"
            issues.append(Issue("options", "is needed by answer: choice", fix))
        if given.get("compound") is not None and given.get("answer", "math") not in ("math", "choice"):
            text = f"is given, and answers of type {given['answer']} have no numbered lines"
            issues.append(Issue("compound", text, "remove it, or set answer: math or choice"))
        return issues

    @property
    def verified(self) -> bool:
        """Whether the file was had, so that its content is known."""
        return self.content != UNVERIFIED

    @property
    def pictured(self) -> bool:
        """Whether its rows have pictures."""
        return not self.text_only and (self.images is not None or "images" in self.columns)

    def reward_spec(self) -> Any:
        """What judges its samples, as a recipe writes it; None where a judge model has to be named."""
        if self.reward is not None:
            return self.reward
        if self.answer == "judge":
            return None
        if self.answer == "code":
            return "code"
        if self.answer == "mixed":
            by_kind = {kind: _judged(kind, self.policy) for kind in ("choice", "math")}
            return {"name": "route", "args": {"rewards": by_kind, "column": KIND}}
        if self.compound is not None:
            args: dict[str, Any] = {"kind": self.answer} | ({} if self.compound.in_frame else {"framed": False})
            return {"name": "compound", "args": args | ({} if self.policy == "default" else {"policy": self.policy})}
        return _judged("choice" if self.answer == "choice" else "math", self.policy)

    def user_template(self) -> str | None:
        """The template of the user's message; None: the bare problem."""
        if self.compound is not None and self.compound.in_frame:
            return None
        if self.template is not None:
            return self.template
        if self.answer == "mixed":
            return "{problem}\n\n{instruction}"
        instruction = INSTRUCTIONS[self.answer]
        return "{problem}\n\n" + instruction if instruction else None
