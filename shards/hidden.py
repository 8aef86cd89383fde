"""Secrets of the configuration: where they are read from, and how they are kept out of what people see."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

HIDDEN = "***"
ELSEWHERE = ("file:", "env:")  # where a secret may be that is not in the configuration itself
SECRET_BYTES_MAX = 65_536
REDACTED_MIN = 4  # characters: shorter ones stand in any text


class Secret:
    """It shows only as ``***``; ``reveal`` gives it. In the configuration: itself, ``file:PATH``, or ``env:NAME``."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    @classmethod
    def parse(cls, value: object) -> Secret:
        """``ValueError`` says what is wrong, without the value."""
        if not isinstance(value, str) or not value:
            raise ValueError("it is empty or no text; give the secret, or where it is, as in file:/etc/dispatcher/key")
        kind, _, where = value.partition(":")
        if kind == "file":
            return cls(_read(Path(where)))
        if kind == "env":
            if not (found := os.environ.get(where)):
                raise ValueError(f"the environment has no {where}; set it, or name another")
            return cls(found)
        return cls(value)

    def reveal(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return HIDDEN


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(SECRET_BYTES_MAX + 1).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError(f"{path} can be read by others; run: chmod 600 {path}")
    if not text or len(text) > SECRET_BYTES_MAX:
        raise ValueError(f"{path} is empty, or has over {SECRET_BYTES_MAX} bytes")
    return text


def secrets_of(settings: Any) -> list[str]:
    """All secrets in what a provider is made with, the longest first."""
    return sorted(_secrets(settings), key=len, reverse=True)


def _secrets(value: Any) -> Iterable[str]:
    if isinstance(value, Secret):
        yield value.reveal()
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _secrets(getattr(value, name))
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _secrets(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _secrets(one)


def redact(text: str, secrets: Iterable[str]) -> str:
    """The text without these secrets."""
    for secret in secrets:
        if len(secret) >= REDACTED_MIN:
            text = text.replace(secret, HIDDEN)
    return text
