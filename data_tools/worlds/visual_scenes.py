"""What the pictures of the visual world show: contents, questions, exact answers and short solutions; no pixels.

Every scene has a *twin*, its content written as text, so that the same question can be asked with and without seeing:

    count      `oX./..^/…`          a 4 x 4 field, row by row: o circle, # square, ^ triangle; a colour in front
    number     `4 0 7`              the digits from left to right
    bars       `A3 B7 C2`           the height of each bar
    geometry   `1,2 5,2 5,6 1,6`    corners on a lattice, in order; a second figure after `;`
    cells      `372/518/904`        a 3 x 3 field of digits, row by row; B2 is the middle
    path       `372/518/904`        the same field; a chain over its cells, left to right, modulo 10
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: Shapes of `count`, as the twin writes them, and colours with their letters.
SHAPES = {"circle": "o", "square": "#", "triangle": "^"}
COLOURS = {"red": "r", "green": "g", "blue": "b"}
FIELD = 4
LATTICE = 10
BARS = "ABCDEF"
COLUMNS = "ABC"
DIFFICULTIES = range(1, 6)


@dataclass(frozen=True)
class Scene:
    """One problem before it is drawn.

    Attributes:
        kind: name of the kind.
        difficulty: 1 to 5.
        content: what is to be drawn; its form belongs to the kind.
        twin: the content as text.
        question: asks about it.
        answer: exact.
        solution: steps and a boxed answer.
    """

    kind: str
    difficulty: int
    content: Any
    twin: str
    question: str
    answer: int | str
    solution: str


def _boxed(steps: list[str], answer: int | str) -> str:
    return "\n".join([*([";".join(steps)] if steps else []), f"\\boxed{{{answer}}}"])


def count_scene(draw: random.Random, difficulty: int) -> Scene:
    """How many of one shape (from grade 4: of one shape and colour) stand in the field; up to 2 + 2 d figures."""
    shapes = list(SHAPES)[: min(difficulty, 3)]
    colours = list(COLOURS) if difficulty >= 4 else ["blue"]
    places = draw.sample(range(FIELD * FIELD), draw.randint(1, 2 + 2 * difficulty))
    field = {place: (draw.choice(shapes), draw.choice(colours)) for place in sorted(places)}
    # Mostly about what is there: with nine kinds of figures the answer would else be 0 most of the time.
    there = draw.choice(list(field.values())) if draw.random() < 0.8 else (draw.choice(shapes), draw.choice(colours))
    shape, colour = there[0], there[1] if difficulty >= 4 else None
    marks = [
        "." if place not in field else (COLOURS[field[place][1]] if colour else "") + SHAPES[field[place][0]]
        for place in range(FIELD * FIELD)
    ]
    twin = "/".join("".join(marks[row * FIELD : (row + 1) * FIELD]) for row in range(FIELD))
    answer = sum(kind == shape and (colour is None or tone == colour) for kind, tone in field.values())
    question = f"How many {colour + ' ' if colour else ''}{shape}s?"
    return Scene("count", difficulty, field, twin, question, answer, _boxed([], answer))


def number_scene(draw: random.Random, difficulty: int) -> Scene:
    """Which number is drawn: d + 1 digits."""
    digits = [draw.randrange(1, 10), *(draw.randrange(10) for _ in range(difficulty))]
    answer = "".join(map(str, digits))
    return Scene("number", difficulty, digits, " ".join(answer), "Which number?", answer, _boxed([], answer))


def bars_scene(draw: random.Random, difficulty: int) -> Scene:
    """The height of a bar, or the sum of two (grades 3 and 4) or three (5); d + 1 bars of 0 to 9."""
    heights = {name: draw.randrange(10) for name in BARS[: difficulty + 1]}
    asked = draw.sample(sorted(heights), (difficulty + 1) // 2)
    answer = sum(heights[name] for name in asked)
    steps = [f"{name}={heights[name]}" for name in asked]
    if len(asked) > 1:
        steps.append("+".join(str(heights[name]) for name in asked) + f"={answer}")
    twin = " ".join(f"{name}{height}" for name, height in heights.items())
    return Scene("bars", difficulty, heights, twin, "+".join(asked) + "?", answer, _boxed(steps, answer))


Corners = list[tuple[int, int]]


def _rectangle(draw: random.Random, least: int = 1) -> tuple[int, int, int, int]:
    wide, high = draw.randint(least, LATTICE - 1), draw.randint(least, LATTICE - 1)
    return draw.randint(0, LATTICE - wide), draw.randint(0, LATTICE - high), wide, high


def _corners(left: int, top: int, wide: int, high: int) -> Corners:
    return [(left, top), (left + wide, top), (left + wide, top + high), (left, top + high)]


def geometry_scene(draw: random.Random, difficulty: int) -> Scene:
    """A figure on a lattice of unit squares: width or height (1), perimeter (2), area (3), area of an L (4), of a frame
    (5).
    """
    left, top, wide, high = _rectangle(draw, 1 if difficulty < 4 else 3)
    figures = [_corners(left, top, wide, high)]
    if difficulty == 1:
        question, answer = draw.choice([("Width?", wide), ("Height?", high)])
        steps: list[str] = []
    elif difficulty == 2:
        question, answer = "Perimeter?", 2 * (wide + high)
        steps = [f"{wide}+{high}={wide + high}", f"2*{wide + high}={answer}"]
    else:
        question, answer = "Area?", wide * high
        steps = [f"{wide}*{high}={answer}"]
        if difficulty >= 4:
            across, down = draw.randint(1, wide - 2), draw.randint(1, high - 2)
            hole = across * down
            if difficulty == 4:
                right, bottom = left + wide, top + high
                notch = [(right, bottom - down), (right - across, bottom - down), (right - across, bottom)]
                figures = [[(left, top), (right, top), *notch, (left, bottom)]]
            else:
                x, y = left + draw.randint(1, wide - across - 1), top + draw.randint(1, high - down - 1)
                figures.append(_corners(x, y, across, down))
            answer -= hole
            steps += [f"{across}*{down}={hole}", f"{wide * high}-{hole}={answer}"]
    twin = ";".join(" ".join(f"{x},{y}" for x, y in figure) for figure in figures)
    return Scene("geometry", difficulty, figures, twin, question, answer, _boxed(steps, answer))


def _field(draw: random.Random) -> tuple[list[int], str]:
    digits = [draw.randrange(10) for _ in range(9)]
    return digits, "/".join("".join(map(str, digits[row : row + 3])) for row in (0, 3, 6))


def _name(place: int) -> str:
    return f"{COLUMNS[place % 3]}{place // 3 + 1}"


def cells_scene(draw: random.Random, difficulty: int) -> Scene:
    """Which digits stand in d named cells."""
    digits, twin = _field(draw)
    places = draw.sample(range(9), difficulty)
    answer = "".join(str(digits[place]) for place in places)
    question = " ".join(map(_name, places)) + "?"
    return Scene("cells", difficulty, digits, twin, question, answer, _boxed([], answer))


def path_scene(draw: random.Random, difficulty: int) -> Scene:
    """A chain over d + 1 cells, worked from left to right modulo 10; the solution reads a cell before it uses it."""
    digits, twin = _field(draw)
    places = draw.sample(range(9), difficulty + 1)
    signs = [draw.choice("+-*") for _ in range(difficulty)]
    value = digits[places[0]]
    question, steps = _name(places[0]), [f"{_name(places[0])}={value}"]
    for sign, place in zip(signs, places[1:], strict=True):
        right = digits[place]
        made = {"+": value + right, "-": value - right, "*": value * right}[sign] % 10
        question += sign + _name(place)
        steps += [f"{_name(place)}={right}", f"{value}{sign}{right}={made}"]
        value = made
    return Scene("path", difficulty, digits, twin, question + "?", value, _boxed(steps, value))


SCENES: dict[str, Callable[[random.Random, int], Scene]] = {
    "count": count_scene,
    "number": number_scene,
    "bars": bars_scene,
    "geometry": geometry_scene,
    "cells": cells_scene,
    "path": path_scene,
}
