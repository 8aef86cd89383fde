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
    """What a provider's class is made with. Raises ``msgspec.ValidationError``, whatever its ``Settings`` raise."""
    kind = getattr(provider, "Settings", None)
    if kind is None:
        return dict(options)
    try:
        return msgspec.convert(options, kind, dec_hook=decode_hook)
    except msgspec.ValidationError:
        raise
    except (Exception, SystemExit) as error:  # of a plug-in's ``__post_init__``
        raise msgspec.ValidationError(f"{kind.__qualname__} raises {type(error).__name__}: {error}") from error
