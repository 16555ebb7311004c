"""A filter of system calls for untrusted programs. Standard library only; runs inside the sandbox."""

from __future__ import annotations

import ctypes
import errno
import functools
import platform
import struct

# name -> number on x86_64 and on aarch64; None where the machine has no such call
_NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "prlimit64": (302, 261),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsmount": (432, 432),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "personality": (135, 92),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "socket": (41, 198),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "setpriority": (140, 140),
    "sched_setaffinity": (203, 122),
}
_SIGNALS = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal")
_SPECIAL = ("clone", "clone3", "prlimit64", "socket", *_SIGNALS)
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NEW_NAMESPACES = 0x7E020000
_LIBC = ctypes.CDLL(None, use_errno=True)
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000


def prepare_filter(*, allow_network: bool, allow_signals: bool) -> None:
    """Write the filter's program down, so that children that install it need not."""
    machine = platform.machine()
    if machine in _AUDIT:
        _program(machine, allow_network, allow_signals)


def install_filter(*, allow_network: bool, allow_signals: bool) -> bool:
    """Refuse, from here on and for all children: tracing and reading other processes and setting their limits,
    namespaces and mounts, kernel keys, memory outside the address-space limit (memfd, System V shared memory); with
    `allow_network` False any socket but pairs, and with `allow_signals` False signals to anyone.

    Returns:
        Whether it is in force; False on a machine or kernel that has no such filter.
    """
    machine = platform.machine()
    if machine not in _AUDIT:
        return False
    code = _program(machine, allow_network, allow_signals)
    text = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    libc = _LIBC
    program = Program(len(code) // 8, ctypes.cast(text, ctypes.c_void_p))
    no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.prctl(set_seccomp, filter_mode, ctypes.byref(program), 0, 0) == 0)


@functools.cache
def _program(machine: str, allow_network: bool, allow_signals: bool) -> bytes:
    column = 0 if machine == "x86_64" else 1
    number = {name: both[column] for name, both in _NUMBERS.items()}
    refuse = _ERROR | errno.EPERM
    lines = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _AUDIT[machine]), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    if machine == "x86_64":  # the second set of numbers that the same machine takes
        lines += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _ERROR | errno.ENOSYS)]
    refused = [name for name in number if name not in _SPECIAL]
    refused += [] if allow_network else ["socket"]
    refused += [] if allow_signals else [*_SIGNALS]
    for name in refused:
        lines += [(_EQUAL, 0, 1, number[name] or 0), (_RETURN, 0, 0, refuse)]
    # The flags of clone3 lie in memory, out of a filter's sight; libc falls back to clone.
    lines += [(_EQUAL, 0, 1, number["clone3"] or 0), (_RETURN, 0, 0, _ERROR | errno.ENOSYS)]
    lines += [(_EQUAL, 0, 4, number["clone"] or 0), (_LOAD, 0, 0, 16), (_ANY_BIT, 0, 1, _NEW_NAMESPACES)]
    lines += [(_RETURN, 0, 0, refuse), (_RETURN, 0, 0, _ALLOW)]
    lines += [(_EQUAL, 0, 3, number["prlimit64"] or 0), (_LOAD, 0, 0, 16), (_EQUAL, 1, 0, 0), (_RETURN, 0, 0, refuse)]
    lines += [(_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
