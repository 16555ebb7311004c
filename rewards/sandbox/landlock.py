"""Files a process may still use, by the kernel's Landlock: for machines that give no namespaces. Standard library only;
runs inside the sandbox.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterable

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_EXECUTE, _WRITE, _READ, _READ_DIR, _TRUNCATE = 1, 2, 4, 8, 1 << 14
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | 1 << 15
_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # version of the interface -> kinds of access it knows; 16 from version 5 on
_LIBC = ctypes.CDLL(None, use_errno=True)


def version() -> int:
    """The kernel's version of the interface; 0 where there is none."""
    return max(int(_LIBC.syscall(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))), 0)


def restrict_files(readable: Iterable[str], devices: Iterable[str], own: str) -> bool:
    """Let this process, and all it starts, use no files but these, nor look into processes outside.

    Args:
        readable: files and folders to read and execute; what is not there is passed over.
        devices: files to read and write.
        own: a folder in which everything is allowed.

    Returns:
        Whether it is in force.
    """
    known = version()
    if not known:
        return False
    everything = (1 << _FS_BITS.get(known, 16)) - 1
    network, scope = (3 if known >= 4 else 0), (3 if known >= 6 else 0)  # TCP; abstract sockets and signals
    attributes = struct.pack("=QQQ", everything, network, scope)[: 8 if known < 4 else 16 if known < 6 else 24]
    rules = int(_LIBC.syscall(_CREATE, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)))
    if rules < 0:
        return False
    try:
        for path in readable:
            _allow(rules, path, (_EXECUTE | _READ | _READ_DIR) & everything)
        for path in devices:
            _allow(rules, path, (_READ | _WRITE) & everything)
        _allow(rules, own, everything)
        return _LIBC.prctl(38, 1, 0, 0, 0) == 0 and _LIBC.syscall(_RESTRICT, rules, ctypes.c_uint32(0)) == 0
    finally:
        os.close(rules)


def _allow(rules: int, path: str, access: int) -> None:
    with contextlib.suppress(FileNotFoundError, PermissionError):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not os.path.isdir(path):
                access &= _OF_FILES
            beneath = struct.pack("=Qi", access, place)
            if _LIBC.syscall(_ADD, rules, ctypes.c_int(1), beneath, ctypes.c_uint32(0)) != 0:
                raise OSError(ctypes.get_errno(), f"landlock: {path}")
        finally:
            os.close(place)
