"""CURVE keys in files: a pair's own, a server's, and those of the clients that a server lets in.

A key is one line of 40 characters, Z85 as ZeroMQ takes it (https://rfc.zeromq.org/spec/32/). ``NAME.secret`` is for its
owner alone, ``NAME.public`` for everybody.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    import zmq

KEY_CHARACTERS = 40
OTHERS = stat.S_IRWXG | stat.S_IRWXO
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class KeyFileError(Exception):
    """A key cannot be used: the message names the file, what is wrong, and the remedy."""


class CurveSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The table ``[curve]``: paths, relative to the working directory. Without ``secret_key`` it is off."""

    secret_key: str = ""
    allow: str = ""
    server_key: str = ""

    def __post_init__(self) -> None:
        for name in ("allow", "server_key"):
            if getattr(self, name) and not self.secret_key:
                raise ValueError(f"{name}: it needs secret_key as well; `dispatcher keys new NAME` makes one")


class Pair(msgspec.Struct, frozen=True):
    """Both halves of a key, in Z85; it shows only the public one."""

    public: bytes
    secret: bytes

    def __repr__(self) -> str:
        return f"Pair({self.public.decode()})"


class ClientKeys(NamedTuple):
    """What a client needs: its own pair, and the server's public key."""

    own: Pair
    server: bytes

    def apply(self, socket: zmq.Socket[bytes]) -> None:
        """To a socket that is not connected yet."""
        socket.curve_serverkey = self.server
        socket.curve_publickey = self.own.public
        socket.curve_secretkey = self.own.secret


def client_keys(settings: CurveSettings) -> ClientKeys | None:
    """None without CURVE. Where the server's key is not given, ``secret_key`` is the server's own, as on its machine.

    Raises ``KeyFileError``.
    """
    if not settings.secret_key:
        return None
    own = read_pair(Path(settings.secret_key))
    return ClientKeys(own, read_public(Path(settings.server_key)) if settings.server_key else own.public)


def server_secret(settings: CurveSettings) -> str:
    """The server's secret key, empty without CURVE; the whole allow-list must be good. Raises ``KeyFileError``."""
    if not settings.secret_key:
        return ""
    import zmq

    if not zmq.has("curve"):
        raise KeyFileError("curve.secret_key: this libzmq has no CURVE; install pyzmq's own wheel")
    if settings.allow:
        for file in public_files(Path(settings.allow)):
            read_public(Path(file.path))
    return read_pair(Path(settings.secret_key)).secret.decode()


def read_pair(path: Path) -> Pair:
    """From the secret half, which nobody else may be able to read. Raises ``KeyFileError``."""
    import zmq

    secret = _read(path, OTHERS, f"is open to other users; chmod 600 {path}")
    return Pair(zmq.curve_public(secret), secret)


def read_public(path: Path) -> bytes:
    """A public key, which nobody else may be able to replace. Raises ``KeyFileError``."""
    return _read(path, OTHERS_WRITE, f"can be written by other users; chmod go-w {path}")


def public_files(directory: Path) -> Iterator[os.DirEntry[str]]:
    """The ``*.public`` of an allow-list, which nobody else may be able to add to. Raises ``KeyFileError``."""
    try:
        with os.scandir(directory) as entries:
            if directory.stat().st_mode & OTHERS_WRITE:
                raise KeyFileError(f"{directory}: can be written by other users; chmod go-w {directory}")
            yield from (entry for entry in entries if entry.name.endswith(".public") and entry.is_file())
    except OSError as error:
        raise KeyFileError(f"{directory}: not a directory of public keys: {error.strerror}") from None


def _read(path: Path, forbidden: int, remedy: str) -> bytes:
    from zmq.utils import z85

    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & forbidden:
                raise KeyFileError(f"{path}: {remedy}")
            text = file.read(KEY_CHARACTERS * 2).strip()
    except OSError as error:
        raise KeyFileError(f"{path}: cannot be read: {error.strerror}; `dispatcher keys new NAME` makes keys") from None
    try:
        if len(text) != KEY_CHARACTERS:
            raise ValueError
        z85.decode(text)
    except (ValueError, KeyError, struct.error):
        raise KeyFileError(
            f"{path}: not a key, which is {KEY_CHARACTERS} characters of Z85; `dispatcher keys new NAME` makes one"
        ) from None
    return text
