"""Verdicts in a judge's reply, read strictly: one form, its code, nothing that says otherwise; else `Unreadable`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from reasonrl.rewards.judges.texts import visible

_MARKS = r"[^\w\n]"
"""Colons, spaces, and the asterisks of Markdown."""


class Unreadable(Exception):
    """A reply without a verdict; the text says what was wanted, for the judge to read too."""


def read_word(reply: str, words: Sequence[str], code: str, code_needed: bool) -> str:
    """The word of a final `VERDICT <code>: <word>` line, or of a JSON object `{"code": …, "verdict": …}`.

    Args:
        reply: what the judge wrote; its think block is passed over.
        words: the words there are.
        code: must stand in the verdict.
        code_needed: False takes a verdict without a code too, if it is the reply's last line or object.

    Raises:
        Unreadable: no verdict, several that differ, or none with its code.
    """
    text = visible(reply)
    choice = "|".join(re.escape(word) for word in words)
    line = rf"^{_MARKS}*VERDICT{_MARKS}+{code}{_MARKS}+({choice}){_MARKS}*$"
    coded = re.findall(line, text, re.MULTILINE | re.IGNORECASE)
    coded += [str(found["verdict"]) for found in _objects(text, code, True) if "verdict" in found]
    found = {word.upper() for word in coded}
    if not found and not code_needed:
        lines = text.rstrip().splitlines()
        bare = (
            re.fullmatch(rf"{_MARKS}*VERDICT{_MARKS}+({choice}){_MARKS}*", lines[-1], re.IGNORECASE) if lines else None
        )
        last = list(_objects(text, code, False))[-1:]
        found = {bare[1].upper()} if bare else {str(one["verdict"]).upper() for one in last if "verdict" in one}
    if len(found) != 1 or not found <= {word.upper() for word in words}:
        several = "several verdicts that differ" if len(found) > 1 else "no verdict"
        raise Unreadable(f"there is {several}; end with one line: VERDICT {code}: {' or '.join(words)}")
    return found.pop()


def read_object(reply: str, keys: Sequence[str], code: str, code_needed: bool) -> dict[str, Any]:
    """The JSON object with the code and all the keys; several such must be equal.

    Arguments and errors are those of `read_word`.
    """
    text = visible(reply)
    for with_code in (True, False):
        if not with_code and code_needed:
            break
        complete = [found for found in _objects(text, code, with_code) if all(key in found for key in keys)]
        if not with_code:
            complete = complete[-1:]
        if complete and all(one == complete[0] for one in complete):
            return complete[0]
        if complete:
            raise Unreadable("there are several verdicts that differ; end with one JSON object")
    raise Unreadable(f'there is no JSON object with "code": "{code}" and {", ".join(keys)}; end with it')


def read_number(value: Any, low: float, high: float, what: str) -> float:
    """A number of a JSON object.

    Raises:
        Unreadable: it is none, or not in [low, high].
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise Unreadable(f"{what} is no number")
    if not low <= value <= high:
        raise Unreadable(f"{what} is {value:g}, not in {low:g} to {high:g}")
    return float(value)


def read_names(value: Any, allowed: Collection[str], what: str) -> frozenset[str]:
    """A list of names of a JSON object.

    Raises:
        Unreadable: it is no list, or holds another name.
    """
    if not isinstance(value, list) or any(name not in allowed for name in value):
        raise Unreadable(f"{what} is no list of some of {', '.join(allowed) or 'nothing'}")
    return frozenset(value)


def _objects(text: str, code: str, with_code: bool) -> Iterator[dict[str, Any]]:
    """The JSON objects of a text from left to right, those inside others not; with this code, or without any."""
    decoder = json.JSONDecoder(strict=False)  # models break lines inside texts, which leaves no doubt what is meant
    place = text.find("{")
    while place >= 0:
        try:
            found, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = place + 1
        else:
            if isinstance(found, dict) and (found.get("code") == code if with_code else "code" not in found):
                yield found
        place = text.find("{", end)
