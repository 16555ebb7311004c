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
    """A reward, called the TRL way.

    With `token_level` it gives a list of rewards a completion, one a response token (the stop token included), instead
    of a number.
    """

    __name__: str
    token_level: bool

    def __call__(self, prompts: Any = None, completions: Any = (), **columns: Any) -> list[Any]:
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
        A picklable function with a `__name__`; `token_level` tells whether it rewards tokens.

    Raises:
        RewardError: an unknown name, a file that cannot be loaded, arguments that do not fit, a list that mixes rewards
            of whole responses with rewards of tokens (`get_rewards` takes it).
    """
    found = get_rewards(spec, base_dir)
    if len(found) > 1:
        names = ", ".join(reward.__name__ for reward in found)
        raise RewardError(
            f"reward: {names}: rewards of whole responses and of tokens (token_level = True) cannot be one number here"
            " -> name either the ones or the others"
        )
    return found[0]


def get_rewards(
    spec: str | Mapping[str, Any] | Sequence[Any] | Callable[..., Any], base_dir: str | Path | None = None
) -> list[RewardFunction]:
    """What a recipe names under `reward:`, for a trainer that takes both kinds: at most one function that rewards whole
    responses, then at most one that rewards tokens (a function with `token_level = True`).

    Arguments and errors are those of `get_reward`.
    """
    if isinstance(spec, Mapping):
        return _summed([_item(spec, base_dir)])
    if isinstance(spec, str):
        return [_named(spec, {}, base_dir)]
    if isinstance(spec, Sequence):
        if not spec:
            raise RewardError("reward is an empty list -> name at least one reward")
        items = [_item(one if isinstance(one, Mapping) else {"name": one}, base_dir) for one in spec]
        return _summed([item for item in items if not item[0].token_level]) + _summed(
            [item for item in items if item[0].token_level]
        )
    if callable(spec):
        return [CustomReward(spec, getattr(spec, "__name__", type(spec).__name__), {})]
    raise RewardError(
        f"reward {spec!r} is a {type(spec).__name__} -> give a name, file.py:function, {{name, weight, args}}, or a"
        " list of them"
    )


def _summed(items: list[tuple[RewardFunction, float]]) -> list[RewardFunction]:
    """The items' weighted sum; one of weight 1 stays as it is, and of none there is none."""
    if len(items) == 1 and items[0][1] == 1.0:
        return [items[0][0]]
    return [WeightedSum(items)] if items else []


class WeightedSum:
    """The sum of several rewards times their weights; None as soon as one of them is None, so that an unscorable sample
    stays unscored. The parts are all of whole responses, or all of tokens.

    Each part goes to `log_extra` as `reward_<name>` and its mean over the scored ones to `log_metric` as
    `reward/<name>`.
    """

    def __init__(self, items: Sequence[tuple[RewardFunction, float]]) -> None:
        self.items = list(items)
        self.token_level = all(part.token_level for part, _ in self.items)
        self.__name__ = "+".join(f"{weight:g}*{part.__name__}" for part, weight in self.items)

    def __call__(self, prompts: Any = None, completions: Any = (), **columns: Any) -> list[Any]:
        """One weighted sum a completion; for rewards of tokens one a token."""
        if self.token_level:
            return self._token_sums([part(prompts, completions, **columns) for part, _ in self.items])
        columns_of_parts = []
        for part, weight in self.items:
            scores = part(prompts=prompts, completions=completions, **columns)
            self._log(part.__name__, scores, columns)
            columns_of_parts.append([None if score is None else weight * score for score in scores])
        return [None if None in scores else sum(scores) for scores in zip(*columns_of_parts, strict=True)]

    def _token_sums(self, parts: list[list[list[float] | None]]) -> list[list[float] | None]:
        weights = [weight for _, weight in self.items]
        return [
            None
            if None in of_completion
            else [
                sum(weight * score for weight, score in zip(weights, scores, strict=True))
                for scores in zip(*(tokens for tokens in of_completion if tokens is not None), strict=True)
            ]
            for of_completion in zip(*parts, strict=True)
        ]

    @staticmethod
    def _log(name: str, scores: list[float | None], columns: Mapping[str, Any]) -> None:
        if columns.get("log_extra") is not None:
            columns["log_extra"](f"reward_{name}", scores)
        scored = [score for score in scores if score is not None]
        if columns.get("log_metric") is not None and scored:
            columns["log_metric"](f"reward/{name}", sum(scored) / len(scored))


class CustomReward:
    """A user's reward function: only the arguments that it names are passed, and what it returns is checked.

    A function (or an object) with the attribute `token_level = True` gives a list of rewards a completion, one a token.

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
        self.token_level = bool(getattr(function, "token_level", False))
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

    def __call__(self, prompts: Any = None, completions: Any = (), **columns: Any) -> list[Any]:
        """The function's scores, as floats.

        Raises:
            RewardError: it did not return one finite number or None a completion (with `token_level`: as many finite
                numbers as the completion has tokens, or None). What the function itself raises goes through.
        """
        given = {"prompts": prompts, "completions": completions, **columns, **self.args}
        scores = self.function(**{key: value for key, value in given.items() if self.takes_all or key in self.takes})
        if self.token_level:
            return _checked_tokens(scores, given.get("completion_ids"), len(completions), self.__name__)
        return _checked(scores, len(completions), self.__name__)

    def __reduce__(self) -> Any:
        if self.source is None:
            return CustomReward, (self.function, self.__name__, self.args)
        return _from_file, self.source


def _checked(scores: Any, expected: int, name: str) -> list[float | None]:
    checked: list[float | None] = []
    for place, score in enumerate(_listed(scores, expected, name, "number")):
        value = None if score is None else _number(score, f"reward {name!r} returned {{}} for completion {place}")
        checked.append(value)
    return checked


def _checked_tokens(scores: Any, ids: Any, expected: int, name: str) -> list[list[float] | None]:
    """The lists of a token-level reward; `ids` are the completions' token ids, None if the caller gave none."""
    checked: list[list[float] | None] = []
    for place, of_tokens in enumerate(_listed(scores, expected, name, "list of numbers")):
        if of_tokens is None:
            checked.append(None)
            continue
        try:
            values = list(of_tokens)
        except TypeError:
            raise RewardError(
                f"reward {name!r} returned {of_tokens!r:.100} for completion {place} -> it is token_level: return"
                " a list with one number a token of the completion, or None"
            ) from None
        if ids is not None and len(values) != len(ids[place]):
            raise RewardError(
                f"reward {name!r} returned {len(values)} numbers for completion {place} of {len(ids[place])} tokens"
                " -> return one a token of completion_ids, the stop token included"
            )
        where = f"reward {name!r} returned {{}} for token {{}} of completion {place}"
        checked.append([_number(value, where.format("{}", token)) for token, value in enumerate(values)])
    return checked


def _listed(scores: Any, expected: int, name: str, what: str) -> list[Any]:
    try:
        listed = list(scores)
    except TypeError:
        raise RewardError(
            f"reward {name!r} returned {scores!r:.100} -> return a list with one {what} or None a completion"
        ) from None
    if len(listed) != expected:
        raise RewardError(
            f"reward {name!r} returned {len(listed)} scores for {expected} completions -> return one a completion"
        )
    return listed


def _number(score: Any, message: str) -> float:
    try:
        value = float(score)
    except (TypeError, ValueError):
        raise RewardError(f"{message.format(f'{score!r:.100}')} -> return a number, or None") from None
    if not math.isfinite(value):
        raise RewardError(f"{message.format(value)} -> return a finite number, or None to leave the completion out")
    return value


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
    if inspect.isclass(plugin):
        return CustomReward(_built(plugin, name, args), name, {})
    return CustomReward(plugin, name, args)


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
