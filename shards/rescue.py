"""What happens to a damaged journal: it is put aside, and what is readable goes into a new one."""

from __future__ import annotations

from shards.schema import JournalError
from shards.settings import ShardSettings


def rescue(settings: ShardSettings, damage: str) -> None:
    raise JournalError(f"{damage}")
