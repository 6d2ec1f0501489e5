"""Shared folders shown read-only inside a session: bind mounts in a mount namespace of its own."""

from __future__ import annotations

import ctypes
import os
import shutil

CLONE_NEWNS = 0x00020000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18

libc = ctypes.CDLL(None, use_errno=True)


def can_bind() -> bool:
    """Whether this process may make mount namespaces; tried in a child."""
    child = os.fork()
    if child == 0:
        try:
            private_namespace()
        except OSError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


def private_namespace() -> None:
    """From now on this process's mounts are its own. Raises `OSError`."""
    _check(libc.unshare(CLONE_NEWNS))
    _mount(b"none", b"/", MS_REC | MS_PRIVATE)


def bind(source: str, target: str) -> None:
    """Show *source* at *target*, read-only. Raises `OSError`."""
    _mount(os.fsencode(source), os.fsencode(target), MS_BIND | MS_REC)
    _mount(b"none", os.fsencode(target), MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def stand_in(source: str, target: str, privileged: bool) -> None:
    """Without mounts: a copy where file modes protect nothing (root), else a link."""
    if os.path.lexists(target):
        return
    if privileged and os.path.isdir(source):
        shutil.copytree(source, target, symlinks=True)
    elif privileged:
        shutil.copy2(source, target)
    else:
        os.symlink(source, target)


def prepare(source: str, target: str) -> None:
    """Make the empty place on which *source* is mounted."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "a"):
            pass


def _mount(source: bytes, target: bytes, flags: int) -> None:
    _check(libc.mount(source, target, None, ctypes.c_ulong(flags), None))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
