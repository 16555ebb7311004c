"""Pictures in rows: where they stand, how they are opened, and how they get into a conversation.

A row has its pictures in `images` (a list, or one) or `image`: paths, PNG or JPEG bytes, PIL images, or what `datasets`
makes of them (`{"bytes": …, "path": …}`); or what a synthetic world draws them from (`{"world": …, …}`, the arguments
of its `picture`). They stay as they are until a prompt is made.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

Message = dict[str, Any]

#: Columns that hold pictures.
COLUMNS = ("images", "image")
# Where a picture stands in a text: `<image>`, or `<image2>` for the second one.
_MARK = re.compile(r"<image(\d*)>")


def pictures_of(row: Mapping[str, Any]) -> list[Any]:
    """A row's pictures, unopened; none for a row of text."""
    for name in COLUMNS:
        given = row.get(name)
        if given is not None:
            return [one for one in given if one is not None] if isinstance(given, (list, tuple)) else [given]
    return []


def at_home(picture: Any, folder: Path) -> Any:
    """A relative path as one from the working directory, if the file stands in `folder`; anything else as it is."""
    if isinstance(picture, (list, tuple)):
        return [at_home(one, folder) for one in picture]
    if isinstance(picture, str) and not Path(picture).is_absolute() and (folder / picture).is_file():
        return str(folder / picture)
    return picture


def open_picture(picture: Any, owner: str = "?") -> Image:
    """A picture as PIL has it: in RGB, on white where it is transparent.

    Args:
        picture: a path, bytes, a PIL image, or a mapping with `bytes`, `path`, or `world` and what it draws from.
        owner: id of its row, for messages.

    Raises:
        DataError: there is no such file, or it is no picture.
    """
    found = _find(picture, owner)
    try:
        if found.mode in ("RGBA", "LA", "PA") or "transparency" in found.info:
            from PIL import Image as images

            clear = found.convert("RGBA")
            below = images.new("RGBA", clear.size, "white")
            return images.alpha_composite(below, clear).convert("RGB")
        return found.convert("RGB")
    except (OSError, ValueError, SyntaxError) as problem:
        raise DataError(f"row {owner}: a picture cannot be read: {problem} -> the file is damaged or cut") from problem


def size_of(picture: Any, owner: str = "?") -> tuple[int, int]:
    """Width and height in pixels, from the file's head alone; raises DataError as `open_picture`."""
    width, height = _find(picture, owner).size
    return width, height


def _find(picture: Any, owner: str) -> Image:
    from PIL import Image as images

    if isinstance(picture, images.Image):
        return picture
    if isinstance(picture, Mapping) and picture.get("world") is not None:
        return _drawn(picture, owner)
    if isinstance(picture, Mapping):
        picture = picture.get("bytes") or picture.get("path")
    try:
        if isinstance(picture, (bytes, bytearray)):
            return images.open(io.BytesIO(picture))
        if isinstance(picture, (str, Path)):
            return images.open(picture)
    except (OSError, images.DecompressionBombError) as problem:
        name = repr(str(picture)) if isinstance(picture, (str, Path)) else f"{len(picture)} bytes"
        raise DataError(
            f"row {owner}: the picture {name} cannot be opened: {problem} -> a path from the data file's folder or the"
            " working directory, or the bytes of a PNG or JPEG"
        ) from problem
    raise DataError(
        f"row {owner}: a picture is a {type(picture).__name__} -> give a path, bytes of a PNG or JPEG, or a PIL image"
    )


def _drawn(drawing: Mapping[str, Any], owner: str) -> Image:
    from reasonrl.data_tools.worlds import get_world

    name, given = str(drawing["world"]), {key: value for key, value in drawing.items() if key != "world"}
    draw = getattr(get_world(name), "picture", None)
    try:
        if draw is None:
            raise TypeError("it draws none")
        drawn: Image = draw(**given)
    except (TypeError, DataError) as problem:
        raise DataError(
            f"row {owner}: a picture of the world {name!r} from {given}: {problem} -> mend the row"
        ) from problem
    return drawn


def with_pictures(
    messages: Sequence[Mapping[str, Any]], pictures: Sequence[Any], owner: str = "?"
) -> tuple[list[Message], list[Any]]:
    """A conversation in parts, as processors take it, with a place for every picture.

    `<image>` in a user's text is the place of the next picture, `<image2>` that of the second one: where it is named
    first, and a word where there is no second one, as in MATH-Vision, whose picture may show several. Where no text
    has such a mark, the pictures stand before the first user's text.

    Args:
        messages: `{"role", "content"}`, contents as text or in parts; image parts are places too.
        pictures: the row's.
        owner: id of its row, for messages.

    Returns:
        New messages whose contents are all lists of parts, and the pictures in the order of their places.

    Raises:
        DataError: there are more or fewer places than pictures.
    """
    asked = [str(part.get("text", "")) for m in messages if m["role"] == "user" for part in _parts(m["content"])]
    marked = bool(pictures) and any(_MARK.search(text) for text in asked)
    placed = any(part.get("type") == "image" for m in messages for part in _parts(m["content"]))
    order: list[int] = []
    turns: list[Message] = []
    for message in messages:
        parts: list[dict[str, Any]] = []
        for part in _parts(message["content"]):
            if part.get("type") == "image":
                parts.append({"type": "image"})
                order.append(len(order))
            elif marked and message["role"] == "user":
                parts += _split(str(part.get("text", "")), order, len(pictures))
            else:
                parts.append(dict(part))
        if pictures and message["role"] == "user" and not (order or marked or placed):
            parts = [*({"type": "image"} for _ in pictures), *parts]
            order = list(range(len(pictures)))
        turns.append({**message, "content": parts})
    if sorted(order) != list(range(len(pictures))):
        raise DataError(
            f"row {owner}: {len(order)} places for pictures in its text, but {len(pictures)} pictures -> one mark"
            " <image> (or <image1>, <image2>, …) a picture, or none at all"
        )
    return turns, [pictures[place] for place in order]


def _parts(content: Any) -> list[Mapping[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _split(text: str, order: list[int], count: int) -> Iterable[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    start = 0
    for match in _MARK.finditer(text):
        place = int(match.group(1)) - 1 if match.group(1) else len(order)
        if place in order or (match.group(1) and place >= count):
            continue  # named again, or part of a picture that shows several: it stays a word
        if text[start : match.start()]:
            parts.append({"type": "text", "text": text[start : match.start()]})
        parts.append({"type": "image"})
        order.append(place)
        start = match.end()
    if text[start:].strip() or not parts:
        parts.append({"type": "text", "text": text[start:]})
    return parts
