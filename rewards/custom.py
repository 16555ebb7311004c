"""A user's own reward function, from a file, a plugin or Python: what it takes, and what it returns, is checked."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reasonrl.errors import RewardError
from reasonrl.plugins import load_from_file, near
from reasonrl.rewards.early import begin


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

    def begin(self, prompt: Any, completion: Any, row: Mapping[str, Any]) -> None:
        """Begin the work on one sample, if the function has a method of this name; see `early`."""
        begin(self.function, prompt, completion, row)

    def check_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Ask the function, if it has a method of this name."""
        check = getattr(self.function, "check_rows", None)
        if check is not None:
            check(rows)

    def __reduce__(self) -> Any:
        if self.source is None:
            return CustomReward, (self.function, self.__name__, self.args)
        return from_file, self.source


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


def from_file(spec: str, base_dir: str, args: Mapping[str, Any]) -> CustomReward:
    """The reward `file.py:name`; `base_dir` is where a relative path starts."""
    found = load_from_file(spec, base_dir, error=RewardError)
    if not callable(found):
        raise RewardError(f"reward {spec!r} is a {type(found).__name__}, which cannot be called")
    name = spec.rpartition(":")[2]
    if inspect.isclass(found):
        return CustomReward(built(found, spec, args), name, {}, (spec, base_dir, args))
    return CustomReward(found, name, args, (spec, base_dir, args))


def built(
    factory: Callable[..., Any], name: str, args: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> Any:
    """An object of a class of rewards, made with a recipe's `args` and with what is `given` besides.

    Raises:
        RewardError: the arguments do not fit the class.
    """
    given = given or {}
    try:
        inspect.signature(factory).bind(**args, **given)
    except TypeError as problem:
        names = (name for name in inspect.signature(factory).parameters if name not in given)
        raise RewardError(
            f"reward {name!r}: args {dict(args)} do not fit: {problem}; its arguments: {', '.join(names) or 'none'}"
        ) from None
    return factory(**args, **given)
