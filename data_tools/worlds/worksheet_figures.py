"""Figures of the worksheet world: what a model's solutions are like, and what its law makes of many of them.

measure(rows)           # ({"pass@1": .39, "well_formed": 1.0, "slip": .03, …}, the same of the law)
ceilings(problems=2000) # {"solo": .38, "maj@5": .48, "copy@4": .93, "merge@4": .94, …}
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reasonrl.data_tools.worlds.worksheet import (
    MODULUS,
    PARTS,
    PATTERN,
    ROOM,
    SLIP,
    Sheet,
    answer_of,
    draw_sheet,
    merged,
    message_of,
    read_message,
    read_sheet,
    result,
    write_solution,
)
from reasonrl.errors import DataError

_PART = re.compile(r"([A-D]):([0-6])((?:[+*][0-6]=[0-6])+)\.")
_STEP = re.compile(r"([+*])([0-6])=([0-6])")

MEANINGS: Mapping[str, str] = {
    "pass@1": "right answers of all samples",
    "finished": "solutions that end with the line of values",
    "well_formed": "finished ones whose parts are the problem's, with the marks that their work earns",
    "parts": "parts that are worked, mean of a finished solution",
    "slip": "operations that are worked wrongly",
    "guess": "guessed values that are right",
}
"""What `measure` gives; all are shares but `parts`."""


def measure(rows: Iterable[Mapping[str, Any]]) -> tuple[dict[str, float], dict[str, float]]:
    """Figures of solutions, and the same of as many that the law writes to the same problems.

    Args:
        rows: with `problem` and `text` (or `solution`).

    Raises:
        DataError: there are no rows, or one has no problem of this world.
    """
    pairs = [(read_sheet(str(row.get("problem"))), str(row.get("text", row.get("solution")))) for row in rows]
    if not pairs:
        raise DataError("worksheet figures: there are no rows -> sample some")
    draw = random.Random("worksheet/figures")
    return _figures(pairs), _figures([(sheet, write_solution(sheet, draw)) for sheet, _ in pairs])


def _figures(pairs: Sequence[tuple[Sheet, str]]) -> dict[str, float]:
    hits: Counter[str] = Counter()
    tries: Counter[str] = Counter()

    def count(name: str, hit: float, of: int = 1) -> None:
        hits[name] += hit  # type: ignore[assignment]
        tries[name] += of

    for sheet, text in pairs:
        gold, message = sheet.values(), message_of(text)
        found = re.search(PATTERN, text)
        count("pass@1", found is not None and "".join(found.groups()) == answer_of(gold))
        count("finished", bool(message))
        if not message:
            continue
        values, worked = read_message(message), _worked(sheet, text)
        marks = {name for name, (_, mark) in values.items() if mark}
        agrees = worked is not None and all(values[name][0] == worked[name][0] for name in worked)
        count("well_formed", worked is not None and agrees and marks == set(worked))
        count("parts", len(marks))
        for _, slips, operations in (worked or {}).values():
            count("slip", slips, operations)
        for name in set(PARTS) - marks:
            count("guess", values[name][0] == gold[name])
    return {name: hits[name] / tries[name] for name in MEANINGS if tries[name]}


def _worked(sheet: Sheet, text: str) -> dict[str, tuple[int, int, int]] | None:
    """(value, slips, operations) of the parts that a solution works; None where its work is not the problem's."""
    body = text.rpartition("#")[0]
    parts = _PART.findall(body)
    written = "".join(f"{name}:{start}{steps}." for name, start, steps in parts)
    if written != body or len({name for name, _, _ in parts}) < len(parts):
        return None
    found = {}
    for name, start, steps in parts:
        value, operations = sheet.chains[PARTS.index(name)]
        lines = [(sign, int(number), int(shown)) for sign, number, shown in _STEP.findall(steps)]
        if int(start) != value or [(sign, number) for sign, number, _ in lines] != list(operations):
            return None
        slips = 0
        for sign, number, shown in lines:
            slips += shown != result(value, (sign, number))
            value = shown
        found[name] = (value, slips, len(operations))
    return found


def ceilings(
    problems: int = 2000,
    *,
    sizes: Sequence[int] = (2, 4, 8),
    votes: Sequence[int] = (5, 9, 11),
    slip: float = SLIP,
    seed: int = 0,
) -> dict[str, float]:
    """What solutions of the law are worth, by simulation without any network.

    Figures: `fits` (problems that one answer has room for), `solo`, `maj@k` (most frequent answers, ties shared),
    `all_wrong@k`; of k messages: `copy@k` (worked values by vote, a guess where there is none), `copy_emergent@k`
    (the same where all messages are wrong), `own@k` (the same, own work on parts in random order put over it),
    `merge@k` (own work where no message has any), `erased@k` (a vote over worked and guessed values alike).

    Args:
        problems: how many.
        sizes: numbers of messages.
        votes: sizes of votes.
        slip: share of wrong operations.
        seed: of the simulation.
    """
    draw = random.Random(f"worksheet/ceilings/{seed}")
    hits: dict[str, float] = defaultdict(float)
    for _ in range(problems):
        sheet = draw_sheet(draw)
        gold = answer_of(sheet.values())
        most = max((*sizes, *votes))
        messages = [message_of(write_solution(sheet, draw, slip=slip)) for _ in range(most)]
        answers = [answer_of({name: value for name, (value, _) in read_message(one).items()}) for one in messages]
        hits["fits"] += sum(map(sheet.cost, PARTS)) <= ROOM - 10
        hits["solo"] += answers[0] == gold
        for k in votes:
            hits[f"maj@{k}"] += _majority(answers[:k], gold)
        for k in sizes:
            wrong = gold not in answers[:k]
            hits[f"all_wrong@{k}"] += wrong
            for name, answer in _merges(sheet, messages[:k], draw, slip).items():
                hits[f"{name}@{k}"] += answer == gold
                if name == "copy" and wrong:
                    hits[f"copy_emergent@{k}"] += answer == gold
    found = {name: hit / problems for name, hit in hits.items()}
    for k in sizes:
        found[f"copy_emergent@{k}"] /= max(found[f"all_wrong@{k}"], 1 / problems)
    return found


def _majority(answers: Sequence[str], gold: str) -> float:
    counts = Counter(answers)
    tied = [answer for answer, count in counts.items() if count == max(counts.values())]
    return (gold in tied) / len(tied)


def _merges(sheet: Sheet, messages: Sequence[str], draw: random.Random, slip: float) -> dict[str, str]:
    """Answers by ways of merging."""
    voted, blind = merged(messages), merged(messages, marks=False)
    guessed = {name: draw.randrange(MODULUS) if value is None else value for name, value in voted.items()}
    missing = [name for name, value in voted.items() if value is None]
    mine = read_message(message_of(write_solution(sheet, draw, slip=slip)))
    over = {name: mine[name][0] if mine[name][1] else guessed[name] for name in PARTS}
    rest = read_message(message_of(write_solution(sheet, draw, slip=slip, order=missing)))
    filled = {name: rest[name][0] if name in missing else guessed[name] for name in PARTS}
    return {
        "copy": answer_of(guessed),
        "own": answer_of(over),
        "merge": answer_of(filled),
        "erased": answer_of({name: value if value is not None else 0 for name, value in blind.items()}),
    }
