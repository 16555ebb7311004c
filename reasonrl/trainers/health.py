"""Alarms: what a step's figures look like when a run is dead or about to be, each with a name.

An alarm is a 1 in the metrics (`alarm/<name>`), a line in the log when it begins, and, where the recipe asks for it,
the end of the run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reasonrl.errors import StageFailed
from reasonrl.recipe.sampling_rules import ALARMS

FILE = "health.json"
RATIO_LOW = 0.5
TRUNCATION_HIGH = 0.2
ACCEPTANCE_LOW = 0.5
EQUAL_STEPS = 3
LOSSES = ("policy_loss", "value_loss", "grad_norm", "critic_grad_norm")
SKIPPED = ("skipped_updates", "skipped_critic_updates")
ACCEPTED = ("sampling/kept_token_fraction", "sampling/kept_response_fraction")
_KEPT = ("frac_reward_zero_std", "reward_std")


@dataclass(frozen=True)
class Alarm:
    """One alarm of a step.

    Attributes:
        name: one of `ALARMS`.
        seen: what was seen, with the numbers and the limit.
        advice: what to try.
    """

    name: str
    seen: str
    advice: str

    def __str__(self) -> str:
        return f"alarm {self.name}: {self.seen} -> {self.advice}"


def alarms(metrics: Mapping[str, Any], history: Sequence[Mapping[str, Any]] = ()) -> list[Alarm]:
    """The alarms of one step.

    Args:
        metrics: the step's line; a figure that is not there raises no alarm.
        history: the lines of the steps before, or what `remembered` keeps of them; the latest stands last.
    """
    rules = (_not_finite, _ratio, _no_gradient, _truncation, _acceptance)
    found = [alarm for rule in rules if (alarm := rule(metrics)) is not None]
    if (equal := _equal_groups([*history, metrics])) is not None:
        found.append(equal)
    return found


def remembered(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What later steps need of this one."""
    return {name: float(metrics[name]) for name in _KEPT if name in metrics}


def _number(metrics: Mapping[str, Any], name: str) -> float | None:
    value = metrics.get(name)
    return float(value) if isinstance(value, int | float) else None


def _not_finite(metrics: Mapping[str, Any]) -> Alarm | None:
    wrong = {
        name: value for name in LOSSES if (value := _number(metrics, name)) is not None and not math.isfinite(value)
    }
    skipped = {name: value for name in SKIPPED if (value := _number(metrics, name))}
    if not wrong and not skipped:
        return None
    figures = ", ".join(f"{name} = {value:g}" for name, value in {**wrong, **skipped}.items())
    return Alarm(
        "not_finite",
        f"a loss or gradient is no finite number ({figures}); gradients that are not were thrown away, and weights"
        " and optimizer stayed as they were",
        "lower learning_rate or critic_learning_rate, look for huge rewards, or train in another precision (bf16)",
    )


def _ratio(metrics: Mapping[str, Any]) -> Alarm | None:
    ratio = _number(metrics, "ratio_mean")
    if ratio is None or not ratio < RATIO_LOW:
        return None
    return Alarm(
        "ratio",
        f"the mean of pi / pi_old in the last mini-batch is {ratio:.3g}, below {RATIO_LOW}: the policy has left the"
        " samples it is trained on",
        "lower learning_rate, actor_steps or num_iterations, or set max_grad_norm",
    )


def _no_gradient(metrics: Mapping[str, Any]) -> Alarm | None:
    norm, spread = _number(metrics, "grad_norm"), _number(metrics, "advantage_std")
    if norm != 0 or spread is None or not spread > 0:
        return None
    return Alarm(
        "no_gradient",
        f"grad_norm is 0, though samples have advantages (advantage_std = {spread:.3g})",
        "look at masks and bounds that leave out every token (importance corrections, ratio bands, clip_fraction), and"
        " at what is frozen",
    )


def _truncation(metrics: Mapping[str, Any]) -> Alarm | None:
    share = _number(metrics, "completions/truncated_fraction")
    if share is None or not share > TRUNCATION_HIGH:
        return None
    return Alarm(
        "truncation",
        f"{100 * share:.1f} % of the responses were cut at max_completion_length, above {100 * TRUNCATION_HIGH:.0f} %",
        "raise max_completion_length, or train on the cut ones in another way (docs/ppo.md)",
    )


def _acceptance(metrics: Mapping[str, Any]) -> Alarm | None:
    shares = {name: _number(metrics, name) for name in ACCEPTED}
    low = {name: share for name, share in shares.items() if share is not None and share < ACCEPTANCE_LOW}
    if not low:
        return None
    figures = ", ".join(f"{name} = {share:.3g}" for name, share in low.items())
    return Alarm(
        "acceptance",
        f"the ratio bands leave out more than half ({figures}, below {ACCEPTANCE_LOW})",
        "widen token_ratio_band or sequence_ratio_band to what step 1 showed, or look at why engine and trainer differ"
        " (sampling/logprob_difference)",
    )


def _equal_groups(lines: Sequence[Mapping[str, Any]]) -> Alarm | None:
    last = lines[-EQUAL_STEPS:]
    if len(last) < EQUAL_STEPS or not all(map(_all_equal, last)):
        return None
    return Alarm(
        "equal_groups",
        f"for {EQUAL_STEPS} steps all samples of every prompt have earned the same (mean reward"
        f" {lines[-1].get('reward', math.nan):.3g})",
        "look at the completions: prompts too hard or too easy (filter them, hint_column), a reward that cannot be"
        " earned, or a temperature near 0",
    )


def _all_equal(line: Mapping[str, Any]) -> bool:
    share = _number(line, "frac_reward_zero_std")
    return share == 1 if share is not None else _number(line, "reward_std") == 0


def finite_gradient(parameters: Iterable[torch.Tensor]) -> bool:
    """Whether every gradient there is holds finite numbers only; one pass, one answer from the device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    return not gradients or bool(torch.nn.utils.get_total_norm(gradients, norm_type=math.inf).isfinite())


class Health:
    """Watches a run: raises alarms, says them once when they begin, stops the run on those that are named.

    Args:
        stop_on: names of `ALARMS`; `all` among them is all of them.
        on_alarm: called with the text of an alarm when it begins.
    """

    def __init__(self, stop_on: str | Sequence[str], on_alarm: Callable[[str], None] | None = None) -> None:
        self.stops = set(ALARMS if "all" in stop_on else stop_on)
        self._say = on_alarm or (lambda text: None)
        self._history: list[dict[str, float]] = []
        self._on: set[str] = set()
        self.found: list[Alarm] = []

    def look(self, line: dict[str, Any]) -> None:
        """Take in a step's line and write its alarms into it."""
        self.found = alarms(line, self._history)
        self._history = [*self._history, remembered(line)][-(EQUAL_STEPS - 1) :]
        for alarm in self.found:
            line[f"alarm/{alarm.name}"] = 1
            if alarm.name not in self._on:
                self._say(f"step {line['step']}: {alarm}")
        self._on = {alarm.name for alarm in self.found}

    @property
    def ends(self) -> list[Alarm]:
        """The alarms of the last step that stop the run."""
        return [alarm for alarm in self.found if alarm.name in self.stops]

    def refuse(self, step: int) -> None:
        """Raises StageFailed when the last step has an alarm that stops the run."""
        if self.ends:
            raise StageFailed(
                f"step {step}: stopped, as stop_on asks, by {'; '.join(map(str, self.ends))} (the checkpoints are"
                " from before this step; changed settings start the stage over: --restart-stage)"
            )

    def save(self, checkpoint: Path) -> None:
        """Write what later steps need into a checkpoint."""
        state = {"history": self._history, "on": sorted(self._on)}
        (checkpoint / FILE).write_text(json.dumps(state), encoding="utf-8")

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint; one without a record starts anew."""
        file = checkpoint / FILE
        if file.exists():
            state = json.loads(file.read_text(encoding="utf-8"))
            self._history, self._on = list(state["history"]), set(state["on"])
