"""Digests, as the files say them: every item is in one, every window becomes one delivery with one id."""

from __future__ import annotations

import sqlite3
from collections import Counter
from typing import Any, NamedTuple

import msgspec

from shards import ledger
from shards.frames import Entry
from shards.wire.notification import Notification
from tests.simulation.policies import Policies
from tests.simulation.stored import Place, Stored, is_digest_item, plainly
from tests.simulation.waiting import Waiting
from tests.simulation.wire import Clock

PLACE_SHIFT = 16
MARGIN_MS = 1_000


class Window(NamedTuple):
    """A row of the table, in the order of its columns and of the fields of its value."""

    id: str
    user_id: str
    channel: str
    category: str
    name: str
    lane: int
    opened_ms: int
    due_ms: int | None
    places: tuple[int, ...]
    carrier: int | None
    withdrawn: tuple[int, ...]

    @classmethod
    def of(cls, blob: bytes) -> Window:
        values: list[Any] = msgspec.msgpack.decode(blob)
        id_, user_id, channel, category, name, _, _, lane, opened_ms, due_ms, places, _, carrier, _, withdrawn = values
        return cls(
            id_, user_id, channel, category, name, lane, opened_ms, due_ms, tuple(places), carrier, tuple(withdrawn)
        )


class Windows:
    """``read`` after every commit, after ``stored`` and ``waiting`` have."""

    def __init__(self, stored: Stored, waiting: Waiting, policies: Policies, clock: Clock) -> None:
        self.reached: Counter[str] = Counter()  # rare states
        self.carriers: dict[Place, Window] = {}  # deliveries that a digest is sent by way of
        self.took_over: set[Place] = set()  # carriers in the place of one that was cancelled: with what it was charged
        self.lives = 0
        self._stored = stored
        self._waiting = waiting
        self._policies = policies
        self._clock = clock
        self._rows: dict[str, tuple[int, Window]] = {}  # with the checksum of the row
        self._windows: dict[str, Window] = {}
        self._digest_of: dict[Place, str] = {}  # of every delivery that ever was an item
        self.ever_carried: set[Place] = set()
        self._life: dict[str, int] = {}  # in which a window opened

    # --- at a commit -------------------------------------------------------------------------------------------

    def read(self, database: sqlite3.Connection) -> None:
        before, self._windows = self._windows, {}
        rows: dict[str, tuple[int, Window]] = {}
        for id_, crc, blob in plainly(database)("SELECT id, crc, value FROM digests"):
            known = self._rows.get(id_)
            rows[id_] = known if known is not None and known[0] == crc else (crc, Window.of(blob))
            self._windows[id_] = rows[id_][1]
        self._rows = rows
        changed = {id_ for id_, window in self._windows.items() if before.get(id_) != window} | (
            before.keys() - self._windows.keys()
        )
        for id_ in sorted(changed):
            old, new = before.get(id_), self._windows.get(id_)
            if old is None:
                assert new is not None
                self._opened(new)
            if new is None:
                assert old is not None
                self._went(old)
            else:
                self._changed(old, new)
        self.carriers = {
            self._place(window, window.carrier): window
            for window in self._windows.values()
            if window.carrier is not None and window.carrier >> PLACE_SHIFT not in self._stored.pruned
        }
        self.ever_carried |= self.carriers.keys()
        self._items_are_where_they_wait()
        self._ended_alike()

    def _place(self, window: Window, place: int) -> Place:
        """The delivery that an item is."""
        seq, index = place >> PLACE_SHIFT, place & (1 << PLACE_SHIFT) - 1
        names = self._stored.channel_names
        for slot in self._stored.slots_of(seq, index):
            if names[ledger.channel_of(self._stored.words[seq][slot])] == window.channel:
                return seq, slot
        raise AssertionError(f"digest {window.id}: {place} has no delivery on {window.channel}")

    def _opened(self, new: Window) -> None:
        assert new.id not in self._life, f"digest {new.id} is there again"
        self._life[new.id] = self.lives
        settings = self._policies.digests[new.name]
        self.reached["joined by overflow"] += settings.when == "overflow"
        assert settings.covers(new.category, new.channel), f"digest {new.id} of {new.category} on {new.channel}"

    def _changed(self, old: Window | None, new: Window) -> None:
        what, stored = f"digest {new.id}", self._stored
        fresh = [place for place in new.places if old is None or place not in old.places]
        for place in fresh:
            item = self._place(new, place)
            assert item not in self._digest_of, f"{what}: {item} is in {self._digest_of[item]} as well"
            self._digest_of[item] = new.id
            sent = stored.sent(item)
            assert (sent.user_id, sent.planned()[2]) == (new.user_id, new.category), f"{what} is not for {sent}"
        gone = [self._place(new, place) for place in old.places if place not in new.places] if old else []
        for item in gone:
            outcome = ledger.outcome_of(stored.words[item[0]][item[1]])
            assert outcome in {ledger.CANCELLED, ledger.EXPIRED}, f"{what} has lost {item}"
            self.reached["items cancelled"] += outcome == ledger.CANCELLED
        settings = self._policies.digests[new.name]
        assert len(new.places) <= settings.items_max, f"B: {what} has {len(new.places)} items"
        if old is not None and old.due_ms is None:
            assert new.due_ms is None, f"{what} was closed, and is open again"
            assert not fresh, f"{what} was closed, and {fresh} join it"
            if new.carrier != old.carrier and new.carrier is not None:
                self.reached["carriers cancelled"] += 1
                self.took_over.add(self._place(new, new.carrier))
                assert old.carrier not in new.places, f"{what} has another carrier"
        elif new.due_ms is None:
            due_ms = self._due_ms(old, new, fresh) if old else new.opened_ms
            assert due_ms <= self._waiting.latest_ms, f"{what} is closed, and was open until {due_ms}"
            assert new.places, f"{what} is empty, and sent"
            assert new.carrier == new.places[0], f"{what} is sent by way of {new.carrier}"
            self.reached["digests of several items"] += len(new.places) > 1
            self.reached["digests of several frames"] += len({place >> PLACE_SHIFT for place in new.places}) > 1
            self.reached["digests across a crash"] += self._life[new.id] != self.lives
        else:
            wanted_ms = self._due_ms(old, new, fresh)
            assert new.due_ms <= max(wanted_ms, self._clock.wall_us // 1000), (
                f"{what} is open until {new.due_ms}, not {wanted_ms}"
            )

    def _due_ms(self, old: Window | None, new: Window, fresh: list[int]) -> int:
        """Until when a window may be open, at the most."""
        settings, now_ms = self._policies.digests[new.name], self._clock.wall_us // 1000
        due_ms = old.due_ms if old and old.due_ms is not None else new.opened_ms + int(settings.window * 1000)
        for place in fresh:
            expires_ms = (self._stored.sent(self._place(new, place)).said or {}).get("expires_at")
            if expires_ms is not None:
                due_ms = min(due_ms, max(now_ms, expires_ms - MARGIN_MS))
        if len(new.places) >= settings.items_max:
            self.reached["digests full"] += 1
            due_ms = min(due_ms, now_ms)
        return due_ms

    def _went(self, old: Window) -> None:
        for place in old.places:
            if place >> PLACE_SHIFT in self._stored.pruned:
                continue
            seq, slot = self._place(old, place)
            outcome = ledger.outcome_of(self._stored.words[seq][slot])
            assert old.carrier is not None or outcome in {ledger.CANCELLED, ledger.EXPIRED}, (
                f"digest {old.id} went, and {(seq, slot)} was in it"
            )
            assert outcome not in ledger.OPEN, f"digest {old.id} went, and {(seq, slot)} is open"
        self.reached["empty digests"] += old.due_ms is not None

    def _items_are_where_they_wait(self) -> None:
        stored = self._stored
        wanted: Counter[Place] = Counter()
        for window in self._windows.values():
            if window.due_ms is not None:
                wanted.update(self._place(window, place) for place in window.places)
        for carrier, window in self.carriers.items():
            if carrier in stored.open:
                wanted.update(
                    item
                    for place in window.places
                    if place != window.carrier and place >> PLACE_SHIFT not in stored.pruned
                    if (item := self._place(window, place)) in stored.open
                )
        twice = [place for place, count in wanted.items() if count > 1]
        assert not twice, f"digests: {twice} are in several"
        found = {place for place, word in stored.open.items() if is_digest_item(word)}
        assert found == wanted.keys(), f"digests: {found ^ wanted.keys()} wait for one, or are waited for"

    def _ended_alike(self) -> None:
        """Each item has its digest's outcome, from the same commit on."""
        for place, _, new in self._stored.changed:
            outcome = ledger.outcome_of(new)
            came_along = self.came_along(place)
            assert came_along or outcome != ledger.DELIVERED or ledger.attempts_of(new), f"C: {place} was not sent"
            if not came_along or place in self._stored.revived:
                continue
            if outcome in ledger.OPEN or outcome == ledger.CANCELLED:
                continue
            window = self._windows.get(self._digest_of[place])
            if outcome == ledger.EXPIRED and (
                window is None
                or window.due_ms is not None
                or place not in {self._place(window, one) for one in window.places}
            ):
                expires_ms = (self._stored.sent(place).said or {}).get("expires_at", 2**62)
                assert expires_ms <= self._waiting.latest_ms, f"{place} expired early in its digest"
                continue
            assert window is not None, f"{place} ended as {new:#x}, and its digest is no more"
            assert window.carrier is not None, f"{place} ended as {new:#x}, and its digest is open"
            seq, slot = self._place(window, window.carrier)
            carried = self._stored.words[seq][slot]
            same = ledger.outcome_of(carried) == outcome
            assert same, f"{place} ended as {new:#x}, and its digest as {carried:#x}"

    def first_due_ms(self) -> dict[int, int]:
        """By lane, when its first window closes."""
        first: dict[int, int] = {}
        for window in self._windows.values():
            if window.due_ms is not None:
                first[window.lane] = min(window.due_ms, first.get(window.lane, window.due_ms))
        return first

    def came_along(self, place: Place) -> bool:
        """Whether a delivery was an item that another one carried."""
        return place in self._digest_of and place not in self.ever_carried

    # --- at an attempt -----------------------------------------------------------------------------------------

    def check_start(self, entry: Entry, said: Notification) -> bool:
        """Whether a digest is sent here: with its one id, and with what is left of its items."""
        frame, slot, _, user, key = entry
        window = self.carriers.get((frame.seq, slot))
        assert (window is not None) == (slot in frame.digests), f"D: {(frame.seq, slot)} is sent for a digest, or not"
        if window is None:
            return False
        self.reached["digests sent"] += 1
        assert (key, said.id, user.user_id) == (window.id, window.id, window.user_id), f"D: {window.id} goes as {key}"
        assert said.payload is not None
        count = said.payload["count"]
        wanted = sum(place >> PLACE_SHIFT not in self._stored.pruned for place in window.places)
        assert count == wanted, f"{window.id} tells of {count} items, and has {wanted}"
        return True
