"""Endpoints of users, on one of the channels: which delivery is for which, and that none waits for others."""

from __future__ import annotations

import msgspec

from shards.attempts import origin_of
from shards.core import Core
from shards.frames import Entry
from shards.gates import Gates
from shards.settings import ChannelSettings
from tests.simulation.stored import Place

HOSTS = 2
CONCURRENCY = 5


class Endpoints:
    """``channel`` is the one that has them; empty where none has."""

    def __init__(self, channel: str, per_endpoint: int) -> None:
        self.channel = channel
        self._per_endpoint = per_endpoint

    def settings(self, channels: dict[str, ChannelSettings]) -> dict[str, ChannelSettings]:
        """With so much concurrency that a place is what most wait for."""
        if not self.channel:
            return channels
        mine = msgspec.structs.replace(channels[self.channel], concurrency=CONCURRENCY, per_endpoint=self._per_endpoint)
        return channels | {self.channel: mine}

    def url_of(self, user_id: str) -> str | None:
        """Some share a host, and some users have none."""
        number = int(user_id.rpartition("-")[2])
        return f"https://host-{number % HOSTS}.example/{user_id}" if number else None

    def origin(self, channel: str, user_id: str) -> str:
        url = self.url_of(user_id) if channel == self.channel else None
        return origin_of(url) if url else ""

    def gates(self, core: Core) -> Gates | None:
        return core.gates[core.channel_names.index(self.channel)] if self.channel else None

    def waiting(self, core: Core) -> dict[int, list[Place]]:
        """By lane's channel, what waits for a place."""
        gates = self.gates(core)
        if gates is None:
            return {}
        found = [(entry[0].seq, entry[1]) for gate in gates._active.values() for *_, entry in gate.waiting]
        assert gates.waiting == len(found), f"endpoints: {gates.waiting} wait, and there are {len(found)}"
        return {core.channel_names.index(self.channel): found}

    def check(self, core: Core, under_way: list[Entry], room: int) -> None:
        """Places are those of attempts under way, and who could have one has it, unless the channel has no room."""
        gates = self.gates(core)
        if gates is None:
            return
        places = {(frame.seq, slot) for frame, slot, *_ in under_way}
        assert gates._within.keys() <= places, f"endpoints: {gates._within.keys() - places} have places, and are over"
        assert len(gates._active) <= len(places) + gates.waiting, "B: endpoints"
        slow = 0
        for key, gate in gates._active.items():
            within = sum(of == key for of, _ in gates._within.values())
            assert gate.within == within, f"endpoints: {key} counts {gate.within} under way, and has {within}"
            assert not any(gate.depths) or sum(gate.depths) == len(gate.waiting), f"endpoints: {key} has {gate.depths}"
            slow += within * gate.is_slow
            may_start = gate.has_place and (not gate.is_slow or gates._all_slow.has_place)
            assert not (gate.waiting and may_start and room > 0), f"I: {key} has a place, and somebody waits for it"
        assert gates._all_slow.within == slow, f"endpoints: {gates._all_slow.within} count as slow, not {slow}"
        assert slow <= gates._all_slow.limit or slow <= core.settings.channels[self.channel].concurrency, "B: slow"
