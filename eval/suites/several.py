"""Suites that ask several problems in a prompt: how they are sampled, their rows, which rewards can judge them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reasonrl.data_tools.loading import Rows
from reasonrl.errors import DataError, Problem
from reasonrl.eval.suites.entry import SuiteEntry

ONE_ANSWER = ("math", "choice", "exact", "boxes", "points")
"""Built-in rewards that compare a whole response with one gold."""


def compound_sampling(k: int) -> dict[str, Any]:
    """How prompts of k problems are sampled unless told otherwise; the paper's own settings are not known to us.

    Open-Reasoner-Zero's practice, with room for k answers up to the released model's context.
    """
    return {
        "n": 16,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": min(32768, 8192 * k),
        "k": (1,),
        "settings_from": "Open-Reasoner-Zero (T, top-p, 16 samples); room for k answers is ours",
    }


def prompts_of(name: str, entry: SuiteEntry, rows: Rows) -> Rows:
    """The rows in the entry's compound prompts; they themselves where it has none. The report goes on counting
    problems.

    Raises:
        DataError: there are fewer rows than problems in a prompt, or one does not fit.
    """
    from reasonrl.data_tools.compound import compound_rows

    asked = entry.compound
    if asked is None:
        return rows
    if asked.k > len(rows):
        beyond = rows.report.beyond_limit
        left = f"limit leaves {len(rows)} of {len(rows) + beyond}" if beyond else f"there are {len(rows)}"
        fix = f"raise limit to {asked.k} or more, or ask fewer" if beyond else "ask fewer"
        raise DataError(f"suite {name!r}: k = {asked.k} problems in a prompt, but {left} -> {fix}")
    made = compound_rows(
        rows, asked.k, seed=asked.seed, rotations=asked.rotations, framed=asked.in_frame, kind=entry.answer
    )
    return Rows(made, rows.report)


def reward_problem(name: str, entry: SuiteEntry, reward: Any) -> Problem | None:
    """What is wrong with a compound suite's reward: it, or a part of it, compares the whole response with one gold,
    where a row's `answer` is a list of them; None where nothing is.

    Args:
        name: the suite's.
        entry: the suite.
        reward: a reward as a recipe writes it.
    """
    one = None if entry.compound is None else _of_one_answer(reward)
    if one is None or entry.compound is None:
        return None
    return Problem(
        f"suites.{name}.reward",
        f"is {one!r}, which compares a response with one gold, and the suite's prompts have a list of"
        f" {entry.compound.k}; allowed: compound, or what reads the column `items`",
        fix="remove reward: the suite's own is compound with its kind of answers",
    )


def _of_one_answer(reward: Any) -> str | None:
    """The name of a reward of `ONE_ANSWER`, alone or as a part, that reads the column `answer`."""
    if isinstance(reward, (list, tuple)):
        return next(filter(None, map(_of_one_answer, reward)), None)
    name, args = (reward.get("name"), reward.get("args")) if isinstance(reward, Mapping) else (reward, None)
    args = args if isinstance(args, Mapping) else {}
    if name in ONE_ANSWER:
        return str(name) if args.get("gold") in (None, "answer") else None
    if name == "cosine":
        return _of_one_answer(args.get("reward", "math"))
    if name == "gate":
        return _of_one_answer(args.get("parts"))
    if name == "route" and isinstance(args.get("rewards"), Mapping):
        return _of_one_answer(list(args["rewards"].values()))
    return None
