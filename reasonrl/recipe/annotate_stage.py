"""The stage kind `annotate`: step labels for solutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from reasonrl.plugins import entry_point_names, is_file_reference
from reasonrl.recipe.fields import Config, Count, Flag, Fraction, Issue, NonNegativeCount, Positive, Text, near
from reasonrl.recipe.references import with_references
from reasonrl.recipe.sources import Data, ModelSource
from reasonrl.recipe.stage_base import Stage

JUDGES: dict[str, frozenset[str]] = {
    "endpoint": frozenset(
        {
            *("endpoint", "votes", "temperature", "max_tokens", "seed", "re_asks", "reply", "longest_reason", "prompt"),
        },
    ),
    "vllm": frozenset(
        {
            *("model", "votes", "temperature", "max_tokens", "seed", "re_asks", "reply", "longest_reason", "prompt"),
            *("at_once", "dtype", "max_model_len", "gpu_memory_utilization", "kv_cache_memory_bytes"),
            *("tensor_parallel_size", "enforce_eager"),
        }
    ),
    "oracle": frozenset({"column", "world"}),
    "noisy": frozenset({"kappa", "precision", "recall", "share", "seed", "votes", "column", "world"}),
    "monte_carlo": frozenset(
        {
            *("world", "model", "completions", "least", "seed", "preset", "shares", "teacher_seed", "operators"),
            *("max_tokens", "temperature", "top_p", "engine", "batch_size", "system_prompt", "template", "verify"),
            "at_once",
        }
    ),
    "prm": frozenset({"model", "threshold", "max_length", "tokens_per_microbatch", "at_once", "dtype"}),
}
"""Our judges of steps and their arguments; a contract test holds them to `reasonrl.prm.judges`."""


class SegmentConfig(Config):
    """How solutions without steps get them.

    Attributes:
        method: `rules`; `sat` (sentences of a SaT model, merged by the same rules); `lines`; `given` refuses rows that
            have none.
        shortest, longest: the band of lengths, in characters.
        reflection: words that open a step; None takes ours.
        model, threshold: of SaT.
        again: segment also what has steps.
    """

    method: Literal["rules", "sat", "lines", "given"] = "rules"
    shortest: NonNegativeCount = 600
    longest: Count = 2400
    reflection: tuple[Text, ...] | None = None
    model: Text | None = None
    threshold: Fraction | None = None
    again: Flag = False
    hints: ClassVar[Mapping[str, str]] = {
        "min_chars": "shortest",
        "max_chars": "longest",
        "markers": "reflection",
        "words": "reflection",
        "type": "method",
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        issues = []
        if {"shortest", "longest"} <= given.keys() and given["shortest"] > given["longest"]:
            text = f"is {given['shortest']}, above longest ({given['longest']})"
            issues.append(Issue("shortest", text, "lower it, or raise longest"))
        for name in ("model", "threshold"):
            if given.get(name) is not None and given.get("method") not in (None, "sat"):
                issues.append(Issue(name, f"belongs to method sat, and method is {given['method']}", "remove it"))
        return issues


class JudgeTerm(Config):
    """One judge of steps: its name, `file.py:name` or an installed plugin's; its weight, where consensus is `weighted`;
    and its arguments.
    """

    name: Text
    weight: Positive = 1.0
    args: Annotated[dict[str, Any], AfterValidator(with_references)] = Field(default_factory=dict)

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        name = given.get("name")
        if not isinstance(name, str) or is_file_reference(name):
            return []
        if name not in JUDGES:
            known = (*JUDGES, *entry_point_names("reasonrl.judges"))
            if name in known:
                return []
            match = near(name, known)
            fix = f"did you mean {match!r}?" if match else f"judges: {', '.join(known)}, or file.py:name"
            return [Issue("name", f"there is no judge {name!r}", fix)]
        issues = []
        for argument in given.get("args") or {}:
            if argument not in JUDGES[name]:
                match = near(argument, JUDGES[name])
                fix = f"did you mean {match!r}?" if match else f"allowed: {', '.join(sorted(JUDGES[name]))}"
                issues.append(Issue(f"args.{argument}", f"is no argument of the judge {name!r}", fix))
        if name in ("prm", "vllm") and not (given.get("args") or {}).get("model"):
            made = "prm" if name == "prm" else "sft"
            issues.append(Issue("args.model", "is missing", f"write model: FOLDER, or model: ${{stage:{made}}}"))
        if name == "endpoint" and not (given.get("args") or {}).get("endpoint"):
            issues.append(Issue("args.endpoint", "is missing", "write endpoint: {base_url: …, model: …}"))
        return issues


RULES = ("all", "any", "majority", "weighted")


def _rule(text: str) -> str:
    if text in RULES or (text.startswith("one:") and text[4:]):
        return text
    match = near(text, RULES)
    fix = f"did you mean {match!r}?" if match else "majority"
    message = f"is {text!r}, allowed are {', '.join(RULES)} or one:NAME"
    raise PydanticCustomError("reasonrl", "{message}", {"message": message, "fix": fix})


class TruthConfig(Config):
    """Where the true labels are, for the table of what is mined: a column of the rows, or a world's own reader."""

    column: Text | None = None
    world: Literal["reflective"] | None = None

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        if {"column", "world"} <= given.keys() and (given["column"] is None) == (given["world"] is None):
            return [Issue("column", "and world: one of them says where the truth is", "give one")]
        return []


class AnnotateStage(Stage):
    """Step labels for solutions by judges.

    Attributes:
        data: solutions: rows with a problem, a solution (`text`, `response` or `solution`) and, where they are known,
            an answer, steps, and `correct`.
        judges: one or more, asked one after the other.
        only: `wrong` asks about wrong answers alone; all others pass through without labels.
        truncated: `leave` lets answers that were cut off (`finish_reason: length`) pass through too.
        invalid: what becomes of answers that a judge gives no usable labels to: `set_aside` into the file of failures,
            or `leave`: they also stay among the rows, each step null (a trainer gives it the weight 1).
        consensus: of several judges: `all`, `any`, `majority`, `weighted` (by the judges' `weight`), or `one:NAME`;
            where they do not agree a step stays unlabelled.
        verify: rules by which a final answer is checked where `correct` is not there; null leaves it to the judges.
        truth: where the true labels are, if anybody knows them: the table of what is mined then says how far each
            judge and the consensus are right.
        tokenizer: counts the tokens of steps in that table; null counts characters.
        shard_size: rows a file.
    """

    kind: Literal["annotate"] = "annotate"
    data: Data
    segment: SegmentConfig = Field(default_factory=SegmentConfig)
    judges: Annotated[tuple[JudgeTerm, ...], Field(min_length=1)]
    only: Literal["all", "wrong"] = "all"
    truncated: Literal["label", "leave"] = "label"
    invalid: Literal["set_aside", "leave"] = "set_aside"
    consensus: Annotated[Text, AfterValidator(_rule)] = "all"
    verify: Literal["strict", "default", "lenient"] | None = "default"
    truth: TruthConfig | None = None
    tokenizer: ModelSource | None = None
    shard_size: Count = 500
    makes: ClassVar[tuple[str, ...]] = ("data",)
    hints: ClassVar[Mapping[str, str]] = {
        "type": "kind",
        "judge": "judges",
        "rule": "consensus",
        "policy": "verify",
        "solutions": "data",
        "segmentation": "segment",
        "oracle": "truth",
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        issues = []
        rule, terms = given.get("consensus"), given.get("judges")
        if isinstance(rule, str) and rule.startswith("one:") and isinstance(terms, (list, tuple)):
            names = [name_on_disk(place, str(_of(term, "name"))) for place, term in enumerate(terms)]
            fitting = [name for name in names if rule[4:] in (name, *name.split(".", 1))]
            if len(fitting) != 1:
                text = f"is {rule!r}, which names {'several judges' if fitting else 'no judge'}"
                issues.append(Issue("consensus", text, f"judges: {', '.join(names)}"))
        if isinstance(terms, (list, tuple)) and rule != "weighted" and any(_of(one, "weight") != 1 for one in terms):
            issues.append(Issue("judges", "have weights, which only a weighted consensus reads", "consensus: weighted"))
        return issues


def name_on_disk(place: int, name: str) -> str:
    """A judge's name in the folder of an annotation: its place keeps two of a kind apart."""
    word = "".join(symbol if symbol.isalnum() or symbol in "-_" else "-" for symbol in name.rpartition(":")[2])
    return f"{place}.{word}"


def _of(term: Any, name: str) -> Any:
    """A field of a judge that may not be validated yet."""
    if isinstance(term, Mapping):
        return term.get(name, 1.0 if name == "weight" else None)
    return getattr(term, name, None)
