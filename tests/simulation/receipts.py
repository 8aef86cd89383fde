"""Invariant A as producers see it: what a receipt named is found, and each key was accepted once in its window."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import NamedTuple

from shards.dedupe import IdempotencySet
from shards.wire.ids import hash_user, make_id, parse_id
from tests.simulation.producer import Sent
from tests.simulation.router import Acknowledged
from tests.simulation.stored import Stored


class Receipt(NamedTuple):
    id: str
    seq: int
    sent: Sent


class Receipts:
    """``window_s`` and ``max_entries`` are those of the idempotency set: they say what it may forget."""

    def __init__(self, stored: Stored, window_s: float, max_entries: int) -> None:
        self.generation = ""
        self.all: list[Receipt] = []
        self._stored = stored
        self._window_us = int(window_s * 1e6)
        self._max_entries = max_entries
        self._walls: list[tuple[int, int]] = []  # (last frame, wall time) when turns began, and lives
        self._seqs: set[int] = set()
        self._accepted: dict[tuple[str, str], list[int]] = {}

    def draw(self, random: Random) -> Receipt | None:
        return random.choice(self.all) if self.all else None

    def draw_open(self, random: Random) -> Receipt | None:
        """One of those that still have something to lose."""
        seqs = {seq for seq, _ in self._stored.open}
        found = [receipt for receipt in self.all if receipt.seq in seqs]
        return random.choice(found) if found else None

    def turn(self, wall_us: int) -> None:
        self._walls.append((len(self._stored.at_us), wall_us))

    def acknowledge(self, one: Acknowledged) -> None:
        """What is bad was rejected, and nothing else; a duplicate has its original's id."""
        seq, positions = one.seq, one.submission.positions
        assert seq not in self._seqs, f"frame {seq} was acknowledged twice"
        self._seqs.add(seq)
        rejected = {rejection.index for rejection in one.verdict.rejected} if one.verdict else set()
        refused = one.submission.is_unjudgeable
        wanted = {at for at, position in enumerate(positions) if refused or position.said is None}
        assert rejected == wanted, f"frame {seq}: rejected {rejected}, and wrong are {wanted}"
        repeated = {duplicate.index: duplicate for duplicate in one.verdict.duplicates} if one.verdict else {}
        for at, sent in enumerate(positions):
            if at in rejected:
                continue
            if at in repeated:
                original = self.check_original(repeated[at].id, sent)
                assert repeated[at].mismatch == (original.said != sent.said), f"frame {seq}: mismatch of {at}"
                continue
            self.all.append(Receipt(make_id(self.generation, hash_user(sent.user_id), seq, at), seq, sent))
            if sent.key is not None:
                self._accepted.setdefault((sent.user_id, sent.key), []).append(seq)

    def check_original(self, id: str, sent: Sent) -> Sent:
        generation, _, seq, index = parse_id(id)
        assert generation == self.generation, f"A: {id} is of another journal"
        original = self._stored.entered[seq].positions[index]
        assert sent.key is not None, f"{sent} has no key, and is a duplicate of {id}"
        assert (original.user_id, original.key) == (sent.user_id, sent.key), f"{id} is {original}, not {sent}"
        return original

    def is_pruned(self, receipt: Receipt) -> bool:
        return receipt.seq in self._stored.pruned

    def may_be_forgotten(self, receipt: Receipt) -> bool:
        """By its key: it is out of the window, or a bound has shortened that. (Its id stays valid.)"""
        return self._forgotten(receipt.seq, len(self._stored.at_us) + 1)

    def _forgotten(self, seq: int, until: int) -> bool:
        """Whether the set may have lost a frame's keys by the time of frame ``until``."""
        since_us = self._stored.at_us[seq] + self._window_us
        is_late = any(wall_us > since_us for last, wall_us in self._walls if seq <= last <= until)
        entries = sum(len(self._stored.digests[one]) for one in range(seq, until))
        return seq in self._stored.pruned or is_late or entries > self._max_entries

    def check_set(self, known: IdempotencySet) -> None:
        """Every key inside the window and the bound is known. It was forgotten for good if the wall clock was ever
        past its window."""
        entries, latest_us, turn = 0, 0, len(self._walls)
        for seq in range(len(self._stored.at_us), 0, -1):
            while turn and self._walls[turn - 1][0] >= seq:
                turn -= 1
                latest_us = max(latest_us, self._walls[turn][1])
            entries += len(self._stored.digests[seq])
            if entries > self._max_entries:
                return
            if latest_us > self._stored.at_us[seq] + self._window_us or seq in self._stored.pruned:
                continue
            for digest in self._stored.digests[seq]:
                assert known.find(digest) is not None, f"A: a key of frame {seq} is forgotten inside its window"

    def check_keys(self) -> None:
        """Each key was accepted once, unless the first one's window was over."""
        for key, seqs in self._accepted.items():
            seqs.sort()
            for first, second in pairwise(seqs):
                assert self._forgotten(first, second), f"{key} was accepted in frame {first}, and again in {second}"
