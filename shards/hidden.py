"""Secrets of the configuration: where they are read from, and how they are kept out of what people see."""

from __future__ import annotations

import json
import os
import stat
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

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
    if not path.is_absolute():  # not every process of the service stands in the same directory
        raise ValueError(f"file:{path} is relative; give the whole path, as in file:/etc/dispatcher/key")
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
    """The text without these secrets, and without the beginning of one where the text was cut."""
    for secret in secrets:
        if len(secret) < REDACTED_MIN:
            continue
        text = text.replace(secret, HIDDEN)
        at = max(0, len(text) - len(secret)) - 1
        while (at := text.find(secret[:REDACTED_MIN], at + 1)) >= 0:
            if secret.startswith(text[at:]):
                text = text[:at] + HIDDEN
                break
    return text


def disguised(secrets: Iterable[str]) -> list[str]:
    """These secrets in every form that a conversation may have them in, for ``redact``."""
    return sorted({form for secret in secrets for form in _forms(secret)}, key=len, reverse=True)


def _forms(secret: str) -> Iterator[str]:
    texts = [secret, *(line.strip() for line in secret.splitlines())]
    scheme, _, token = secret.partition(" ")
    if token and scheme.isalpha():  # as in "Bearer 0a1b2c", of which a service may quote the token alone
        texts.append(token)
    for text in texts:
        yield text
        yield json.dumps(text)[1:-1]
        yield json.dumps(text, ensure_ascii=False)[1:-1]
        yield quote(text)
        yield quote(text, safe="")
        yield quote_plus(text)
        yield from _in_base64(text.encode())


def _in_base64(secret: bytes) -> Iterator[str]:
    """By itself; and the letters that are always the same within something longer, such as "user:secret"."""
    for encode in (b64encode, urlsafe_b64encode):
        yield encode(secret).decode()
        for before in range(3):
            first, last = -(-before * 8 // 6), (before + len(secret)) * 8 // 6
            yield encode(bytes(before) + secret)[first:last].decode()
