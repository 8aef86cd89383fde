"""What operators and users ask for, and what the answers promise: it is durable, and true."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from shards import ledger
from shards.inbox import PLACE_SHIFT
from shards.preferences import UserDocument
from shards.wire.control import Query, Reply
from shards.wire.ids import hash_user, make_id, parse_id
from shards.wire.requests import Request
from tests.simulation.receipts import Receipts
from tests.simulation.stored import Place, Stored
from tests.simulation.wire import Clock

ZONES = ("Europe/Paris", "America/New_York", "Asia/Kolkata", "Pacific/Apia", None)
CONTACTS: dict[str, Any] = {"email": "a@example.org", "phone": "+33612345678"}

Key = tuple[str, str | int]
Ask = Callable[[], tuple[Request, Callable[[Reply], None]]]


def signed(user_id: str) -> int:
    unsigned = hash_user(user_id)
    return unsigned - 2**64 if unsigned >= 2**63 else unsigned


class Asking:
    """Draws requests, and checks the replies to them. A change that was answered is found after any crash; of those
    that were not answered, each may have happened or not."""

    def __init__(self, random: Random, clock: Clock, users: list[str], stored: Stored, receipts: Receipts) -> None:
        self.answered = 0
        self.cancelled = 0  # deliveries, as they were counted
        self.under_way = 0  # deliveries that were, when their notification was cancelled
        self._counted: Counter[Place] = Counter()
        self._clock = clock
        self._random = random
        self._users = users
        self._stored = stored
        self._receipts = receipts
        self._number = 0
        self._asked: dict[int, Callable[[Reply], None]] = {}
        self._possible: dict[Key, list[tuple[int, Any]]] = {}  # number of the query, and the value it sets
        self._replays = random.random() < 0.5
        self._cancels = random.choice((1, 4, 12))
        self._cancel_of: dict[int, tuple[Place, bool]] = {}  # by query: which notification, and whether by its id
        self.generation = ""
        self.inbox: dict[str, list[int]] = {}  # places

    def next(self) -> Query:
        self._number += 1
        asks: list[Ask] = [self._stats, self._list, self._status, self._put, self._put, self._delete, self._mark]
        asks += [self._explain] + [self._cancel] * self._cancels
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

    def leaves(self, reply: Reply) -> None:
        """A reply leaves the shard: the turn that it is of is committed."""
        if reply.query not in self._cancel_of or (reply.error is not None and reply.error.code != "already_final"):
            return
        (seq, index), by_id = self._cancel_of[reply.query]
        slots = self._stored.slots_of(seq, index)
        still_open = [slot for slot in slots if (seq, slot) in self._stored.open]
        if reply.error is not None:
            left = [slot for slot in still_open if (seq, slot) not in self._stored.revived]
            assert not left or not by_id, f"cancel: {(seq, index)} is already final, and {left} are open"
            return
        if not by_id:
            return  # the key may be another notification's by now
        self._counted[seq, index] += reply.result["cancelled"]
        gone = sum(ledger.outcome_of(self._stored.words[seq][slot]) == ledger.CANCELLED for slot in slots)
        assert self._counted[seq, index] <= gone, f"cancel: of {(seq, index)} {gone} are cancelled, not {reply.result}"
        self.cancelled += reply.result["cancelled"]
        self.under_way += len(still_open)
        # without those that another request has replayed since
        self._stored.withdrawn |= {(seq, slot) for slot in still_open} - self._stored.revived

    # --- requests ----------------------------------------------------------------------------------------------

    def _stats(self) -> tuple[Request, Callable[[Reply], None]]:
        def check(reply: Reply) -> None:
            counts = reply.result
            planned = sum(channel["planned"] for channel in counts["channels"].values())
            finals = sum(sum(channel["outcomes"].values()) for channel in counts["channels"].values())
            assert planned == finals + counts["pending"], "C: as the stats operation says it"

        return Request("stats"), check

    def _explain(self) -> tuple[Request, Callable[[Reply], None]]:
        """What it charges or changes, the checks of limits and memory find."""
        category = self._random.choice(("system", "transaction", "marketing", "security"))
        notification = {"user_id": self._random.choice(self._users), "title": "t", "category": category}

        def check(reply: Reply) -> None:
            assert reply.error is None, f"explain: {reply.error}"
            assert reply.result["decisions"][-1]["step"] == "outcome"

        return Request("explain", notification=notification), check

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
        said = tuple(one["channel"] for one in deliveries)
        moved = {name for name in said if name not in channels} <= {"inapp"} and len(said) == len(channels)
        assert said == channels or moved, f"status: {deliveries}, not {channels}"
        stored = {
            (self._stored.channel_names[ledger.channel_of(word)], ledger.OUTCOMES[ledger.outcome_of(word)])
            for word in self._stored.words[seq]
        }
        for one in deliveries:
            if one["outcome"] not in {"pending", "retrying", "deferred", "dead"}:
                assert (one["channel"], one["outcome"]) in stored, f"status: frame {seq} has {one}, stored is {stored}"

    def _cancel(self) -> tuple[Request, Callable[[Reply], None]]:
        receipt = self._receipts.draw_open(self._random) if self._random.random() < 0.8 else None
        receipt = receipt or self._receipts.draw(self._random)
        if receipt is None:
            return self._stats()
        by_key = receipt.sent.key is not None and self._random.random() < 0.3
        place = receipt.seq, parse_id(receipt.id)[3]
        self._cancel_of[self._number] = place, not by_key
        self._stored.unwanted.add(place)
        if by_key:
            self._stored.unwanted.add((receipt.sent.user_id, receipt.sent.key))

        def check(reply: Reply) -> None:
            if reply.error is None:
                assert reply.result["cancelled"] >= 0, reply
            elif reply.error.code == "not_found":
                may_miss = self._receipts.may_be_forgotten if by_key else self._receipts.is_pruned
                assert may_miss(receipt), f"cancel: {receipt} is not found by {'key' if by_key else 'id'}"
            else:
                assert reply.error.code == "already_final", reply.error

        if by_key:
            return Request("cancel", user_id=receipt.sent.user_id, idempotency_key=receipt.sent.key), check
        return Request("cancel", id=receipt.id), check

    def _quiet_hours(self, zone: str | None) -> dict[str, Any]:
        """Around this time of the user's day, so that they begin and end within the run."""
        now = datetime.fromtimestamp(self._clock.wall_us / 1e6, ZoneInfo(zone or "UTC"))
        start = now + timedelta(minutes=self._random.choice((-400, -30, 2, 60)))
        end = now + timedelta(minutes=self._random.choice((1, 3, 90, 500)))
        return {"start": start.strftime("%H:%M"), "end": end.strftime("%H:%M")}

    def _put(self) -> tuple[Request, Callable[[Reply], None]]:
        random, user_id = self._random, self._random.choice(self._users)
        channels = {name: False for name in ("email", "push", "inapp") if random.random() < 0.2}
        categories = random.choice(({}, {}, {"marketing": False}, {"social": {"email": False}}))
        preferences: dict[str, Any] = {"channels": channels, "categories": categories}
        said: dict[str, Any] = {"preferences": preferences}
        if zone := random.choice(ZONES):
            said["timezone"] = zone
        if random.random() < 0.5:
            preferences["quiet_hours"] = self._quiet_hours(zone)
        if random.random() < 0.3:
            said["contacts"] = {name: value for name, value in CONTACTS.items() if random.random() < 0.7}
        document = msgspec.to_builtins(msgspec.convert(said, UserDocument))
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
