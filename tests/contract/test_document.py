"""docs/protocol.md is complete, and its examples are true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec

from shards.wire.errors import Code
from shards.wire.ids import hash_user
from shards.wire.notification import CHANNELS, Notification
from shards.wire.requests import OPERATIONS
from tests.support.service import RunningDispatcher, wait_until

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```json title=\"(\w+)\"\n(.*?)```", TEXT, re.DOTALL)
VARYING = ("message", "last_error", "version", "generation")
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{16}-[0-9a-f]+-[0-9a-f]+|[0-9a-f]{1,2}-[0-9a-f]{8,16}")  # or a token


def test_everything_is_named() -> None:
    keys = [field.name for field in msgspec.structs.fields(Notification)]
    for name in (*get_args(Code), *OPERATIONS, *keys, *CHANNELS):
        assert f"`{name}`" in TEXT, name


def test_the_hashes_are_true() -> None:
    rows = re.findall(r"\| `(.+)` \| `([0-9a-f]{16})` \| (\d) \| (\d) \|", TEXT)
    assert len(rows) == 5
    for user_id, hexadecimal, of_two, of_eight in rows:
        hashed = hash_user(user_id)
        assert (f"{hashed:016x}", hashed % 2, hashed % 8) == (hexadecimal, int(of_two), int(of_eight))


def covers(actual: Any, example: Any, ids: dict[str, str]) -> bool:
    """Whether the answer has all that the example has, numbers and texts that vary aside.

    ``ids`` learns what stands for the example's ids.
    """
    if isinstance(example, dict):
        return isinstance(actual, dict) and all(
            key in actual and (key in VARYING or covers(actual[key], example[key], ids)) for key in example
        )
    if isinstance(example, list):
        return (
            isinstance(actual, list)
            and len(actual) >= len(example)
            and all(covers(one, wanted, ids) for one, wanted in zip(actual, example, strict=False))
        )
    if isinstance(example, str) and (known := ID.match(example)):
        found = ID.match(actual) if isinstance(actual, str) else None
        same = found is not None and actual[found.end() :] == example[known.end() :]
        return same and found is not None and found[0] == ids.setdefault(known[0], found[0])
    if isinstance(example, int | float) and not isinstance(example, bool):
        return isinstance(actual, int | float)
    return bool(actual == example)


def substituted(text: str, ids: dict[str, str]) -> Any:
    return json.loads(ID.sub(lambda found: ids.get(found[0], found[0]), text))


def test_the_examples_are_true(service: RunningDispatcher) -> None:
    """In their order; requests that share an answer stand before it."""
    service.client.submit({"user_id": "ada", "title": "Hello", "channels": ["webhook"], "idempotency_key": "webhook"})
    ids: dict[str, str] = {}
    requests: list[str] = []
    answered = 0
    for kind, text in BLOCKS:
        if kind == "request":
            requests.append(text)
        elif kind == "ingest":
            service.ingested(text.encode())
        else:
            for request in requests:
                if '"dead.list"' in request:
                    dead = service.request("status", user_id="ada", idempotency_key="webhook")["id"]
                    ids["0f06c60c-691d4463952c802f-2-0"] = dead

                def answers(request: str = request, text: str = text) -> bool:
                    answer = service.client.exchange(substituted(request, ids), as_json=True)
                    return covers(answer, json.loads(text), ids)

                wait_until(answers, 5.0, f"the answer to {request}")
                answered += 1
            requests = []
    assert answered >= 12
    assert not requests
