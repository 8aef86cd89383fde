"""Directories that are for one user alone."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from shards import logs

log = logs.logger()


def make_private(directory: Path) -> None:
    """Make the directory, or close an existing one to others. Raises ``OSError``, for one of another user as well."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_mode & stat.S_ISVTX:
        raise PermissionError(errno.EPERM, "it is a symbolic link, or shared like /tmp")
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"it belongs to user {found.st_uid}")
    mode = stat.S_IMODE(found.st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        directory.chmod(0o700)
        log.warning("was open to other users, is 0700 now", directory=str(directory), mode=f"{mode:04o}")
