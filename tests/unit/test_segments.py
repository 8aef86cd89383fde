"""The number of segments of an SMS, against the tables of 3GPP TS 23.038 and a slow packer."""

from __future__ import annotations

from typing import Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.channels.base import SendError
from shards.channels.segments import BASIC, ENDING, EXTENSION, Segments, cut, said, sayable, segments
from tests.support.deliveries import delivery

SAID = st.text(st.one_of(st.sampled_from("aé€[ \n"), st.sampled_from("aΔж中😀é"), st.characters(codec="utf-8")))
GSM_7 = st.text(st.sampled_from(sorted(BASIC | EXTENSION)), max_size=500)


@pytest.mark.parametrize(
    ("text", "encoding", "count", "units"),
    [
        ("", "GSM-7", 1, 0),
        ("a" * 160, "GSM-7", 1, 160),
        ("a" * 161, "GSM-7", 2, 161),
        ("a" * 306, "GSM-7", 2, 306),
        ("a" * 307, "GSM-7", 3, 307),
        ("€" * 80, "GSM-7", 1, 160),
        ("€" * 81, "GSM-7", 2, 162),
        ("€" * 153, "GSM-7", 3, 306),  # 76 in each: a 77th would be split
        ("a" * 152 + "€" + "a" * 151, "GSM-7", 2, 305),
        ("a" * 152 + "€" + "a" * 152, "GSM-7", 3, 306),
        ("ж" * 70, "UCS-2", 1, 70),
        ("ж" * 71, "UCS-2", 2, 71),
        ("ж" * 134, "UCS-2", 2, 134),
        ("ж" * 135, "UCS-2", 3, 135),
        ("😀" * 35, "UCS-2", 1, 70),
        ("😀" * 67, "UCS-2", 3, 134),  # 33 in each, as a pair of surrogates is not split
        ("a" * 69 + "…", "UCS-2", 1, 70),
        ("ç", "UCS-2", 1, 1),  # the table has only the capital
    ],
)
def test_known_texts(text: str, encoding: Literal["GSM-7", "UCS-2"], count: int, units: int) -> None:
    assert segments(text) == Segments(encoding, count, units)


def test_the_tables_have_the_size_of_the_standard() -> None:
    assert len(BASIC) == 127  # 128 less the escape to the extension table
    assert len(EXTENSION) == 10
    assert not BASIC & EXTENSION


@given(SAID)
def test_segments_hold_the_text_and_none_is_too_many(text: str) -> None:
    encoding, count, units = msgspec.structs.astuple(segments(text))
    assert units == (len(text.encode("utf-16-le")) // 2 if encoding == "UCS-2" else len(text) + _extended(text))
    alone, each = (160, 153) if encoding == "GSM-7" else (70, 67)
    if units <= alone:
        assert count == 1
    else:
        assert -(-units // each) <= count <= -(-units // (each - 1))


@given(GSM_7)
def test_what_is_in_the_tables_takes_seven_bits(text: str) -> None:
    assert segments(text).encoding == "GSM-7"


@given(SAID.filter(bool))
def test_one_more_character_never_takes_fewer(text: str) -> None:
    assert segments(text[:-1]).count <= segments(text).count


@given(SAID, st.integers(1, 5), st.integers(1, 60))
def test_a_cut_text_fits_and_is_the_longest_that_does(text: str, count: int, times: int) -> None:
    text *= times
    short = cut(text, count)
    if segments(text).count <= count:
        assert short == text
        return
    assert segments(short).count <= count
    assert short.endswith(ENDING)
    beginning = short.removesuffix(ENDING)
    assert text.startswith(beginning)
    assert segments(text[: len(beginning) + 1] + ENDING).count > count


@pytest.mark.parametrize(
    ("text", "said"),
    [("a\r\nb\rc\td", "a\nb\nc d"), ("\0a\x1b[31mb\x7f\x85", "a[31mb"), ("  \n ", ""), ("👩‍💻", "👩‍💻")],
)
def test_control_characters_are_left_out(text: str, said: str) -> None:
    assert sayable(text) == said


def _extended(text: str) -> int:
    return sum(each in EXTENSION for each in text)


# --- what is said ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("title", "text", "expected"),
    [("title", "text", "text"), ("title", "", "title"), ("title", " \x07\n", "title"), ("", "a\r\nb", "a\nb")],
)
def test_the_text_is_said_or_else_the_title(title: str, text: str, expected: str) -> None:
    assert said(delivery(title=title, text=text), 1, "refuse") == expected


def test_nothing_to_say_is_permanent() -> None:
    with pytest.raises(SendError, match="neither text nor title") as raised:
        said(delivery(title="", text="\0"), 1, "refuse")
    assert raised.value.error_class == "permanent"


def test_a_text_that_takes_too_many_segments_is_refused_unless_it_may_be_cut() -> None:
    long = delivery(text="a" * 161)
    with pytest.raises(SendError, match=r"takes 2 segments of GSM-7; at most 1 .*too_long") as raised:
        said(long, 1, "refuse")
    assert raised.value.error_class == "permanent"
    assert said(long, 2, "refuse") == "a" * 161
    assert said(long, 1, "cut") == "a" * 157 + "..."
