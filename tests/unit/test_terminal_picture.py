"""A terminal as an SVG: every letter at its place, in its colour."""

from __future__ import annotations

from xml.etree import ElementTree

import pyte

from tools.terminal_picture import COLOURS, INK, LETTER, MARGIN, picture

TEXT = "{http://www.w3.org/2000/svg}text"


def test_each_run_of_letters_has_its_place_and_colour() -> None:
    screen = pyte.Screen(20, 5)
    pyte.Stream(screen).feed("a <b> & c\r\n  \x1b[1;31mred\x1b[0m  plain")
    drawn = ElementTree.fromstring(picture(screen, "a & title"))
    title, *letters = drawn.iter(TEXT)
    assert title.text == "a & title"
    assert [(one.text, one.get("fill"), one.get("font-weight")) for one in letters] == [
        ("a <b> & c", INK, None),
        ("red", COLOURS["red"], "bold"),
        ("plain", INK, None),
    ]
    assert [float(one.attrib["x"]) for one in letters] == [MARGIN + round(LETTER * at, 1) for at in (0, 2, 7)]
    assert letters[1].get("y") == letters[2].get("y") != letters[0].get("y")


def test_empty_lines_below_are_left_out() -> None:
    heights = []
    for rows in (5, 50):
        screen = pyte.Screen(20, rows)
        pyte.Stream(screen).feed("one\r\n\r\nthree")
        heights.append(ElementTree.fromstring(picture(screen, "")).get("height"))
    assert heights[0] == heights[1]
