"""The worksheet that does not fit: four chains of arithmetic, and room to work about two thirds of them in one answer.

A problem has parts A to D, chains of one to three operations modulo 7; the answer is their four values:

    A3+4*5 B2*6 C1+1+5*2 D4*4                 answer 0502

A solution works parts in any order while there is room, and ends with a line that marks each value as worked (capital
letter) or guessed (small letter); compaction keeps that line, so that a message is eight characters:

    D:4*4=2.A:3+4=0*5=0.B:2*6=5.#A0B5c3D2     message A0B5c3D2

An answer may have `room` characters, its end included; one that is longer is cut off by whoever draws it, and is wrong.
No training lifts that cap on a single answer, while several answers together know everything: what voting cannot use
and synthesis can (docs/pacore_training.md). Train, validation and test are disjoint by a hash of the problem.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasonrl.data_tools.worlds.arithmetic import check_asked, split_of
from reasonrl.errors import DataError

PARTS = "ABCD"
MODULUS = 7
ROOM = 54
"""Characters of an answer, its end included: about seven operations."""
LINE = 10
"""Characters of the last line, with the sign before it and the end after it."""
LONGEST = 3
"""Operations of a part, at most."""
SLIP = 0.03
"""Share of operations that are worked wrongly."""
PATTERN = r"#[Aa](\d)[Bb](\d)[Cc](\d)[Dd](\d)\Z"
"""What finds the four values of a solution."""
SYNTHESIS = "{{ problem }}{% for message in messages %}{{ '\n' + message }}{% endfor %}"
"""The synthesis prompt: the messages below the problem, one a line."""

_LINE = re.compile(r"#((?:[Aa]\d)(?:[Bb]\d)(?:[Cc]\d)(?:[Dd]\d))\Z")

_PAIR = re.compile(r"([+*])([0-6])")

Operation = tuple[str, int]
Values = Mapping[str, "tuple[int, bool]"]
"""By part: a value, and whether it was worked."""


@dataclass(frozen=True)
class Sheet:
    """One problem: by part, the first number and the operations."""

    chains: tuple[tuple[int, tuple[Operation, ...]], ...]

    @property
    def text(self) -> str:
        """As it is asked."""
        return " ".join(
            f"{name}{start}{''.join(f'{sign}{number}' for sign, number in operations)}"
            for name, (start, operations) in zip(PARTS, self.chains, strict=True)
        )

    @property
    def operations(self) -> int:
        """Of all parts."""
        return sum(len(operations) for _, operations in self.chains)

    def values(self) -> dict[str, int]:
        """The right ones."""
        found = {}
        for name, (value, operations) in zip(PARTS, self.chains, strict=True):
            for operation in operations:
                value = result(value, operation)
            found[name] = value
        return found

    def cost(self, name: str) -> int:
        """Characters that working a part takes."""
        return 4 + 4 * len(self.chains[PARTS.index(name)][1])


def result(value: int, operation: Operation) -> int:
    """One operation, modulo 7."""
    sign, number = operation
    return (value + number if sign == "+" else value * number) % MODULUS


def draw_sheet(draw: random.Random, longest: int = LONGEST) -> Sheet:
    """A random problem: parts of one to three operations (to `longest`), four to twelve in all."""
    chains = []
    for _ in PARTS:
        operations = tuple((draw.choice("+*"), draw.randrange(1, MODULUS)) for _ in range(draw.randint(1, longest)))
        chains.append((draw.randrange(MODULUS), operations))
    return Sheet(tuple(chains))


def read_sheet(text: str) -> Sheet:
    """The problem that a text says.

    Raises:
        DataError: it says none.
    """
    parts = text.split(" ")
    found = [re.fullmatch(rf"{name}([0-6])((?:[+*][0-6])+)", part) for name, part in zip(PARTS, parts, strict=False)]
    if len(found) != len(PARTS) or len(parts) != len(PARTS) or None in found:
        raise DataError(f"worksheet: {text!r} is no problem of this world")
    pairs = [(int(match[1]), match[2]) for match in found if match is not None]
    return Sheet(
        tuple((start, tuple((sign, int(number)) for sign, number in _PAIR.findall(ops))) for start, ops in pairs)
    )


def message_of(text: str) -> str:
    """What compaction keeps of a solution: its last line without the sign; nothing where there is none."""
    found = _LINE.search(text)
    return found[1] if found else ""


def read_message(message: str) -> dict[str, tuple[int, bool]]:
    """By part: the value, and whether it was worked."""
    return {
        letter.upper(): (int(value), letter.isupper())
        for letter, value in zip(message[::2], message[1::2], strict=False)
        if letter.upper() in PARTS and value.isdecimal()
    }


def write_message(values: Values) -> str:
    """The message of some values, the opposite of `read_message`."""
    return "".join(f"{name if values[name][1] else name.lower()}{values[name][0]}" for name in PARTS)


def write_solution(
    sheet: Sheet,
    draw: random.Random,
    *,
    slip: float = SLIP,
    room: int = ROOM,
    messages: Sequence[str] = (),
    copies: float = 0.0,
    order: Sequence[str] | None = None,
) -> str:
    """A solution by the world's law: parts in a random order as long as they fit, guesses for the others.

    Args:
        sheet: the problem.
        draw: of order, slips and guesses.
        slip: chance that an operation is worked wrongly; the chain goes on from its result.
        room: characters of the answer, its end included.
        messages: of others, which are looked at for guesses alone.
        copies: chance that a guess is what one message, drawn at random, says of the part.
        order: in which parts are worked; None draws one, and only those named are worked.
    """
    left, lines, values = room - LINE, [], {}
    for name in draw.sample(PARTS, len(PARTS)) if order is None else order:
        if sheet.cost(name) > left:
            continue
        left -= sheet.cost(name)
        value, operations = sheet.chains[PARTS.index(name)]
        line = f"{name}:{value}"
        for operation in operations:
            value = result(value, operation)
            if draw.random() < slip:
                value = (value + draw.randrange(1, MODULUS)) % MODULUS
            line += f"{operation[0]}{operation[1]}={value}"
        lines.append(f"{line}.")
        values[name] = (value, True)
    for name in PARTS:
        if name not in values:
            guess = draw.randrange(MODULUS)
            if messages and draw.random() < copies:
                guess = read_message(draw.choice(list(messages)))[name][0]
            values[name] = (guess, False)
    return f"{''.join(lines)}#{write_message(values)}"


def merged(messages: Iterable[str], *, marks: bool = True) -> dict[str, int | None]:
    """By part the value that most messages have worked, ties by the smaller value; None where none has worked it.

    Args:
        messages: of several solutions.
        marks: False takes guesses for votes as well.
    """
    votes: dict[str, dict[int, int]] = {name: {} for name in PARTS}
    for message in messages:
        for name, (value, worked) in read_message(message).items():
            if worked or not marks:
                votes[name][value] = votes[name].get(value, 0) + 1
    return {
        name: min(counts, key=lambda value: (-counts[value], value)) if counts else None
        for name, counts in votes.items()
    }


def answer_of(values: Mapping[str, int]) -> str:
    """The four values as the answer is compared."""
    return "".join(str(values[name]) for name in PARTS)


class WorksheetWorld:
    """Problems of the world with a solution each; its messages and prompt are those of a PaCoRe stage."""

    synthesis = SYNTHESIS
    message = staticmethod(message_of)
    erased = staticmethod(str.upper)

    def rows(
        self,
        n: int,
        *,
        split: str = "train",
        seed: int = 0,
        slip: float = SLIP,
        room: int = ROOM,
        messages: Sequence[int] | None = None,
        copies: float = 0.0,
        longest: int = LONGEST,
    ) -> list[dict[str, Any]]:
        """Write `n` problems.

        Args:
            n: number of rows; problems may repeat in `train`, never in `validation` and `test`.
            split: `train`, `validation` or `test`; the three share no problem.
            seed: of the problems and of their solutions.
            slip: share of operations that are worked wrongly.
            room: characters of an answer, its end included.
            messages: [fewest, most] messages of the law that stand in the prompt; None asks the bare problem. The
                solution does not use them, but for `copies`.
            copies: share of guesses that are copied from one of them.
            longest: operations of a part at most, 1 to 3; fewer than 3 make a drill, whose solutions work all parts.

        Returns:
            Rows with `id`, `problem`, `answer` (four digits), `solution`, `difficulty` (operations), and `prompt` where
            there are messages.

        Raises:
            DataError: an argument is out of range, or the split has fewer distinct problems than asked for.
        """
        _check(n, split, slip, room, messages, copies)
        if type(longest) is not int or not 1 <= longest <= LONGEST:
            raise DataError(f"worksheet: longest = {longest!r}, allowed are 1 to {LONGEST} operations a part")
        draw = random.Random(f"worksheet/{split}/{seed}")
        rows: list[dict[str, Any]] = []
        seen: set[str] = set()
        while len(rows) < n:
            sheet = draw_sheet(draw, longest)
            if split_of(sheet.text) != split or (split != "train" and sheet.text in seen):
                continue
            seen.add(sheet.text)
            law = random.Random(f"worksheet/law/{seed}/{split}/{len(rows)}")
            shown = [
                message_of(write_solution(sheet, law, slip=slip, room=room))
                for _ in range(0 if messages is None else law.randint(*messages))
            ]
            solution = write_solution(sheet, law, slip=slip, room=room, messages=shown, copies=copies)
            name = f"worksheet/{split}/{sheet.text}"
            row = {
                "id": f"{name}/{len(rows)}" if split == "train" else name,
                "problem": sheet.text,
                "answer": answer_of(sheet.values()),
                "solution": solution,
                "difficulty": sheet.operations,
            }
            if messages is not None:
                row["prompt"] = [{"role": "user", "content": "\n".join([sheet.text, *shown])}]
            rows.append(row)
        return rows


def _check(n: Any, split: str, slip: Any, room: Any, messages: Any, copies: Any) -> None:
    check_asked("worksheet", n, split)
    for name, share in (("slip", slip), ("copies", copies)):
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
            raise DataError(f"worksheet: {name} = {share!r}, allowed are 0 to 1")
    if isinstance(room, bool) or not isinstance(room, int) or room < LINE:
        raise DataError(f"worksheet: room = {room!r}, and the last line alone takes {LINE} characters")
    if messages is not None:
        ends = list(messages) if isinstance(messages, Sequence) and not isinstance(messages, str) else []
        if len(ends) != 2 or not all(type(end) is int for end in ends) or not 0 <= ends[0] <= ends[1]:
            raise DataError(f"worksheet: messages = {messages!r} -> [fewest, most], such as [0, 8]")
