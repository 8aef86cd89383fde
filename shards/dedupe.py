"""The idempotency set: which (user, key) was seen within the window, and in which frame.

Digests are 128 bits of XXH3, seeded with a secret of the installation so that nobody can construct collisions. The
set is split by the digest's first byte: a Python dict grows by copying itself, and 256 small copies cause no pause
where one large copy would.
"""

from __future__ import annotations

import xxhash

PARTITIONS = 256
DIGEST_BYTES = 16
NO_DIGEST = bytes(DIGEST_BYTES)  # stands for a notification without a key, so that digests are found by position


class IdempotencySet:
    """Maps digests to the frame that holds the original. What expires is for the owner to say."""

    def __init__(self, secret: int) -> None:
        self._secret = secret
        self._tables: list[dict[bytes, int]] = [{} for _ in range(PARTITIONS)]

    def __len__(self) -> int:
        return sum(map(len, self._tables))

    def digest(self, user_id: str, key: str) -> bytes:
        return xxhash.xxh3_128_digest(f"{user_id}\0{key}".encode(), self._secret)

    def digests(self, user_ids: list[str], keys: list[str]) -> list[bytes]:
        digest, secret = xxhash.xxh3_128_digest, self._secret
        return [digest(f"{user_id}\0{key}".encode(), secret) for user_id, key in zip(user_ids, keys, strict=True)]

    def find(self, digest: bytes) -> int | None:
        """The ``seq`` of the frame that holds the original."""
        return self._tables[digest[0]].get(digest)

    def add(self, digest: bytes, seq: int) -> None:
        self._tables[digest[0]][digest] = seq

    def claim(self, digests: list[bytes], seq: int) -> list[int]:
        """For each digest the frame that holds the original; those that are new are now of frame ``seq``."""
        tables = self._tables
        return [tables[digest[0]].setdefault(digest, seq) for digest in digests]

    def add_frame(self, seq: int, digests: bytes) -> None:
        """Learn a frame's digests, as they stand in the journal."""
        for start in range(0, len(digests), DIGEST_BYTES):
            digest = digests[start : start + DIGEST_BYTES]
            if digest != NO_DIGEST:
                self._tables[digest[0]][digest] = seq

    def forget_frame(self, seq: int, digests: bytes) -> int:
        """Drop a frame's digests, as its window is over; how many those were."""
        forgotten = 0
        for start in range(0, len(digests), DIGEST_BYTES):
            digest = digests[start : start + DIGEST_BYTES]
            table = self._tables[digest[0]]
            if table.get(digest) == seq:
                del table[digest]
                forgotten += 1
        return forgotten
