"""The data directory: one instance at a time, what an installation keeps for life, and the routers' epochs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import xxhash

from dispatcher import reshard
from dispatcher.errors import BrokenError, StartError
from dispatcher.private import make_private

DEFAULT_SHARDS = 4
PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class Identity(msgspec.Struct):
    """What an installation keeps for life, in ``identity.json``."""

    shards: Annotated[int, msgspec.Meta(ge=1)]
    secret: int
    directory: str = reshard.HERE  # of the journals, in the data directory
    version: int = 0  # of the configuration; never used for another one
    configuration: str = ""  # a digest of what the version stands for


class DataDirectory:
    """Everything here raises ``StartError``, and ``next_epoch`` once it has succeeded ``OSError``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._epoch: int | None = None  # the last one given out, or stored

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Make the directory where there is none, and keep other instances out of it."""
        path = self.path
        if path.is_symlink():
            raise StartError(f"{path} is a symbolic link; name the directory itself as data_dir")
        os.umask(0o077)
        with explained(path, "data_dir must be a directory of this user, who can write to it"):
            make_private(path)
            make_private(path / "run")
            descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StartError(f"{path} is in use by another instance; stop it, or use another data_dir") from None
            yield
        finally:
            os.close(descriptor)

    def identity(self, wanted: int | None, is_stopping: Callable[[], bool]) -> Identity:
        """Of this installation, which gets as many shards as are ``wanted``, unless it is told to stop meanwhile."""
        path = self.path / "identity.json"
        with explained(path, "make it readable for this user"):
            if not path.exists():
                identity = Identity(wanted or DEFAULT_SHARDS, secrets.randbits(63))
                write_durably(path, msgspec.json.encode(identity))
                return identity
            try:
                identity = msgspec.json.decode(path.read_bytes(), type=Identity)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise StartError(
                    f"{path} is damaged ({error}); restore it from a backup: it has the number of shards, "
                    "and the secret without which no repetition is known as one"
                ) from None
        with explained(self.path, "see that this user can delete what is in it"):
            reshard.remove_leftovers(self.path, identity.directory)
        if wanted is None or wanted == identity.shards:
            return identity
        return self._reshard(identity, wanted, is_stopping)

    def _reshard(self, old: Identity, shards: int, is_stopping: Callable[[], bool]) -> Identity:
        """The journals for another number of shards; the old ones go when ``identity.json`` names the new ones."""
        try:
            name = reshard.make_anew(self.path, old.directory, old.shards, shards, is_stopping)
        except reshard.InterruptedReshardError:
            return old
        identity = msgspec.structs.replace(old, shards=shards, directory=name)
        with explained(self.path, "see that this user can write to it"):
            write_durably(self.path / "identity.json", msgspec.json.encode(identity))
            reshard.remove_leftovers(self.path, name)
        return identity

    def number_configuration(self, identity: Identity, document: bytes) -> None:
        """Give the configuration a version: the next one, where it is not that of the last time. Raises ``OSError``."""
        digest = xxhash.xxh3_128_hexdigest(document)
        if digest != identity.configuration:
            numbered = msgspec.structs.replace(identity, version=identity.version + 1, configuration=digest)
            write_durably(self.path / "identity.json", msgspec.json.encode(numbered))
            identity.version, identity.configuration = numbered.version, numbered.configuration

    def next_epoch(self) -> int:
        """A router's epoch is never used again: it is on disk before the router starts."""
        path = self.path / "epoch"
        if self._epoch is None:
            with explained(path, "make it readable for this user"):
                self._epoch = _stored_epoch(path)
        epoch = max(self._epoch + 1, time.time_ns() // 1000)
        write_durably(path, str(epoch).encode())
        self._epoch = epoch
        return epoch


def _stored_epoch(path: Path) -> int:
    if not path.exists():
        return 0
    content = path.read_bytes()
    try:
        return int(content)
    except ValueError:
        raise StartError(
            f"{path} is damaged ({content[:40]!r} is no number); see that the clock of this machine is right, "
            "delete the file, and the next epoch comes from the clock"
        ) from None


@contextlib.contextmanager
def explained(path: Path, remedy: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in PASSING:
            raise BrokenError(f"{path}: {error.strerror}; start again when that is mended") from None
        raise StartError(f"{path}: {error.strerror}; {remedy}") from None


def write_durably(path: Path, content: bytes) -> None:
    """Replace a file so that after a power cut it has either the old content or the new."""
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
