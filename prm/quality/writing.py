"""Files that are whole or not there: written beside their place, and put there at the end."""

from __future__ import annotations

import datetime
import filecmp
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from reasonrl.errors import DataError
from reasonrl.observe.records import encode_record


class Output:
    """A file that takes its name when `keep` is called, and is thrown away if it is not.

    Args:
        path: where it goes; its folder is made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self.file = self._beside.open("wb")

    def differs(self) -> bool:
        """Whether what stands in its place now is something else."""
        self.file.flush()
        return not filecmp.cmp(self._beside, self.path, shallow=False)

    def keep(self) -> None:
        """Put it on the disk and in its place."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self._beside.replace(self.path)

    def close(self) -> None:
        """Throw it away if it has not been kept."""
        self.file.close()
        self._beside.unlink(missing_ok=True)

    def __enter__(self) -> Output:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def line_of(row: Mapping[str, Any]) -> bytes:
    """A row as a line of JSON, which has no word for numbers that are not finite (null) and for dates (text).

    Raises:
        DataError: it holds what JSON cannot hold, such as the bytes of a picture.
    """
    try:
        return encode_record(row)
    except (TypeError, ValueError):
        pass
    try:
        return encode_record({name: _plain(value) for name, value in row.items()})
    except TypeError as problem:
        raise DataError(f"a value that JSON cannot hold ({problem})") from None


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value
