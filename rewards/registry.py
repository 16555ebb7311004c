"""From what a recipe says under `reward:` to a function: built-in names, installed plugins, the user's own files, and
weighted lists of them.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from reasonrl.errors import RewardError
from reasonrl.plugins import entry_point_names, is_file_reference, load_entry_point, load_from_file, near
from reasonrl.rewards.functions import FormatReward, LengthReward, MathReward

REWARDS_GROUP = "reasonrl.rewards"
"""Entry-point group of installed rewards: reward functions, or classes of them."""

BUILT_IN: dict[str, Callable[..., RewardFunction]] = {
    "math": MathReward,
    "format": FormatReward,
    "length": LengthReward,
}
"""Our own rewards by name."""


class RewardFunction(Protocol):
    """A reward, called the TRL way."""

    __name__: str

    def __call__(self, prompts: Any = None, completions: Any = (), **columns: Any) -> list[float | None]:
        """One number a completion, None for "no reward: leave this sample out"."""
        ...


def available_rewards() -> tuple[str, ...]:
    """The names that `get_reward` knows here: ours and those of installed plugins."""
    return tuple(sorted({*BUILT_IN, *entry_point_names(REWARDS_GROUP)}))


def get_reward(
    spec: str | Mapping[str, Any] | Sequence[Any] | Callable[..., Any], base_dir: str | Path | None = None
) -> RewardFunction:
    """The reward function that a recipe names.

    Args:
        spec: a name (`math`), `file.py:function`, a mapping `{name, weight, args}`, a list of these (their weighted
            sum), or a function. A class is called with `args`; a function gets them as keywords.
        base_dir: where a relative `file.py` starts; the working directory if None.

    Returns:
        A picklable function with a `__name__`.

    Raises:
        RewardError: an unknown name, a file that cannot be loaded, arguments that do not fit.
    """
    if isinstance(spec, Mapping):
        return WeightedSum([_item(spec, base_dir)]) if _weight(spec) != 1.0 else _item(spec, base_dir)[0]
    if isinstance(spec, str):
        return _named(spec, {}, base_dir)
    if isinstance(spec, Sequence):
        if not spec:
            raise RewardError("reward is an empty list -> name at least one reward")
        items = [_item(one if isinstance(one, Mapping) else {"name": one}, base_dir) for one in spec]
        return items[0][0] if len(items) == 1 and items[0][1] == 1.0 else WeightedSum(items)
    if callable(spec):
        return CustomReward(spec, getattr(spec, "__name__", type(spec).__name__), {})
    raise RewardError(
        f"reward {spec!r} is a {type(spec).__name__} -> give a name, file.py:function, {{name, weight, args}}, or a"
        " list of them"
    )


class WeightedSum:
    """The sum of several rewards times their weights; None as soon as one of them is None, so that an unscorable sample
    stays unscored.

    Each part goes to `log_extra` as `reward_<name>` and its mean over the scored ones to `log_metric` as
    `reward/<name>`.
    """

    def __init__(self, items: Sequence[tuple[RewardFunction, float]]) -> None:
        self.items = list(items)
        self.__name__ = "+".join(f"{weight:g}*{part.__name__}" for part, weight in self.items)

    def __call__(self, prompts: Any = None, completions: Any = (), **columns: Any) -> list[float | None]:
        """One weighted sum a completion."""
        columns_of_parts = []
        for part, weight in self.items:
            scores = part(prompts=prompts, completions=completions, **columns)
            self._log(part.__name__, scores, columns)
            columns_of_parts.append([None if score is None else weight * score for score in scores])
        return [None if None in scores else sum(scores) for scores in zip(*columns_of_parts, strict=True)]

    @staticmethod
    def _log(name: str, scores: list[float | None], columns: Mapping[str, Any]) -> None:
        if columns.get("log_extra") is not None:
            columns["log_extra"](f"reward_{name}", scores)
        scored = [score for score in scores if score is not None]
        if columns.get("log_metric") is not None and scored:
            columns["log_metric"](f"reward/{name}", sum(scored) / len(scored))


class CustomReward:
    """A user's reward function: only the arguments that it names are passed, and what it returns is checked.

    It pickles by where it came from (`file.py:function`), so that a worker process can load it again.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        args: Mapping[str, Any],
        source: tuple[str, str, Mapping[str, Any]] | None = None,
    ) -> None:
        if inspect.iscoroutinefunction(function):
            raise RewardError(f"reward {name!r} is an async function -> write it as a plain function")
        self.__name__ = name
        self.args = dict(args)
        self.source = source
        self.function = function
        parameters = inspect.signature(function).parameters.values()
        self.takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
        self.takes = frozenset(
            p.name
            for p in parameters
            if p.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        )
        unknown = sorted(set(self.args) - self.takes)
        if unknown and not self.takes_all:
            raise RewardError(
                f"reward {name!r} does not take the argument {unknown[0]!r}{near(unknown[0], self.takes)}"
            )

    def __call__(self, prompts: Any = None, completions: Any = (), **columns: Any) -> list[float | None]:
        """The function's scores, as floats.

        Raises:
            RewardError: it did not return one finite number or None a completion. What the function itself raises goes
                through.
        """
        given = {"prompts": prompts, "completions": completions, **columns, **self.args}
        scores = self.function(**{key: value for key, value in given.items() if self.takes_all or key in self.takes})
        return _checked(scores, len(completions), self.__name__)

    def __reduce__(self) -> Any:
        if self.source is None:
            return CustomReward, (self.function, self.__name__, self.args)
        return _from_file, self.source


def _checked(scores: Any, expected: int, name: str) -> list[float | None]:
    try:
        listed = list(scores)
    except TypeError:
        raise RewardError(
            f"reward {name!r} returned {scores!r:.100} -> return a list with one number or None a completion"
        ) from None
    if len(listed) != expected:
        raise RewardError(
            f"reward {name!r} returned {len(listed)} scores for {expected} completions -> return one a completion"
        )
    checked: list[float | None] = []
    for place, score in enumerate(listed):
        try:
            value = None if score is None else float(score)
        except (TypeError, ValueError):
            raise RewardError(
                f"reward {name!r} returned {score!r:.100} for completion {place} -> return a number, or None"
            ) from None
        if value is not None and not math.isfinite(value):
            raise RewardError(
                f"reward {name!r} returned {value} for completion {place} -> return a finite number, or None to leave"
                " it out"
            )
        checked.append(value)
    return checked


def _item(spec: Mapping[str, Any], base_dir: str | Path | None) -> tuple[RewardFunction, float]:
    unknown = sorted(set(spec) - {"name", "weight", "args"})
    if unknown or "name" not in spec:
        raise RewardError(
            f"reward {dict(spec)!r}: the keys are name, weight and"
            f" args{near(unknown[0], ('name', 'weight', 'args')) if unknown else ''}"
        )
    name, args = spec["name"], dict(spec["args"] or {}) if "args" in spec else {}
    if callable(name):
        return CustomReward(name, getattr(name, "__name__", type(name).__name__), args), _weight(spec)
    if not isinstance(name, str):
        raise RewardError(f"reward name {name!r} is a {type(name).__name__}, where text was expected")
    return _named(name, args, base_dir), _weight(spec)


def _weight(spec: Mapping[str, Any]) -> float:
    weight = {"weight": 1.0, **spec}["weight"]
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
        raise RewardError(f"reward {dict(spec)!r}: weight {weight!r} is no finite number")
    return float(weight)


def _named(name: str, args: Mapping[str, Any], base_dir: str | Path | None) -> RewardFunction:
    if name in BUILT_IN:
        return _built(BUILT_IN[name], name, args)
    if is_file_reference(name):
        return _from_file(name, str(Path(base_dir or ".").resolve()), args)
    plugin = load_entry_point(name, REWARDS_GROUP, error=RewardError)
    if plugin is None:
        raise RewardError(f"reward {name!r} is unknown{near(name, available_rewards())}, or file.py:function")
    return _built(plugin, name, args) if inspect.isclass(plugin) else CustomReward(plugin, name, args)


def _from_file(spec: str, base_dir: str, args: Mapping[str, Any]) -> RewardFunction:
    found = load_from_file(spec, base_dir, error=RewardError)
    if not callable(found):
        raise RewardError(f"reward {spec!r} is a {type(found).__name__}, which cannot be called")
    name = spec.rpartition(":")[2]
    if inspect.isclass(found):
        return CustomReward(_built(found, spec, args), name, {}, (spec, base_dir, args))
    return CustomReward(found, name, args, (spec, base_dir, args))


def _built(factory: Callable[..., Any], name: str, args: Mapping[str, Any]) -> RewardFunction:
    try:
        inspect.signature(factory).bind(**args)
    except TypeError as problem:
        allowed = ", ".join(inspect.signature(factory).parameters) or "none"
        raise RewardError(
            f"reward {name!r}: args {dict(args)} do not fit: {problem}; its arguments: {allowed}"
        ) from None
    built: RewardFunction = factory(**args)
    return built
