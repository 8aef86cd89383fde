"""Where a user belongs, and the ids in receipts."""

from __future__ import annotations

import xxhash

from shards.wire.errors import RequestError


def hash_user(user_id: str) -> int:
    """The 64-bit hash that decides the shard: ``xxh3_64(user_id as UTF-8)``; shard = hash mod N."""
    return xxhash.xxh3_64_intdigest(user_id.encode())


def make_id(generation: str, user_hash: int, seq: int, index: int) -> str:
    """The server's id of one recipient's notification: opaque to others, URL-safe, enough to find it."""
    return f"{generation}-{user_hash:016x}-{seq:x}-{index:x}"


def parse_id(text: str) -> tuple[str, int, int, int]:
    """``(generation, user hash, seq, index)``; ``RequestError`` not_found if it is not one of our ids."""
    try:
        generation, user_hash, seq, index = text.split("-")
        return generation, int(user_hash, 16), int(seq, 16), int(index, 16)
    except ValueError:
        raise RequestError("not_found", f"{text[:80]!r} is not an id that a receipt carried", "id") from None


def is_broadcast(text: str) -> bool:
    """Whether an id is a broadcast's, which is the same in all shards; no generation has a name so short."""
    return text.startswith("b-")
