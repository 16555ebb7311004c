"""What a solution of the compound chains shows, from its text alone: procedures kept on, lines of other problems."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasonrl.data_tools.worlds.compound_chain import LENGTH, Chain, read_prompt

MEANINGS: Mapping[str, str] = {
    "right": "problems with the right answer on their line",
    "well_formed": "solutions in which every line can be read, with a line of three operations and a check a problem",
    "perseveration": "share with the other procedure: the problem before has the other letter, less: it has the same",
    "intrusion": "lines of computation with operands of another problem of the prompt and not of the due one",
    "extra_switches": "changes of the problem worked on beyond those that k problems need, a solution",
    "wrong_facts": "lines of computation whose result is wrong",
    "characters": "characters of a solution, a problem",
}
"""What `measure` gives; shares, but for the last ones."""
_LINE = re.compile(r"(?:[A-Z]:)?(\d)([-+*])(\d)=(\d)")
_CHECK = re.compile(rf"(?:[A-Z]:)?(\d{{{LENGTH}}})")
_HEADING = re.compile(r"\[(.*)\]")
_ANSWER = re.compile(r"^(\d)=(\d)$", re.MULTILINE)
Line = tuple[int, str, int, int]


@dataclass(frozen=True)
class Worked:
    """What a solution says of one problem.

    Attributes:
        chain: the due problem.
        lines: (left, operator, right, result) of its lines of computation.
        check: whether a check stands behind them.
    """

    chain: Chain
    lines: tuple[Line, ...]
    check: bool

    @property
    def procedure(self) -> str | None:
        """The procedure of its first line; None where it fits both or neither."""
        if not self.lines:
            return None
        fits = [name for name in "LR" if self.lines[0][:3] == self.chain.steps(name)[0][:3]]
        return fits[0] if len(fits) == 1 else None


def belongs(line: Line, chain: Chain) -> bool:
    """Whether a line works on an operation of a problem: one of its operators with the digit that stands beside it."""
    left, operator, right, _ = line
    pairs = zip(chain.operators, chain.digits, chain.digits[1:], strict=False)
    return any(operator == its and (left == before or right == after) for its, before, after in pairs)


def read_solution(problem: str, text: str, modulus: int = 10) -> tuple[list[Worked], bool]:
    """What is worked for each problem, in the order of the prompt; and whether all lines could be read."""
    chains = read_prompt(problem, modulus)
    body = text.partition("<p>")[2].partition("</p>")[0]
    stretches: list[tuple[list[Line], list[str]]] = [([], [])]
    sound = True
    for row in body.strip("\n").split("\n"):
        if _HEADING.fullmatch(row):
            if stretches[-1][0] or stretches[-1][1]:
                stretches.append(([], []))
        elif found := _LINE.fullmatch(row):
            if stretches[-1][1]:
                stretches.append(([], []))
            stretches[-1][0].append((int(found[1]), found[2], int(found[3]), int(found[4])))
        elif found := _CHECK.fullmatch(row):
            stretches[-1][1].append(found[1])
        else:
            sound = False
    worked = [
        Worked(chain, tuple(lines), bool(checks)) for chain, (lines, checks) in zip(chains, stretches, strict=False)
    ]
    whole = len(stretches) == len(chains) and all(len(one.lines) == LENGTH and one.check for one in worked)
    return worked, sound and whole


def measure(rows: Iterable[Mapping[str, Any]], modulus: int = 10) -> dict[str, float]:
    """The figures of `MEANINGS` of rows with `problem` and `text` (or `solution`); those that there are cases of.

    `modulus` is that of the rows' world.
    """
    hits: Counter[str] = Counter()
    tries: Counter[str] = Counter()

    def add(name: str, hit: float, of: float = 1) -> None:
        hits[name] += hit  # type: ignore[assignment]
        tries[name] += of  # type: ignore[assignment]

    for row in rows:
        text = str(row.get("text") or row.get("solution") or "")
        chains = read_prompt(str(row["problem"]), modulus)
        worked, sound = read_solution(str(row["problem"]), text, modulus)
        said = {int(number): int(value) for number, value in _ANSWER.findall(text.partition("<a>")[2])}
        for number, chain in enumerate(chains, start=1):
            add("right", said.get(number) == chain.value)
        add("well_formed", sound)
        add("characters", len(text), len(chains))
        _count_lines(chains, worked, add)
        for before, one in itertools.pairwise(worked):
            if one.procedure is not None:
                same = before.chain.procedure == one.chain.procedure
                add("other_same" if same else "other_other", one.procedure != one.chain.procedure)
    figures = {name: hits[name] / tries[name] for name in MEANINGS if tries[name]}
    if tries["other_same"] and tries["other_other"]:
        apart = hits["other_other"] / tries["other_other"] - hits["other_same"] / tries["other_same"]
        figures["perseveration"] = apart
    return figures


def _count_lines(chains: Sequence[Chain], worked: Sequence[Worked], add: Any) -> None:
    switches, current = 0, 0
    for place, one in enumerate(worked):
        for line in one.lines:
            left, operator, right, result = line
            add(
                "wrong_facts",
                result != {"+": left + right, "-": left - right, "*": left * right}[operator] % one.chain.modulus,
            )
            others = [other for other, chain in enumerate(chains) if other != place and belongs(line, chain)]
            own = belongs(line, one.chain)
            add("intrusion", bool(others) and not own)
            now = place if own or not others else others[0]
            switches += now != current
            current = now
    add("extra_switches", max(0, switches - (len(chains) - 1)))


__all__ = ["MEANINGS", "Worked", "belongs", "measure", "read_solution"]
