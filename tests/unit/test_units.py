"""Durations."""

from __future__ import annotations

import pytest

from shards.units import Seconds, decode_hook, encode_hook


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("50ms", 0.05), ("30s", 30.0), ("1.5h", 5400.0), ("7d", 604800.0), ("2 m", 120.0), (3, 3.0), ("250us", 0.00025)],
)
def test_durations_are_read(text: object, seconds: float) -> None:
    assert Seconds.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "5 minutes", "-1s", True, None, -1, 1e11, "s"])
def test_what_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        Seconds.parse(text)


@pytest.mark.parametrize("text", ["50ms", "30s", "5m", "24h", "7d", "1.5s"])
def test_what_is_written_is_read_back(text: str) -> None:
    seconds = Seconds.parse(text)
    assert Seconds.parse(str(seconds)) == seconds


def test_the_hooks_of_the_decoder() -> None:
    assert decode_hook(Seconds, "1s") == 1.0
    assert encode_hook(Seconds(60.0)) == "1m"
    with pytest.raises(NotImplementedError):
        decode_hook(int, "1")
