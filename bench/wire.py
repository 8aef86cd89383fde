"""What does it cost to encode and decode a notification? Beside the same as bare dicts."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from bench.report import Figure, medians, options, result, seconds, show
from dispatcher.simulation.workload import batches
from shards.wire.encoding import pack
from shards.wire.notification import Notification, Plain

BATCH = 500


def run(rounds: int = 5, items: int = 100_000) -> dict[str, Any]:
    found = list(batches(1, 0, items, 10_000, 0.0, BATCH))
    messages = [pack(batch) for batch in found]
    dicts = [msgspec.msgpack.decode(message) for message in messages]
    decoded = [msgspec.msgpack.Decoder(list[kind]).decode for kind in (Plain, Notification)]  # type: ignore[valid-type]
    plain, full, bare, encoded, encoded_bare = medians(
        rounds,
        *(partial(_ns, items, decode, messages) for decode in (*decoded, msgspec.msgpack.Decoder().decode)),
        partial(_ns, items, pack, found),
        partial(_ns, items, pack, dicts),
    )
    return result(
        "wire",
        rounds,
        [
            Figure("decode as Plain", plain, bare, "ns/item"),
            Figure("decode as Notification", full, bare, "ns/item"),
            Figure("encode Notification", encoded, encoded_bare, "ns/item"),
        ],
        items=items,
        bytes_per_item=round(sum(map(len, messages)) / items),
    )


def _ns(items: int, code: Any, batches: list[Any]) -> float:
    def work() -> None:
        for batch in batches:
            code(batch)

    return seconds(work) / items * 1e9


def main() -> None:
    chosen = options("bench.wire", __doc__, 5, items=100_000)
    show(run(chosen.rounds, chosen.items), chosen.json)


if __name__ == "__main__":
    main()
