"""What limits per user share: a bounded number of keys, and what was charged since it was last stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

from shards.nearest import unknown
from shards.wire.notification import PRIORITIES

SWEEP_EVERY_S = 1.0

State = TypeVar("State")


def check_exempt(exempt: Iterable[str]) -> None:
    """``ValueError`` for what is no priority."""
    for priority in exempt:
        if priority not in PRIORITIES:
            raise ValueError(f"exempt: {unknown('priority', priority, PRIORITIES)}")


class Keyed(ABC, Generic[State]):
    """A limit over many keys (users, by their signed hash), by the caller's clock in seconds.

    ``keys_max`` bounds the keys: idle ones are dropped, which loses nothing, as an idle key's state equals a new one's.
    With as many live ones a new key has no room. ``charges`` has the key of every charge until the store takes them.
    ``terms`` names, without spaces, what the state's meaning depends on.
    """

    def __init__(self, terms: str, exempt: Iterable[str], keys_max: int) -> None:
        self.terms = terms
        self.exempt = frozenset(exempt)  # names of priorities; their deliveries always pass, and are charged as well
        self.charges: list[int] = []
        self._keys_max = keys_max
        self._next_sweep = 0.0
        self._states: dict[int, State] = {}

    def __len__(self) -> int:
        return len(self._states)

    def keys(self) -> list[int]:
        return list(self._states)

    def adopt(self, other: Keyed[State], now: float) -> None:
        """Go on from where a limit of the same name stood, whose terms may be others."""
        self.charges, self._states = other.charges, other._states
        if other.terms != self.terms:
            self.fit(now)

    def drop_idle(self, now: float) -> None:
        self._states = {key: state for key, state in self._states.items() if not self._is_idle(state, now)}

    def _has_place(self, now: float) -> bool:
        """Whether a new key may come in."""
        if len(self._states) < self._keys_max:
            return True
        if now < self._next_sweep:
            return False
        self._next_sweep = now + SWEEP_EVERY_S
        self.drop_idle(now)
        return len(self._states) < self._keys_max

    @abstractmethod
    def remaining(self, key: int, now: float) -> int:
        """How many events would pass right now."""

    @abstractmethod
    def next_at(self, key: int, now: float) -> float:
        """When one event will pass if no other comes: ``now`` if at once, infinity where no new key has room."""

    @abstractmethod
    def _is_idle(self, state: State, now: float) -> bool:
        """Whether it equals the state of a key that was never charged."""

    # --- for the store -------------------------------------------------------------------------------------------

    @abstractmethod
    def replay(self, keys: Iterable[int], at: float) -> None:
        """Charge again, whatever the bound on keys: what was charged had room."""

    @abstractmethod
    def state(self, keys: list[int], times_max: int) -> tuple[array[int], array[float]]:
        """Take some of ``keys`` from its end, and give their states: about ``times_max`` pairs of a key and a time.

        All of one key are together.
        """

    @abstractmethod
    def restore(self, keys: Sequence[int], times: Iterable[float]) -> None:
        """Put back what ``state`` gave, in place of what these keys have."""

    @abstractmethod
    def fit(self, now: float) -> None:
        """Make of a state under other terms what is possible under these."""
