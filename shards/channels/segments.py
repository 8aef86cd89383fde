"""What an SMS says, and how many segments it takes: each is sent, and paid for, as a message of its own.

The alphabets are those of 3GPP TS 23.038: seven bits for each character of the basic table, twice that for one of the
extension table, and UTF-16 for the whole text as soon as one character is in neither. A text of several segments has a
header in each, so fewer characters (TS 23.040); what takes two units is not split over two of them.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from typing import Literal

import msgspec

from shards.channels.base import Delivery, SendError

BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
EXTENSION = frozenset("\f^{}\\[~]|€")
TooLong = Literal["refuse", "cut"]
ENDING = "..."  # one character of that meaning, …, would make a text of GSM-7 one of UCS-2


class Segments(msgspec.Struct, frozen=True):
    """``units`` are septets, or 16 bits."""

    encoding: Literal["GSM-7", "UCS-2"]
    count: int
    units: int


def segments(text: str) -> Segments:
    """What it takes to send a text; an empty one is one segment as well."""
    doubled = frozenset(text) - BASIC
    if doubled <= EXTENSION:
        return Segments("GSM-7", *_packed([1 + (each in doubled) for each in text], 160, 153))
    return Segments("UCS-2", *_packed([1 + (each > "\uffff") for each in text], 70, 67))


def _packed(widths: list[int], alone: int, each: int) -> tuple[int, int]:
    """The number of segments, and of units in them."""
    units = sum(widths)
    if units <= alone:
        return 1, units
    count, room = 1, each
    for width in widths:
        if width > room:
            count, room = count + 1, each
        room -= width
    return count, units


def cut(text: str, count_max: int) -> str:
    """The longest beginning of a text that fits, with three dots where something is left out."""
    if segments(text).count <= count_max:
        return text
    length = bisect_left(range(len(text)), count_max + 1, key=lambda end: segments(text[:end] + ENDING).count)
    return text[: length - 1] + ENDING


def sayable(text: str) -> str:
    """Without control characters; a line's end is a line feed."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    return "".join(each for each in lines if each == "\n" or unicodedata.category(each) != "Cc").strip()


def said(delivery: Delivery, segments_max: int, too_long: TooLong) -> str:
    """The text of an SMS: that of the delivery, or its title. Raises ``SendError`` where there is none, or too much."""
    text = sayable(delivery.text) or sayable(delivery.title)
    if not text:
        raise SendError("permanent", "there is nothing to say: the notification has neither text nor title")
    if too_long == "cut":
        return cut(text, segments_max)
    takes = segments(text)
    if takes.count > segments_max:
        size = f"the text takes {takes.count} segments of {takes.encoding}; at most {segments_max} are allowed"
        raise SendError("permanent", f'{size} by segments_max. Shorten it, allow more, or set too_long = "cut"')
    return text
