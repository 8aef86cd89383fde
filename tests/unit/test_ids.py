"""The ids of a batch, decoded when they are looked at."""

from __future__ import annotations

import msgspec
import pytest

from dispatcher.api.ids import Id, Ids
from shards.wire.encoding import pack

#                   0    1    2     3      4    5           6     7
WHOLE: list[Id] = [None, "b", "c", None, None, ["f1", None], "g", None]


@pytest.fixture
def ids() -> Ids:
    """The first, the fourth, the fifth and the last were never sent."""
    return Ids(8, {5: msgspec.Raw(pack([["f1", None], "g"])), 1: msgspec.Raw(pack(["b", "c"]))})


def test_they_are_a_sequence(ids: Ids) -> None:
    assert list(ids) == WHOLE
    assert [ids[at] for at in range(8)] == WHOLE
    assert [ids[at] for at in range(-8, 0)] == WHOLE
    assert (len(ids), ids[1:6], ids[::-3], ids.index("g"), "h" in ids) == (8, WHOLE[1:6], WHOLE[::-3], 6, False)
    for at in (8, -9):
        with pytest.raises(IndexError, match="there are 8 ids"):
            ids[at]


def test_they_are_equal_to_what_says_the_same(ids: Ids) -> None:
    assert ids == WHOLE
    assert ids == WHOLE
    assert ids != WHOLE[1:]
    assert repr(ids) == repr(WHOLE)
    assert not Ids(0, {})
