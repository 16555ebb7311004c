"""The stage kind `gate`: conditions that must hold before a comparison says anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from reasonrl.plugins import is_file_reference
from reasonrl.recipe.fields import Flag, Issue, NonNegative, Number, Text, near
from reasonrl.recipe.references import Reference
from reasonrl.recipe.sources import Data
from reasonrl.recipe.stage_base import Stage

MEASURES: dict[str, frozenset[str]] = {
    "compound_chain": frozenset({"modulus"}),
    "grid": frozenset({"misread", "needless", "recompute", "halves", "backward", "modulus"}),
    "reflective": frozenset(
        {"preset", "teacher_seed", "operators", "hard_facts", "slip", "easy_slip", "repair", "false_repair", "recheck"}
    ),
    "worksheet": frozenset(),
}
"""What measures rows, by name, and its arguments; a contract test holds them to `reasonrl.data_tools.worlds`."""

Bound = Annotated[tuple[Number | None, Number | None], Field()]


class GateStage(Stage):
    """Looks at figures and says whether they lie where they must; a failed gate means "not tested" (docs/gates.md).

    Attributes:
        data: rows, which `figures` measures.
        results: a stage whose own figures are looked at instead.
        figures: name of a measure (`MEASURES`), or `file.py:name` of a function of rows.
        args: of the measure.
        bounds: [lowest, highest] by figure; null leaves an end open.
        within: how far a figure may lie from the one that the measure expects.
        stop: end the run where the gate fails; otherwise the failure is said, and stands in tables and report.
    """

    kind: Literal["gate"] = "gate"
    data: Data | None = None
    results: Reference | None = None
    figures: Text | None = None
    args: dict[str, Any] = Field(default_factory=dict)
    bounds: dict[str, Bound] = Field(default_factory=dict)
    within: dict[str, NonNegative] = Field(default_factory=dict)
    stop: Flag = False
    makes: ClassVar[tuple[str, ...]] = ("data",)
    hints: ClassVar[Mapping[str, str]] = {
        "type": "kind",
        "measure": "figures",
        "world": "figures",
        "limits": "bounds",
        "tolerance": "within",
        "stage": "results",
    }

    @classmethod
    def cross_checks(cls, given: Mapping[str, Any]) -> list[Issue]:
        issues = [*_inputs(given), *_measure(given)]
        if {"bounds", "within"} <= given.keys() and not given["bounds"] and not given["within"]:
            issues.append(Issue("bounds", "is empty, so nothing is looked at", "write {FIGURE: [lowest, highest]}"))
        for name, bound in (given.get("bounds") or {}).items():
            ends = list(bound) if isinstance(bound, (list, tuple)) else []
            if len(ends) == 2 and None not in ends and ends[0] > ends[1]:
                issues.append(Issue(f"bounds.{name}", f"is {ends}, lowest above highest", "swap them"))
        if given.get("within") and given.get("results") is not None:
            text = "needs what a measure expects, and results has no measure"
            issues.append(Issue("within", text, "use bounds"))
        return issues


def _inputs(given: Mapping[str, Any]) -> list[Issue]:
    if not {"data", "results"} <= given.keys():
        return []
    there = [name for name in ("data", "results") if given[name] is not None]
    if len(there) == 1:
        return []
    what = "both data and results are" if there else "neither data nor results is"
    return [Issue("data", f"{what} given", "give one: data: ${stage:NAME} with figures:, or results: ${stage:NAME}")]


def _measure(given: Mapping[str, Any]) -> list[Issue]:
    if "figures" not in given:
        return []
    name = given["figures"]
    if given.get("data") is not None and name is None:
        return [Issue("figures", "is missing: data needs a measure", f"one of {', '.join(MEASURES)}, or file.py:name")]
    if given.get("results") is not None and name is not None:
        return [Issue("figures", "measures rows, and results has figures already", "remove it, or give data")]
    if not isinstance(name, str) or is_file_reference(name):
        return []
    if name not in MEASURES:
        match = near(name, MEASURES)
        fix = f"did you mean {match!r}?" if match else f"measures: {', '.join(MEASURES)}, or file.py:name"
        return [Issue("figures", f"there is no measure {name!r}", fix)]
    unknown = [argument for argument in given.get("args") or {} if argument not in MEASURES[name]]
    allowed = ", ".join(sorted(MEASURES[name]))
    return [
        Issue(f"args.{argument}", f"is no argument of the measure {name!r}", f"allowed: {allowed}")
        for argument in unknown
    ]
