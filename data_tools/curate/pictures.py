"""Pictures of rows on their way into a training set: looked at once, cut to size, and kept beside the rows."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasonrl.data_tools.pictures import open_picture
from reasonrl.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

FOLDER = "pictures"


@dataclass(frozen=True)
class PictureRules:
    """What pictures may be.

    Attributes:
        max_pixels: above, the row is set aside; known from the file's head, before anything is decoded.
        min_side: pixels of the shorter side, at least.
        resize_to_pixels: larger ones are scaled down to about so many, and written anew as PNG; None leaves them.
        most: pictures a row, at most.
    """

    max_pixels: int = 1 << 24
    min_side: int = 1
    resize_to_pixels: int | None = None
    most: int = 16

    def taken_in(self, pictures: list[Any], home: Path) -> list[str]:
        """Paths of a row's pictures: as they are where they are files already (absolute), else in `home`/pictures
        (relative to `home`).

        Raises:
            DataError: one is of no use; the text says which and why, in few words.
        """
        if len(pictures) > self.most:
            raise DataError(f"more than {self.most} pictures")
        return [self._one(picture, home) for picture in pictures]

    def _one(self, picture: Any, home: Path) -> str:
        given = (picture.get("bytes") or picture.get("path")) if isinstance(picture, Mapping) else picture
        if isinstance(given, str) and not Path(given).is_file():
            raise DataError("picture file is missing")
        if isinstance(given, (bytes, bytearray, str)):
            size = len(given) if not isinstance(given, str) else Path(given).stat().st_size
            if not size:
                raise DataError("picture has zero bytes")
        elif given is None:
            raise DataError("picture has zero bytes")
        image = self._checked(given)
        if isinstance(given, str) and not self._too_large(image):
            return str(Path(given).resolve())
        if isinstance(given, (bytes, bytearray)) and not self._too_large(image):
            return _kept(bytes(given), (image.format or "PNG").lower(), home)
        return self._written(image, given, home)

    def _checked(self, given: Any) -> Image:
        from PIL import Image as images

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", images.DecompressionBombWarning)
            try:
                image = (
                    given
                    if isinstance(given, images.Image)
                    else images.open(io.BytesIO(given) if isinstance(given, (bytes, bytearray)) else given)
                )
                width, height = image.size
                if width * height > self.max_pixels:
                    raise DataError(f"picture has more than {self.max_pixels:,} pixels")
                if getattr(image, "n_frames", 1) > 1:
                    raise DataError("picture is animated")
                if min(width, height) < self.min_side:
                    raise DataError(f"picture has a side under {self.min_side} pixels")
                image.load()
            except images.DecompressionBombError as problem:
                raise DataError(f"picture has more than {self.max_pixels:,} pixels") from problem
            except DataError:
                raise
            except (OSError, ValueError, SyntaxError, EOFError, TypeError, AttributeError) as problem:
                raise DataError("picture is broken") from problem
        return image

    def _too_large(self, image: Image) -> bool:
        return self.resize_to_pixels is not None and image.size[0] * image.size[1] > self.resize_to_pixels

    def _written(self, image: Image, given: Any, home: Path) -> str:
        shown = open_picture(given)
        if self._too_large(image):
            assert self.resize_to_pixels is not None
            scale = (self.resize_to_pixels / (shown.size[0] * shown.size[1])) ** 0.5
            shown = shown.resize((max(1, int(shown.size[0] * scale)), max(1, int(shown.size[1] * scale))))
        file = io.BytesIO()
        shown.save(file, "PNG")
        return _kept(file.getvalue(), "png", home)


def _kept(data: bytes, ending: str, home: Path) -> str:
    name = hashlib.sha256(data).hexdigest()[:24]
    target = Path(FOLDER) / name[:2] / f"{name}.{ending}"
    if not (home / target).is_file():
        (home / target).parent.mkdir(parents=True, exist_ok=True)
        staging = (home / target).with_suffix(".partial")
        staging.write_bytes(data)
        staging.replace(home / target)
    return target.as_posix()


def pixels_digest(picture: str | Any, home: Path) -> str:
    """Hash of a picture's size and colours: the same for one picture in files of two kinds without loss."""
    shown = open_picture(str(home / picture) if isinstance(picture, str) else picture)
    return hashlib.sha256(repr(shown.size).encode() + shown.tobytes()).hexdigest()
