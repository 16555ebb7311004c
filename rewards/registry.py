"""From what a recipe says under `reward:` to a function: built-in names, installed plugins, the user's own files, and
weighted lists of them.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from reasonrl.errors import RewardError
from reasonrl.plugins import entry_point_names, is_file_reference, load_entry_point, near
from reasonrl.rewards.combining import WeightedSum
from reasonrl.rewards.custom import CustomReward, built, from_file

REWARDS_GROUP = "reasonrl.rewards"
"""Entry-point group of installed rewards: reward functions, or classes of them."""

BUILT_IN: dict[str, str] = {
    "math": "reasonrl.rewards.functions:MathReward",
    "choice": "reasonrl.rewards.choice:ChoiceReward",
    "exact": "reasonrl.rewards.exact:ExactReward",
    "format": "reasonrl.rewards.format:FormatReward",
    "length": "reasonrl.rewards.length:LengthReward",
    "overlong": "reasonrl.rewards.length:LengthReward",
    "length_band": "reasonrl.rewards.length:LengthBandReward",
    "repetition": "reasonrl.rewards.repetition:RepetitionReward",
    "cosine": "reasonrl.rewards.cosine:CosineReward",
    "code": "reasonrl.rewards.code:CodeReward",
    "boxes": "reasonrl.rewards.spatial:BoxesReward",
    "points": "reasonrl.rewards.spatial:PointsReward",
    "stop": "reasonrl.rewards.stop:StopReward",
    "compound": "reasonrl.rewards.compound:CompoundReward",
    "play": "reasonrl.rewards.play:PlayReward",
    "gate": "reasonrl.rewards.gates:GateReward",
    "route": "reasonrl.rewards.routing:RouteReward",
    "llm_verifier": "reasonrl.rewards.judges:LLMVerifierReward",
    "pairwise": "reasonrl.rewards.judges:PairwiseReward",
    "checklist": "reasonrl.rewards.judges:ChecklistReward",
}
"""Our own rewards: name -> `module:class`, imported when the name is used."""

GIVEN = frozenset({"base_dir"})
"""Arguments of our classes that the registry fills in and a recipe does not."""


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
        return _built_in(name, args, base_dir)
    if is_file_reference(name):
        return from_file(name, str(Path(base_dir or ".").resolve()), args)
    plugin = load_entry_point(name, REWARDS_GROUP, error=RewardError)
    if plugin is None:
        raise RewardError(f"reward {name!r} is unknown{near(name, available_rewards())}, or file.py:function")
    if inspect.isclass(plugin):
        return CustomReward(built(plugin, name, args), name, {})
    return CustomReward(plugin, name, args)


def built_in_class(name: str) -> Callable[..., RewardFunction]:
    """The class behind a name of `BUILT_IN`."""
    module, _, attribute = BUILT_IN[name].partition(":")
    found: Callable[..., RewardFunction] = getattr(importlib.import_module(module), attribute)
    return found


def _built_in(name: str, args: Mapping[str, Any], base_dir: str | Path | None) -> RewardFunction:
    factory = built_in_class(name)
    parameters = inspect.signature(factory).parameters
    refused = GIVEN & set(args)
    if refused:
        raise RewardError(
            f"reward {name!r} has no argument {min(refused)!r}{near(min(refused), set(parameters) - GIVEN)}"
        )
    given = {"base_dir": base_dir} if "base_dir" in parameters else {}
    try:
        reward: RewardFunction = built(factory, name, args, given)
    except RewardError:
        raise
    except (TypeError, ValueError) as problem:  # a value of the wrong type, found by the class as it is used
        raise RewardError(f"reward {name!r}: args {dict(args)} do not fit: {problem}") from problem
    return reward
