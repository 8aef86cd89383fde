"""The options of a provider: read by the ``Settings`` of its class, which may hold durations and secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from shards import units
from shards.hidden import Secret


def decode_hook(kind: type[Any], value: object) -> Any:
    """``dec_hook`` for msgspec: durations, and secrets, which are fetched from where they are."""
    return Secret.parse(value) if kind is Secret else units.decode_hook(kind, value)


def read(provider: type[Any], options: Mapping[str, Any]) -> Any:
    """What a provider's class is made with. Raises ``msgspec.ValidationError``."""
    kind = getattr(provider, "Settings", None)
    return dict(options) if kind is None else msgspec.convert(options, kind, dec_hook=decode_hook)
