"""Channels that send nothing for now: what an operator pauses and resumes, and what is told of each channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shards.changes import Now, Pause
from shards.core import Core
from shards.journal import SqliteJournal
from shards.nearest import unknown
from shards.wire.errors import RequestError

if TYPE_CHECKING:
    from shards.courier import Courier


class Pauses:
    """An operator's pause is part of the journal's state; one of refused credentials ends with the process."""

    def __init__(self, core: Core, journal: SqliteJournal, courier: Courier | None) -> None:
        self._core = core
        self._journal = journal
        self.courier = courier
        for name, since_ms in journal.state.paused.items():
            if name in core.channel_names:
                core.paused[core.channel_names.index(name)] = Pause("operator", since_ms)

    def pause(self, channel: str, now: Now) -> dict[str, Any]:
        """Start nothing on a channel until ``resume``, over restarts as well. Raises ``RequestError``."""
        number = self._number_of(channel)
        self._core.paused.pop(number, None)  # what it has paused itself is the operator's from now on
        self._core.pause(number, Pause("operator", now.wall_us // 1000))
        self._keep()
        return {"state": "paused"}

    def resume(self, channel: str) -> dict[str, Any]:
        """Raises ``RequestError``."""
        self._core.resume(self._number_of(channel))
        if self.courier and channel in self.courier.channels:
            self.courier.resume(channel)
        self._keep()
        return {"state": "running"}

    def _number_of(self, channel: str) -> int:
        known = ["inapp", *self._core.settings.channels]
        if channel not in known:
            raise RequestError("unknown_channel", unknown("channel", channel, known), "channel")
        return self._core.channel_names.index(channel)

    def _keep(self) -> None:
        self._journal.state.paused = {
            self._core.channel_names[number]: pause.since_ms
            for number, pause in self._core.paused.items()
            if pause.reason == "operator"
        }
        self._journal.begin()

    def describe(self, number: int) -> dict[str, Any]:
        """Whether a channel is configured, or paused and why, and how its providers are."""
        core, courier = self._core, self.courier
        name, pause, gates = core.channel_names[number], core.paused.get(number), core.gates.get(number)
        return {
            "configured": core.people.is_configured(number),
            **({"paused": pause._asdict()} if pause else {}),
            **({"providers": courier.describe(name)} if courier and name in courier.channels else {}),
            **({"workers": core.credits[number].workers} if number in core.credits else {}),
            **({"waiting_for_endpoints": gates.waiting} if gates is not None else {}),
        }
