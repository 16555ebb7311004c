"""Scenes of the visual world as pictures: square, drawn with Pillow from numbers alone, written as PNG bytes."""

from __future__ import annotations

import io
import random
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from reasonrl.data_tools.worlds.visual_scenes import FIELD, LATTICE, Scene

#: Smallest side in pixels at which every kind can be read.
LEAST_SIZE = 42
INK = {"red": (200, 30, 30), "green": (20, 140, 40), "blue": (30, 60, 200)}
#: 5 x 7 pixels each, a row a number: bit 4 is the left column.
GLYPHS = {
    "0": (14, 17, 19, 21, 25, 17, 14),
    "1": (4, 12, 4, 4, 4, 4, 14),
    "2": (14, 17, 1, 2, 4, 8, 31),
    "3": (31, 2, 4, 2, 1, 17, 14),
    "4": (2, 6, 10, 18, 31, 2, 2),
    "5": (31, 16, 30, 1, 1, 17, 14),
    "6": (6, 8, 16, 30, 17, 17, 14),
    "7": (31, 1, 2, 4, 8, 8, 8),
    "8": (14, 17, 17, 14, 17, 17, 14),
    "9": (14, 17, 17, 15, 1, 2, 12),
    "A": (14, 17, 17, 31, 17, 17, 17),
    "B": (30, 17, 17, 30, 17, 17, 30),
    "C": (14, 17, 16, 16, 16, 17, 14),
    "D": (30, 17, 17, 17, 17, 17, 30),
    "E": (31, 16, 16, 30, 16, 16, 31),
    "F": (31, 16, 16, 30, 16, 16, 16),
}


def draw_scene(scene: Scene, draw: random.Random, size: int, wear: float) -> bytes:
    """A picture of `size` x `size` pixels.

    Args:
        scene: what to draw.
        draw: decides positions within their cells, and the wear.
        size: side in pixels, at least `LEAST_SIZE`.
        wear: 0 draws cleanly; 1 gives every picture Gaussian noise of a quarter of the range, and digits a contrast
            of 0.3 to 1 and, one in ten, a stroke across.

    Returns:
        A PNG.
    """
    picture = Image.new("RGB", (size, size), "white")
    _DRAWN[scene.kind](ImageDraw.Draw(picture), scene.content, draw, size, wear)
    if wear > 0:
        noise = np.random.default_rng(draw.getrandbits(63)).normal(0.0, 255 * 0.25 * wear, (size, size, 1))
        worn = np.clip(np.asarray(picture, dtype=np.float64) + noise, 0, 255).round().astype(np.uint8)
        picture = Image.fromarray(worn)
    out = io.BytesIO()
    picture.save(out, format="PNG")
    return out.getvalue()


def _glyph(canvas: ImageDraw.ImageDraw, mark: str, x: int, y: int, scale: int, ink: Any) -> None:
    for row, bits in enumerate(GLYPHS[mark]):
        for column in range(5):
            if bits >> (4 - column) & 1:
                left, top = x + column * scale, y + row * scale
                canvas.rectangle((left, top, left + scale - 1, top + scale - 1), fill=ink)


def _digit(
    canvas: ImageDraw.ImageDraw,
    digit: int,
    box: tuple[int, int, int],
    draw: random.Random,
    wear: float,
) -> None:
    """A digit in a square cell (left, top, side), moved about by up to 3 pixels."""
    left, top, side = box
    scale = max(1, side // 8)
    play_x, play_y = (min(3, (side - length * scale) // 2) for length in (5, 7))
    x = left + (side - 5 * scale) // 2 + draw.randint(-play_x, play_x)
    y = top + (side - 7 * scale) // 2 + draw.randint(-play_y, play_y)
    contrast = 1.0 - draw.random() * 0.7 * wear
    tone = round(255 * (1 - contrast))
    _glyph(canvas, str(digit), x, y, scale, (tone, tone, tone))
    if draw.random() < 0.1 * wear:
        level = y + draw.randrange(7 * scale)
        canvas.line((left, level, left + side - 1, level), fill=(tone, tone, tone), width=scale)


def _field_of_digits(canvas: Any, digits: list[int], draw: random.Random, size: int, wear: float) -> None:
    cell = size // 3
    for place, digit in enumerate(digits):
        _digit(canvas, digit, (place % 3 * cell, place // 3 * cell, cell), draw, wear)


def _number(canvas: Any, digits: list[int], draw: random.Random, size: int, wear: float) -> None:
    cell = size // max(3, len(digits))
    top = draw.randint(0, size - cell)
    for place, digit in enumerate(digits):
        _digit(canvas, digit, (place * cell, top, cell), draw, wear)


def _count(canvas: Any, field: dict[int, tuple[str, str]], draw: random.Random, size: int, wear: float) -> None:
    cell = size // FIELD
    for place, (shape, colour) in field.items():
        side = draw.randint(cell // 2, cell - 3)
        x = place % FIELD * cell + draw.randint(1, cell - side - 1)
        y = place // FIELD * cell + draw.randint(1, cell - side - 1)
        box, ink = (x, y, x + side - 1, y + side - 1), INK[colour]
        if shape == "circle":
            canvas.ellipse(box, fill=ink)
        elif shape == "square":
            canvas.rectangle(box, fill=ink)
        else:
            canvas.polygon([(x, box[3]), (box[2], box[3]), ((x + box[2]) // 2, y)], fill=ink)


def _bars(canvas: Any, heights: dict[str, int], draw: random.Random, size: int, wear: float) -> None:
    scale = max(1, size // 42)
    floor = size - 8 * scale - 1
    unit, width = floor // 9, size // len(heights)
    for level in range(10):
        canvas.line((0, floor - level * unit, size - 1, floor - level * unit), fill=(205, 205, 205))
    for place, (name, height) in enumerate(heights.items()):
        left = place * width
        if height:
            box = (left + width // 4, floor - height * unit, left + width - 1 - width // 4, floor)
            canvas.rectangle(box, fill=INK["blue"])
        _glyph(canvas, name, left + (width - 5 * scale) // 2, floor + scale + 1, scale, (0, 0, 0))


def _geometry(canvas: Any, figures: list[list[tuple[int, int]]], draw: random.Random, size: int, wear: float) -> None:
    unit = (size - 1) // LATTICE
    for figure, ink in zip(figures, ((90, 130, 220), "white"), strict=False):
        canvas.polygon([(x * unit, y * unit) for x, y in figure], fill=ink, outline=(0, 0, 0))
    for x in range(LATTICE + 1):
        for y in range(LATTICE + 1):
            canvas.point((x * unit, y * unit), fill=(120, 120, 120))


_DRAWN: dict[str, Any] = {
    "count": _count,
    "number": _number,
    "bars": _bars,
    "geometry": _geometry,
    "cells": _field_of_digits,
    "path": _field_of_digits,
}
