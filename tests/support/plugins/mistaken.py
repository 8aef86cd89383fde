"""Channels of plug-ins with mistakes that a start finds."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import msgspec


class Fine:
    name = "fine"

    def __init__(self, settings: Any, context: Any) -> None:
        pass

    def supports_recipient(self, recipient: Any) -> bool:
        return True

    async def send(self, delivery: Any) -> None:
        pass


class AtOnce(Fine):
    @staticmethod
    async def send(delivery: Any) -> None:
        pass


class WithoutSend:
    supports_recipient = Fine.supports_recipient


class WithoutContext(Fine):
    def __init__(self, settings: Any) -> None:
        pass


class WithMore(Fine):
    async def send(self, delivery: Any, timeout_s: float) -> None:  # type: ignore[override]  # the mistake
        pass


class ForNobody(Fine):
    def supports_recipient(self) -> bool:  # type: ignore[override]  # the mistake
        return True


class AsksFirst(Fine):
    async def supports_recipient(self, recipient: Any) -> bool:  # type: ignore[override]  # the mistake
        return True


class ByDataclass(Fine):
    @dataclass
    class Settings:
        url: str = ""


class Leaves(Fine):
    class Settings(msgspec.Struct):
        def __post_init__(self) -> None:
            sys.exit("no licence")


class Stumbles(Fine):
    class Settings(msgspec.Struct):
        def __post_init__(self) -> None:
            raise KeyError("licence")
