"""Boxes and points as responses and data sets write them, in one form."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

Shape = tuple[float, ...]
"""A point (x, y) or a box (x1, y1, x2, y2)."""

LAYOUTS = ("xyxy", "xywh")
MOST = 256
_LETTERS = "x1 y1 x2 y2"
_BOX_KEYS = ("bbox_2d", "bbox", "box", "box_2d", "boundingBox", "bounding_box")
_POINT_KEYS = ("point_2d", "point", "coordinate", "coordinates", "coord", "position", "click")
# Every repetition is bounded: a response of nothing but digits or blanks must not cost more than its length.
_SPACE = r"\s{0,9}"
_NUMBER = r"[-+]?(?:\d{1,12}(?:\.\d{0,12})?|\.\d{1,12})"
_COMMA = rf"{_SPACE}[,;]{_SPACE}"
_PAIR = rf"[\[(]{_SPACE}({_NUMBER}){_COMMA}({_NUMBER}){_SPACE}[\])]"
_FOUR = rf"[\[(]{_SPACE}({_NUMBER}){_COMMA}({_NUMBER}){_COMMA}({_NUMBER}){_COMMA}({_NUMBER}){_SPACE}[\])]"
_BOX = re.compile(rf"{_FOUR}|{_PAIR}{_SPACE},?{_SPACE}{_PAIR}")
_POINT = re.compile(_PAIR)
_TAG_BOX = re.compile(
    rf"<(?:box|bbox)>{_SPACE}({_NUMBER})[\s,]{{1,9}}({_NUMBER})[\s,]{{1,9}}({_NUMBER})[\s,]{{1,9}}({_NUMBER})"
)
_TAG_POINT = re.compile(rf"<(?:point|click)>{_SPACE}({_NUMBER})[\s,]{{1,9}}({_NUMBER}){_SPACE}</")
_ATTRIBUTES = re.compile(
    rf"\bx\d?{_SPACE}={_SPACE}[\"']?({_NUMBER})[\"']?{_SPACE}[,;]?{_SPACE}y\d?{_SPACE}={_SPACE}[\"']?({_NUMBER})"
)
_OBJECT = re.compile(r"\{[^{}]{1,2000}\}")
_NOTHING = re.compile(r"\[\s{0,9}\]")
_BARE = re.compile(rf"{_NUMBER}(?:[\s,]{{1,9}}{_NUMBER}){{1,3}}")


def read_text(text: str, size: int) -> list[Shape] | None:
    """The shapes in a response: lists and mappings of JSON, `<box>`, `<point>`, `(x, y)`, attributes, bare numbers.

    Args:
        size: numbers of one shape: 4 for boxes, 2 for points.

    Returns:
        In the order of the text; an empty list for `[]`; None where nothing of the kind is written.
    """
    found: list[tuple[int, Shape]] = []
    for place in _OBJECT.finditer(text):
        shape = _of_object(place.group(), size)
        if shape is not None:
            found.append((place.start(), shape))
    covered = {start for start, _ in found}
    bare_keys = [place.span() for place in _OBJECT.finditer(text) if place.start() in covered]
    patterns = (_BOX, _TAG_BOX) if size == 4 else (_POINT, _TAG_POINT, _ATTRIBUTES)
    for pattern in patterns:
        for place in pattern.finditer(text):
            if not any(start <= place.start() < end for start, end in bare_keys):
                found.append((place.start(), tuple(float(one) for one in place.groups() if one is not None)))
    if not found:
        bare = _BARE.fullmatch(text.strip())
        numbers = re.findall(_NUMBER, bare.group()) if bare else []
        if len(numbers) == size:
            return [tuple(map(float, numbers))]
        return [] if _NOTHING.search(text) else None
    return [shape for _, shape in sorted(found, key=lambda one: one[0])]


def read_gold(value: Any, size: int) -> list[Shape]:
    """The shapes in a cell of the data: numbers, lists, mappings, JSON text, or text as in a response.

    Raises:
        ValueError: it holds no shapes of this kind.
    """
    if isinstance(value, str):
        try:
            return read_gold(json.loads(value), size)
        except ValueError:
            found = read_text(value, size)
            if found is None:
                raise ValueError(f"{value!r:.80} holds no {'box' if size == 4 else 'point'}") from None
            return found
    if isinstance(value, Mapping):
        shape = _of_mapping(value, size)
        if shape is None:
            raise ValueError(f"the keys {sorted(map(str, value))} name no {'box' if size == 4 else 'point'}")
        return [shape]
    if isinstance(value, Sequence):
        if len(value) == size and all(_is_number(one) for one in value):
            return [tuple(map(float, value))]
        return [shape for one in value for shape in _one(one, size)]
    raise ValueError(f"a {type(value).__name__} holds no {'box' if size == 4 else 'point'}")


def as_corners(shape: Shape, layout: str) -> Shape:
    """A box as (x1, y1, x2, y2); points stay."""
    if len(shape) == 2 or layout == "xyxy":
        return shape
    x, y, width, height = shape
    return (x, y, x + width, y + height)


def is_sound(shape: Shape) -> bool:
    """Finite, and for a box with a positive area."""
    if not all(map(math.isfinite, shape)):
        return False
    return len(shape) == 2 or (shape[2] > shape[0] and shape[3] > shape[1])


def _one(value: Any, size: int) -> list[Shape]:
    found = read_gold(value, size)
    if not found:
        raise ValueError("an empty list among the shapes")
    return found


def _of_object(text: str, size: int) -> Shape | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return _of_mapping(value, size) if isinstance(value, dict) else None


def _of_mapping(value: Mapping[str, Any], size: int) -> Shape | None:
    for key in _BOX_KEYS if size == 4 else _POINT_KEYS:
        inside = value.get(key)
        if isinstance(inside, (list, tuple)) and len(inside) == size and all(_is_number(one) for one in inside):
            return tuple(map(float, inside))
        if isinstance(inside, Mapping):
            return _of_mapping(inside, size)
    names = _LETTERS.split() if size == 4 else ["x", "y"]
    if all(_is_number(value.get(name)) for name in names):
        return tuple(float(value[name]) for name in names)
    if size == 4 and all(_is_number(value.get(name)) for name in ("x", "y", "width", "height")):
        x, y, width, height = (float(value[name]) for name in ("x", "y", "width", "height"))
        return (x, y, x + width, y + height)
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
