"""Rules for a PPO stage that draws prompts anew, gives hints, or stops on alarms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator

from reasonrl.recipe.fields import Issue, Text

AlarmName = Literal["ratio", "no_gradient", "equal_groups", "not_finite", "truncation", "acceptance"]
ALARMS: tuple[str, ...] = get_args(AlarmName)
AlarmNames = Annotated[tuple[Text, ...], BeforeValidator(lambda names: (names,) if isinstance(names, str) else names)]

DEFAULT_ROUNDS = 10
DEFAULT_HINT_TEMPLATE = "{prompt}\n\nHint: {hint}"

SAMPLING_HINTS: dict[str, str] = {
    "filter_groups": "dynamic_sampling",
    "max_num_gen_batches": "dynamic_sampling_max_rounds",
    "hints": "hint_column",
    "hint": "hint_column",
    "alarms": "stop_on",
}


def sampling_problems(given: Mapping[str, Any]) -> list[Issue]:
    """What is wrong between dynamic sampling, hints, alarms and the rest of a PPO stage's raw values."""
    return [*_refills(given), *_hints(given), *_overlap(given), *_stops(given)]


def _refills(given: Mapping[str, Any]) -> Iterator[Issue]:
    on = given.get("dynamic_sampling")
    rounds = given.get("dynamic_sampling_max_rounds", DEFAULT_ROUNDS)
    samples = given.get("num_generations")
    if on and isinstance(samples, int) and samples < 2:
        message = f"is {samples}, but dynamic_sampling compares the samples of one prompt and needs at least 2"
        yield Issue("num_generations", message, "raise num_generations, or dynamic_sampling: false")
    if not on and rounds != DEFAULT_ROUNDS:
        message = f"is {rounds}, but dynamic_sampling is off"
        yield Issue("dynamic_sampling_max_rounds", message, "remove it, or set dynamic_sampling: true")
    if isinstance(rounds, int) and rounds < 0:
        yield Issue("dynamic_sampling_max_rounds", f"is {rounds}; allowed: 0 and above", "use 10")


def _hints(given: Mapping[str, Any]) -> Iterator[Issue]:
    column, template = given.get("hint_column"), given.get("hint_template", DEFAULT_HINT_TEMPLATE)
    fraction = given.get("hint_fraction", 1.0)
    if column is None:
        for key, value, idle in (("hint_fraction", fraction, 1.0), ("hint_template", template, DEFAULT_HINT_TEMPLATE)):
            if value != idle:
                yield Issue(key, f"is {value!r}, but there is no hint_column", "add hint_column, or remove it")
        return
    for part in ("{prompt}", "{hint}"):
        if isinstance(template, str) and part not in template:
            yield Issue("hint_template", f"is {template!r}, which does not hold {part}", f"put {part} into it")
    if isinstance(fraction, (int, float)) and not 0 < fraction <= 1:
        yield Issue("hint_fraction", f"is {fraction}; allowed: above 0, up to 1", "use 0.5")


def _overlap(given: Mapping[str, Any]) -> Iterator[Issue]:
    for key, why in (
        ("max_staleness", "whose samples are being drawn while the step before trains"),
        ("train_while_generating", "which trains on samples before their group is whole or known to count"),
    ):
        for option in ("dynamic_sampling", "hint_column"):
            if given.get(key) and given.get(option):
                message = (
                    f"is {given[option]!r}, which draws more samples once the scores of a step are known, and cannot be"
                    f" had with {key}: {given[key]}, {why}"
                )
                yield Issue(option, message, f"use one of both: remove {option} or {key}")


def _stops(given: Mapping[str, Any]) -> Iterator[Issue]:
    names = given.get("stop_on") or ()
    named = [names] if isinstance(names, str) else names
    if isinstance(named, Sequence) and (unknown := [name for name in named if name not in (*ALARMS, "all")]):
        message = f"is {unknown[0]!r}, which is no alarm; allowed: all, or a list of {', '.join(ALARMS)}"
        yield Issue("stop_on", message, "name the alarms that stop the run")
