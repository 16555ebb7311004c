"""Shutting a process in: namespaces, a root of its own, resource limits, no privileges. Standard library only; runs
inside the sandbox, before anything untrusted does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Mapping
from typing import Any

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_NOSUID, _NODEV, _RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 2, 4, 1, 32, 4096, 16384, 1 << 18
_KEPT_FLAGS = {2: 2, 4: 4, 8: 8, 1024: 1024, 2048: 2048, 4096: 1 << 21}  # statvfs flag -> mount flag
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix/store")
SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives")
DEVICES = ("null", "zero", "full", "random", "urandom")
WORK = "/sandbox"

libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """SIGKILL for this process when its parent dies; a change of user clears it."""
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)


def adopt_orphans() -> None:
    """Processes that descend from this one and lose their parent come to this one."""
    libc.prctl(36, 1, 0, 0, 0)


def set_dumpable(on: bool) -> None:
    """Whether other processes of this user may look into this one, and it into its own /proc entries."""
    libc.prctl(4, int(on), 0, 0, 0)


def enter_namespaces() -> dict[str, bool]:
    """Leave the host's users, processes, network and mounts as far as the kernel lets us.

    The process namespace holds for children only. Returns which of `user`, `pids`, `network`, `mounts` were left;
    `user` means no privilege over the host: root gives its own up later (`drop_privileges`).
    """
    everything = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET
    none = {"user": False, "pids": False, "network": False, "mounts": False}
    user, group = os.geteuid(), os.getegid()
    if user == 0 and libc.unshare(everything) == 0:
        return dict.fromkeys(none, True)
    if libc.unshare(_NEWUSER | everything) != 0:
        return none
    with contextlib.suppress(OSError):  # kernels before 3.19 have no such file
        _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")
    return dict.fromkeys(none, True)


def build_root(folder: str, paths: list[str], work_mb: int) -> bool:
    """A root with the system's programs and libraries and `paths`, all read-only, and a writable `/sandbox` in memory;
    nothing else of the host's files is left.

    Args:
        folder: an empty folder of the host on which the new root is mounted.
        paths: absolute folders to show, such as Python's.
        work_mb: size of `/sandbox`, in MiB.

    Returns:
        Whether /proc of the new process namespace is there too: a host that hides parts of its own refuses it.

    Raises:
        OSError: a mount failed.
    """
    _mount(None, "/", None, _REC | _PRIVATE)
    _mount("tmpfs", folder, "tmpfs", _NOSUID | _NODEV, "size=1m,mode=755")
    for place in ("dev/shm", "proc", "tmp", WORK.strip("/"), ".old"):
        os.makedirs(f"{folder}/{place}")
    _mount("tmpfs", f"{folder}{WORK}", "tmpfs", _NOSUID | _NODEV, f"size={work_mb}m,nr_inodes=4096,mode=1777")
    for name in ("/tmp", "/dev/shm"):
        _mount(f"{folder}{WORK}", f"{folder}{name}", None, _BIND)
    for path in [*SYSTEM, *SYSTEM_FILES, *paths]:
        _show(path, folder)
    for name in DEVICES:
        _show(f"/dev/{name}", folder, read_only=False)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"{folder}/dev/{name}")
    has_proc = True
    try:
        _mount("proc", f"{folder}/proc", "proc", _NOSUID | _NODEV | 8)
    except OSError:
        has_proc = False
    if libc.pivot_root(folder.encode(), f"{folder}/.old".encode()) != 0:
        raise _failed("pivot_root")
    os.chdir("/")
    if libc.umount2(b"/.old", 2) != 0:
        raise _failed("umount2")
    os.rmdir("/.old")
    _mount(None, "/", None, _REMOUNT | _BIND | _RDONLY | _NOSUID | _NODEV)
    os.chdir(WORK)
    return has_proc


def drop_privileges(own_user: int | None, read_all: bool = False) -> None:
    """Be nobody in particular: a user of one's own if root ran us, no groups, no capabilities, none to be gained.

    `read_all` keeps the right to read any file, for a Python that lies where only root may look.
    """
    for capability in range(64):
        if libc.prctl(24, capability, 0, 0, 0) != 0:
            break
    if own_user is not None:
        libc.prctl(8, 1, 0, 0, 0)  # keep capabilities over the change of user; all but at most one go below
        os.setgroups([])
        os.setresgid(own_user, own_user, own_user)
        os.setresuid(own_user, own_user, own_user)
    libc.prctl(38, 1, 0, 0, 0)  # no new privileges
    kept = 1 << 2 if read_all and own_user is not None else 0
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)  # effective, permitted, inheritable; then their upper halves
    if libc.capset(ctypes.byref(header), ctypes.byref(sets)) != 0:
        raise _failed("capset")


def user_exists(user: int) -> bool:
    """Whether this user namespace has the user: one that calls itself root may be all there is."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    return any(first <= user < first + count for first, _, count in ranges)


def can_live_as(user: int, path: str) -> bool:
    """Whether a process of this user could read the folder `path`; asked in a child, since there is no way back."""
    child = os.fork()
    if child == 0:
        readable = False
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            readable = os.access(path, os.R_OK | os.X_OK)
        os._exit(0 if readable else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def limit_resources(limits: Mapping[str, Any], cpu_seconds: int) -> None:
    """The limits of one program and all it starts; `limits` are bytes and counts (`host.Limits`)."""
    for kind, value in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, limits["memory_mb"] << 20),
        (resource.RLIMIT_FSIZE, limits["output_bytes"] + 1),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        least = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (least, least))
    stack, hard = 64 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]
    least = stack if hard == resource.RLIM_INFINITY else min(stack, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (least, least))


def _show(path: str, folder: str, read_only: bool = True) -> None:
    """Bind a file or folder of the host at the same place below `folder`; a link is made anew."""
    target = folder + path
    if os.path.lexists(target) or not os.path.lexists(path):
        return
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.makedirs(target)
    else:
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    _mount(path, target, None, _BIND | _REC)
    if read_only:
        flags = os.statvfs(target).f_flag
        kept = sum(mount for seen, mount in _KEPT_FLAGS.items() if flags & seen)
        _mount(None, target, None, _REMOUNT | _BIND | _RDONLY | _NOSUID | kept)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind, data)]
    if libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]) != 0:
        raise _failed(f"mount {target}")


def _failed(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
