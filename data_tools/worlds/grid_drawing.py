"""Fields of nine digits as pictures, drawn by numpy from a few numbers: the same picture whenever it is asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from reasonrl.data_tools.worlds.visual_drawing import GLYPHS

SCALE = 3
CELL = 28
SIDE = 3 * CELL
PLAY = 3
"""Pixels by which a digit may stand off the middle of its cell, in each direction."""
BAR_SHARE = 0.1
"""Share of the cells with a bar across, as high as a pixel of the digit."""

_WIDE, _HIGH = 5 * SCALE, 7 * SCALE
_INK = {
    mark: np.kron(
        np.array([[bits >> (4 - column) & 1 for column in range(5)] for bits in rows], dtype=np.float32),
        np.ones((SCALE, SCALE), dtype=np.float32),
    )
    for mark, rows in GLYPHS.items()
}


def draw_field(digits: str, seed: int, noise: float, contrast: float) -> Any:
    """A PIL image of 84 x 84 pixels, three equal channels: 3 x 3 cells of 28 pixels, dark digits on white.

    Args:
        digits: nine, row by row.
        seed: of places, contrasts, bars and noise.
        noise: standard deviation of Gaussian noise, as a share of the range.
        contrast: least contrast of a digit; each has its own, up to 1.
    """
    draw = np.random.default_rng(seed)
    places = draw.integers(-PLAY, PLAY + 1, size=(9, 2))
    tones = draw.uniform(contrast, 1.0, size=9).astype(np.float32)
    bars, levels = draw.random(9) < BAR_SHARE, draw.integers(0, 7, size=9)
    ink = np.zeros((SIDE, SIDE), dtype=np.float32)
    for place, digit in enumerate(digits):
        top, left = place // 3 * CELL, place % 3 * CELL
        y = top + (CELL - _HIGH) // 2 + places[place, 0]
        x = left + (CELL - _WIDE) // 2 + places[place, 1]
        ink[y : y + _HIGH, x : x + _WIDE] = tones[place] * _INK[digit]
        if bars[place]:
            level = y + SCALE * levels[place]
            ink[level : level + SCALE, left : left + CELL] = tones[place]
    shade = 1.0 - ink + noise * draw.standard_normal((SIDE, SIDE), dtype=np.float32)
    grey = (np.clip(shade, 0.0, 1.0) * 255).round().astype(np.uint8)
    return Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2))
