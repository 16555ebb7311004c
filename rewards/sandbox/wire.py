"""What goes between our process and a sandbox: frames of JSON, and Python values written as JSON. Standard library
only; used on both sides. Nothing here builds anything but plain values.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Set
from decimal import Decimal
from fractions import Fraction
from typing import Any

HEADER = struct.Struct(">I")
_BIG = 1 << 53
_MOST_ITEMS = 200_000


def frame(message: Mapping[str, Any]) -> bytes:
    """A message as bytes: its length, then JSON."""
    text = json.dumps(message).encode("ascii")
    return HEADER.pack(len(text)) + text


def encode(value: Any, keep: Callable[[Any], int] | None = None) -> Any:
    """A Python value as JSON; what is no plain value goes to `keep`, whose number stands for it.

    Numbers of numpy become plain, iterators become lists.

    Raises:
        TypeError: no plain value, and no `keep`.
        ValueError: more items than can be told.
    """
    if value is None or isinstance(value, (bool, str)):
        return value if value is None or isinstance(value, bool) else str.__str__(value)
    if isinstance(value, int):
        return int(value) if -_BIG < value < _BIG else {"i": hex(value)}
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"f": repr(float(value))}
    if isinstance(value, complex):
        return {"c": [repr(value.real), repr(value.imag)]}
    if isinstance(value, (bytes, bytearray)):
        return {"b": bytes(value).hex()}
    if isinstance(value, Decimal):
        return {"n": str(value)}
    if isinstance(value, Fraction):  # never as text with an exponent, which would have to be multiplied out
        return {"q": [hex(value.numerator), hex(value.denominator)]}
    if isinstance(value, tuple):
        return {"t": [encode(item, keep) for item in value]}
    if isinstance(value, Mapping):
        return {"d": [[encode(key, keep), encode(item, keep)] for key, item in value.items()]}
    if isinstance(value, Set):
        return {"s": [encode(item, keep) for item in value]}
    return _encode_other(value, keep)


def _encode_other(value: Any, keep: Callable[[Any], int] | None) -> Any:
    if isinstance(value, list):
        return [encode(item, keep) for item in value]
    for plain in ("tolist", "item"):  # arrays and numbers of numpy
        if type(value).__module__.split(".")[0] == "numpy" and hasattr(value, plain):
            return encode(getattr(value, plain)(), keep)
    if type(value).__module__ in ("collections", "builtins", "itertools") and (
        isinstance(value, (Iterator, range)) or type(value).__name__ in ("deque", "dict_keys", "dict_values")
    ):
        items = []
        for item in value:
            items.append(encode(item, keep))
            if len(items) > _MOST_ITEMS:
                raise ValueError(f"a {type(value).__name__} of more than {_MOST_ITEMS} items")
        return items
    if keep is None:
        raise TypeError(f"a {type(value).__name__} is no plain value")
    return {"h": keep(value)}


def decode(value: Any, handle: Callable[[int], Any] | None = None) -> Any:
    """The value that `encode` wrote; `handle` makes something of the number of a thing that was kept.

    Raises:
        ValueError: it is nothing that `encode` writes.
    """
    if isinstance(value, list):
        return [decode(item, handle) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError("a value has one kind")
    ((kind, inside),) = value.items()
    try:
        if kind == "h" and handle is not None:
            return handle(int(inside))
        return _KINDS[kind](inside, handle)
    except (KeyError, TypeError, ArithmeticError) as problem:
        raise ValueError(f"no value of kind {kind!r}: {problem}") from None


_KINDS: dict[str, Callable[[Any, Any], Any]] = {
    "i": lambda inside, handle: int(inside, 16),
    "f": lambda inside, handle: float(inside),
    "c": lambda inside, handle: complex(float(inside[0]), float(inside[1])),
    "b": lambda inside, handle: bytes.fromhex(inside),
    "n": lambda inside, handle: Decimal(inside),
    "q": lambda inside, handle: Fraction(int(inside[0], 16), int(inside[1], 16)),
    "t": lambda inside, handle: tuple(decode(item, handle) for item in inside),
    "d": lambda inside, handle: {decode(key, handle): decode(item, handle) for key, item in inside},
    "s": lambda inside, handle: {decode(item, handle) for item in inside},
}
