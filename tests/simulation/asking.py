"""What operators and users ask for, and what the answers promise: it is durable, and true."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from shards import ledger
from shards.inbox import PLACE_SHIFT
from shards.preferences import UserDocument
from shards.wire import Query, Reply, Request, hash_user, make_id
from tests.simulation.receipts import Receipts
from tests.simulation.stored import Stored

Key = tuple[str, str | int]
Ask = Callable[[], tuple[Request, Callable[[Reply], None]]]


def signed(user_id: str) -> int:
    unsigned = hash_user(user_id)
    return unsigned - 2**64 if unsigned >= 2**63 else unsigned


class Asking:
    """Draws requests, and checks the replies to them. A change that was answered is found after any crash; of those
    that were not answered, each may have happened or not."""

    def __init__(self, random: Random, users: list[str], stored: Stored, receipts: Receipts) -> None:
        self.answered = 0
        self._random = random
        self._users = users
        self._stored = stored
        self._receipts = receipts
        self._number = 0
        self._asked: dict[int, Callable[[Reply], None]] = {}
        self._possible: dict[Key, list[tuple[int, Any]]] = {}  # number of the query, and the value it sets
        self._replays = random.random() < 0.5
        self.generation = ""
        self.inbox: dict[str, list[int]] = {}  # places

    def next(self) -> Query:
        self._number += 1
        asks: list[Ask] = [self._stats, self._list, self._status, self._status, self._put, self._delete, self._mark]
        if self._replays:
            asks += [self._replay, self._replay, self._replay, self._purge]
        request, check = self._random.choice(asks)()
        self._asked[self._number] = check
        return Query(self._number, request)

    def hear(self, reply: Reply) -> None:
        if reply.error is not None and reply.error.code == "unavailable":
            return  # whether it was done is unknown
        self._asked[reply.query](reply)
        self.answered += 1

    # --- requests ----------------------------------------------------------------------------------------------

    def _stats(self) -> tuple[Request, Callable[[Reply], None]]:
        def check(reply: Reply) -> None:
            counts = reply.result
            planned = sum(channel["planned"] for channel in counts["channels"].values())
            finals = sum(sum(channel["outcomes"].values()) for channel in counts["channels"].values())
            assert planned == finals + counts["pending"], "C: as the stats operation says it"

        return Request("stats"), check

    def _list(self) -> tuple[Request, Callable[[Reply], None]]:
        def check(reply: Reply) -> None:
            numbers = [item["cursor"] for item in reply.result["items"]]
            assert numbers == sorted(set(numbers)), f"inbox.list has {numbers}"

        return Request("inbox.list", user_id=self._random.choice(self._users)), check

    def _status(self) -> tuple[Request, Callable[[Reply], None]]:
        receipt = self._receipts.draw(self._random)
        if receipt is None:
            return self._stats()
        by_key = receipt.sent.key is not None and self._random.random() < 0.5

        def check(reply: Reply) -> None:
            if reply.error is not None:
                assert reply.error.code == "not_found", reply.error
                may_miss = self._receipts.may_be_forgotten if by_key else self._receipts.is_pruned
                assert may_miss(receipt), f"A: {receipt} is not found by {'key' if by_key else 'id'}"
                return
            if by_key:
                self._receipts.check_original(reply.result["id"], receipt.sent)
            else:
                assert reply.result["id"] == receipt.id, f"status of {receipt} gave {reply.result['id']}"
                self._check_deliveries(receipt.seq, reply.result["deliveries"], receipt.sent.planned()[0])

        if by_key:
            return Request("status", user_id=receipt.sent.user_id, idempotency_key=receipt.sent.key), check
        return Request("status", id=receipt.id), check

    def _check_deliveries(self, seq: int, deliveries: list[dict[str, Any]], channels: tuple[str, ...]) -> None:
        """What is said to be final is stored as that: the answer left after the commit."""
        assert tuple(one["channel"] for one in deliveries) == channels, f"status: {deliveries}, not {channels}"
        stored = {
            (self._stored.channel_names[ledger.channel_of(word)], ledger.OUTCOMES[ledger.outcome_of(word)])
            for word in self._stored.words[seq]
        }
        for one in deliveries:
            if one["outcome"] not in {"pending", "retrying", "dead"}:
                assert (one["channel"], one["outcome"]) in stored, f"status: frame {seq} has {one}, stored is {stored}"

    def _put(self) -> tuple[Request, Callable[[Reply], None]]:
        random, user_id = self._random, self._random.choice(self._users)
        channels = {name: False for name in ("email", "push", "inapp") if random.random() < 0.5}
        categories = random.choice(({}, {"marketing": False}, {"marketing": {"email": False}}))
        preferences = {"channels": channels, "categories": categories}
        document = msgspec.to_builtins(msgspec.convert({"preferences": preferences}, UserDocument))
        return Request("user.put", user_id=user_id, user=document), self._sets({("user", user_id): document})

    def _delete(self) -> tuple[Request, Callable[[Reply], None]]:
        user_id = self._random.choice(self._users)
        return Request("user.delete", user_id=user_id), self._sets({("user", user_id): None})

    def _mark(self) -> tuple[Request, Callable[[Reply], None]]:
        user_id = self._random.choice(self._users)
        places = self.inbox.get(user_id, [])[-20:]
        if not places:
            return self._list()
        chosen = self._random.sample(places, self._random.randint(1, min(3, len(places))))
        state = self._random.choice(("seen", "read", "archived"))
        ids = [
            make_id(self.generation, hash_user(user_id), place >> PLACE_SHIFT, place & (1 << PLACE_SHIFT) - 1)
            for place in chosen
        ]
        marks: dict[Key, Any] = {(user_id, place): state for place in chosen}
        return Request("inbox.mark", user_id=user_id, ids=ids, state=state), self._sets(marks)  # type: ignore[arg-type]

    def _replay(self) -> tuple[Request, Callable[[Reply], None]]:
        return Request("dead.replay", limit=self._random.randint(1, 8)), _is_count

    def _purge(self) -> tuple[Request, Callable[[Reply], None]]:
        return Request("dead.purge", limit=self._random.randint(1, 8)), _is_count

    # --- what an answer promises -------------------------------------------------------------------------------

    def _sets(self, values: dict[Key, Any]) -> Callable[[Reply], None]:
        number = self._number
        for key, value in values.items():
            self._possible.setdefault(key, [(0, None)]).append((number, value))

        def check(reply: Reply) -> None:
            for key in values:
                possible = self._possible[key]
                if reply.error is not None:
                    assert reply.error.code == "not_found", reply.error
                    possible[:] = [one for one in possible if one[0] != number]
                else:
                    possible[:] = [one for one in possible if one[0] >= number]

        return check

    def check_stored(self, database: sqlite3.Connection) -> None:
        documents = dict(sqlite3.Connection.execute(database, "SELECT user_id, document FROM users"))
        states = {
            (user_hash, place): state
            for user_hash, place, state in sqlite3.Connection.execute(
                database, "SELECT user_hash, place, state FROM inbox_marks"
            )
        }
        for key, possible in self._possible.items():
            kind, which = key
            found: Any
            if kind == "user":
                blob = documents.get(which)
                found = msgspec.to_builtins(msgspec.msgpack.decode(blob, type=UserDocument)) if blob else None
            else:
                found = states.get((signed(kind), which))
            values = [value for _, value in possible]
            assert found in values, f"A: {key} is {found}, and was answered to be one of {values}"


def _is_count(reply: Reply) -> None:
    assert reply.error is not None or reply.result["count"] >= 0, reply
