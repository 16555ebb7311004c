"""Compound prompts whose truth is known: short chains of digits, several in a prompt, worked as a monologue or a play.

A problem is three operations on digits modulo 10 (or a smaller `modulus`) with a letter for the procedure, `L3+4*2-5`
from left to right or `R3+4*2-5` from right to left; a prompt joins k of them with `;`. A solution works each in three
lines and says the three results once more (the check), then gives one line a problem:

    <p>
    [L3+4*2-5]          a scene restates its problem      (`scenes`)
    A:3+4=7
    A:7*2=4
    A:4-5=9
    B:749               a second voice says the check     (`voices`)
    </p>
    <a>
    1=9
    </a>

Without scenes and voices the same lines stand without headings and names. Mixed letters in a prompt make it measurable
that a procedure is kept on, and lines with another problem's operands that attention jumps (`compound_reader.py`).
Train, validation and test share no problem: the split of a problem is a hash of its text.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from reasonrl.data_tools.compound import blocks, rotated
from reasonrl.data_tools.worlds.arithmetic import (
    OPERATORS,
    SPLITS,
    Fact,
    apply,
    check_asked,
    mistaken_facts,
    split_of,
)
from reasonrl.errors import DataError

PROCEDURES = "LR"
LENGTH = 3
"""Operations of a problem."""
BLANK = "." * (2 * LENGTH + 2)
"""A place of a prompt without a problem, as long as one."""


class Chain(NamedTuple):
    """A problem: its procedure, its digits, its operators between them; modulo what it is worked."""

    procedure: str
    digits: tuple[int, ...]
    operators: tuple[str, ...]
    modulus: int = 10

    @property
    def text(self) -> str:
        """As it is asked."""
        return (
            self.procedure
            + str(self.digits[0])
            + "".join(f"{operator}{digit}" for operator, digit in zip(self.operators, self.digits[1:], strict=True))
        )

    def steps(
        self, procedure: str | None = None, work: Callable[[str, int, int], int] | None = None
    ) -> list[tuple[int, str, int, int]]:
        """(left, operator, right, result) of each operation in order, by its own procedure or another; `work` gives
        results in place of arithmetic.
        """
        work = work or partial(apply, modulus=self.modulus)
        found = []
        if (procedure or self.procedure) == "L":
            value = self.digits[0]
            for operator, digit in zip(self.operators, self.digits[1:], strict=True):
                result = work(operator, value, digit)
                found.append((value, operator, digit, result))
                value = result
            return found
        value = self.digits[-1]
        for operator, digit in zip(reversed(self.operators), reversed(self.digits[:-1]), strict=True):
            result = work(operator, digit, value)
            found.append((digit, operator, value, result))
            value = result
        return found

    @property
    def value(self) -> int:
        """The answer."""
        return self.steps()[-1][3]


def read_chain(text: str, modulus: int = 10) -> Chain:
    """The problem of a text.

    Raises:
        DataError: it is none.
    """
    whole = text[:1] in PROCEDURES and len(text) == 2 * LENGTH + 2 and text[1::2].isdigit()
    if not whole or any(operator not in OPERATORS for operator in text[2::2]):
        raise DataError(f"compound_chain: {text!r} is no problem such as L3+4*2-5")
    return Chain(text[0], tuple(map(int, text[1::2])), tuple(text[2::2]), modulus)


def read_prompt(text: str, modulus: int = 10) -> list[Chain]:
    """The problems of a prompt, blank places left out; raises DataError for anything else."""
    parts = text.strip().split(";")
    while len(parts) > 1 and parts[-1] == BLANK:
        parts.pop()
    return [read_chain(part, modulus) for part in parts]


class CompoundChainWorld:
    """Prompts of several chains with solutions in one of four layouts."""

    def rows(
        self,
        n: int,
        *,
        split: str = "train",
        seed: int = 0,
        k: int | Sequence[int] = 1,
        shares: Sequence[float] | None = None,
        scenes: bool = False,
        voices: bool = False,
        checks: int = 1,
        slip: float = 0.0,
        hard_facts: float = 0.0,
        hard_slip: float = 0.5,
        teacher_seed: int = 0,
        modulus: int = 10,
        places: int = 0,
    ) -> list[dict[str, Any]]:
        """Write `n` prompts.

        Args:
            n: rows. In `validation` and `test` they are of n problems in blocks of k in all k orders, so that n must be
                a multiple of k, and rows of different k are about the same problems; in `train` each prompt has
                problems of its own.
            split: `train`, `validation` or `test`; they share no problem.
            seed: of problems, blocks and slips.
            k: problems in a prompt; in `train` also several, to draw from.
            shares: how often each k is drawn; None: equally.
            scenes: solutions restate each problem as a heading.
            voices: solutions are said by two voices.
            checks: how often the results are said once more.
            slip: probability that a line of a solution has a wrong result; its check has the right ones, and the
                chain goes on from these.
            hard_facts: share of the facts (operator, left, right) that solutions mistake, 0 to 1.
            hard_slip: probability that such a fact is written with its wrong value, which check and answer follow.
            teacher_seed: of which facts those are.
            modulus: of all values, 3 to 10; digits are below it, so that a smaller one has fewer facts (of 10: 297; of
                7: 144; of 5: 72).
            places: problems that a prompt has room for; those it lacks are blank, so that the way from a line of the
                solution to its problem does not depend on k. 0: as many as it has.

        Returns:
            Rows with `id`, `problem`, `answer` (JSON list), `items` (as `reasonrl.rewards.compound` reads them), `k`,
            `solution`, and in `validation` and `test` `group` (the block) and `rotation`.

        Raises:
            DataError: an argument is out of range.
        """
        sizes = [k] if isinstance(k, int) else list(k)
        _check(n, split, sizes, checks, slip, modulus, places)
        teacher = _teacher(modulus, hard_facts, hard_slip, teacher_seed)
        draw = random.Random(f"compound_chain/{split}/{seed}")
        layout = _Layout(places, {"scenes": scenes, "voices": voices, "checks": checks})
        if split == "train":
            made = []
            for number in range(n):
                chains = [_draw(draw, split, modulus) for _ in range(draw.choices(sizes, weights=shares)[0])]
                made.append(_row(chains, f"compound_chain/train/{seed}/{number}", slip, layout, teacher))
            return made
        if len(sizes) > 1 or n % sizes[0]:
            raise DataError(f"compound_chain: {split} of n = {n} rows needs one k that divides n, and k = {k!r}")
        return _blocked(draw, n, split, seed, sizes[0], slip, layout, modulus, teacher)


def solution_of(
    chains: Sequence[Chain],
    *,
    scenes: bool = False,
    voices: bool = False,
    checks: int = 1,
    slip: float = 0.0,
    draw: random.Random | None = None,
    teacher: Teacher | None = None,
) -> str:
    """A solution in one layout; arguments as in `CompoundChainWorld.rows`."""
    lines, answers = ["<p>"], []
    solver, checker = ("A:", "B:") if voices else ("", "")
    for chain in chains:
        if scenes:
            lines.append(f"[{chain.text}]")
        steps = chain.steps(work=None if teacher is None or draw is None else teacher.work(draw))
        answers.append(steps[-1][3])
        wrong = draw.randrange(LENGTH) if draw is not None and draw.random() < slip * LENGTH else -1
        for place, (left, operator, right, result) in enumerate(steps):
            # The chain goes on from the right value, so that a slip is repaired by the check.
            shown = (
                (result + draw.randrange(1, chain.modulus)) % chain.modulus
                if draw is not None and place == wrong
                else result
            )
            lines.append(f"{solver}{left}{operator}{right}={shown}")
        lines += [checker + "".join(str(step[3]) for step in steps)] * checks
    lines += ["</p>", "<a>", *(f"{number}={answer}" for number, answer in enumerate(answers, start=1)), "</a>"]
    return "\n".join(lines)


class _Layout(NamedTuple):
    """How many problems a prompt has room for, and the arguments of `solution_of`."""

    places: int
    solution: dict[str, Any]


@dataclass(frozen=True)
class Teacher:
    """Who writes solutions: with `slip` it writes a mistaken fact with its wrong value."""

    modulus: int
    mistaken: Mapping[Fact, int]
    slip: float

    def work(self, draw: random.Random) -> Callable[[str, int, int], int]:
        """Results as it writes them."""

        def result(operator: str, left: int, right: int) -> int:
            wrong = self.mistaken.get((operator, left, right))
            if wrong is not None and draw.random() < self.slip:
                return wrong
            return apply(operator, left, right, self.modulus)

        return result


def _teacher(modulus: int, hard_facts: float, hard_slip: float, seed: int) -> Teacher | None:
    for name, share in (("hard_facts", hard_facts), ("hard_slip", hard_slip)):
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise DataError(f"compound_chain: {name} = {share!r}, allowed are 0 to 1")
    if not hard_facts:
        return None  # the slips of a seed are then what they were without such facts
    facts = [(operator, left, right) for operator in OPERATORS for left in range(modulus) for right in range(modulus)]
    draw = random.Random(f"compound_chain/facts/{modulus}/{seed}")
    return Teacher(modulus, mistaken_facts(facts, hard_facts, modulus, draw), hard_slip)


def _check(n: int, split: str, sizes: Sequence[Any], checks: int, slip: float, modulus: int, places: int) -> None:
    check_asked("compound_chain", n, split)
    if not sizes or any(isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= 9 for k in sizes):
        raise DataError(
            f"compound_chain: k = {list(sizes)!r}, allowed are 1 to 9 problems in a prompt, or a list of such"
        )
    if isinstance(checks, bool) or not isinstance(checks, int) or checks < 0:
        raise DataError(f"compound_chain: checks = {checks!r}, allowed are whole numbers from 0 on")
    if isinstance(modulus, bool) or not isinstance(modulus, int) or not 3 <= modulus <= 10:
        raise DataError(f"compound_chain: modulus = {modulus!r}, allowed are 3 to 10")
    if isinstance(places, bool) or not isinstance(places, int) or (places and places < max(sizes)):
        raise DataError(f"compound_chain: places = {places!r}, allowed are 0 and {max(sizes)} (the largest k) or more")
    if not 0 <= slip * LENGTH <= 1:
        raise DataError(f"compound_chain: slip = {slip!r}, allowed are 0 to {1 / LENGTH:.3g}")


def _check_room(n: int, split: str, modulus: int) -> None:
    """Refuse more distinct problems than a split has: drawing them would never end."""
    problems = len(PROCEDURES) * (modulus - 1) ** (LENGTH + 1) * len(OPERATORS) ** LENGTH
    room = problems * len(SPLITS[split]) // 16 * 9 // 10
    if n > room:
        raise DataError(
            f"compound_chain: n = {n} problems of their own, but {split} has about {room} modulo {modulus}"
            " -> ask for fewer, or a larger modulus"
        )


def _draw(draw: random.Random, split: str, modulus: int) -> Chain:
    while True:
        digits = tuple(draw.randrange(1, modulus) for _ in range(LENGTH + 1))
        chain = Chain(draw.choice(PROCEDURES), digits, tuple(draw.choices(OPERATORS, k=LENGTH)), modulus)
        if split_of(chain.text) == split:
            return chain


def _blocked(
    draw: random.Random,
    n: int,
    split: str,
    seed: int,
    k: int,
    slip: float,
    layout: _Layout,
    modulus: int,
    teacher: Teacher | None,
) -> list[dict[str, Any]]:
    chains: dict[str, Chain] = {}
    _check_room(n, split, modulus)
    while len(chains) < n:
        chain = _draw(draw, split, modulus)
        chains.setdefault(chain.text, chain)
    ordered = list(chains.values())
    made = []
    for number, block in enumerate(blocks(n, k, seed)):
        for rotation in range(k):
            asked = [ordered[place] for place, _ in rotated(block, rotation)]
            row = _row(asked, f"compound_chain/{split}/{k}/{number}/{rotation}", slip, layout, teacher)
            made.append({**row, "group": f"block {number}", "rotation": rotation})
    return made


def _row(chains: Sequence[Chain], name: str, slip: float, layout: _Layout, teacher: Teacher | None) -> dict[str, Any]:
    answers = [str(chain.value) for chain in chains]
    items = [{"id": chain.text, "answer": answer} for chain, answer in zip(chains, answers, strict=True)]
    return {
        "id": name,
        "problem": ";".join([*(chain.text for chain in chains), *[BLANK] * (layout.places - len(chains))]),
        "answer": json.dumps(answers),
        "items": json.dumps(items),
        "k": len(chains),
        "solution": solution_of(
            chains, **layout.solution, slip=slip, draw=random.Random(f"{name}/slip"), teacher=teacher
        ),
    }
