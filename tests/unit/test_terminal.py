"""What comes from outside is shown as text, whatever it holds, and fits the terminal."""

from __future__ import annotations

import json
import sys
import time

import pytest
from wcwidth import wcswidth

from dispatcher.terminal import FLEXIBLE_MIN, Progress, fields, instant, json_text, plain, second, table

HOSTILE = "a\x1b[2J\x1b]0;owned\x07b\nc\td\r\x9b31me\u202ef\u200bg\x7f\u2028h"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    return monkeypatch


def test_what_is_not_visible_is_escaped() -> None:
    assert plain(HOSTILE) == (r"a\x1b[2J\x1b]0;owned\x07b\nc\td\r\x9b31me\u202ef\u200bg\x7f\u2028h")
    assert plain("José 日本語 👍 e\u0301") == "José 日本語 👍 e\u0301"
    assert plain("\ud800") == r"\ud800"


def test_json_keeps_its_meaning_and_nothing_invisible() -> None:
    document = {"title": HOSTILE, HOSTILE: ["日本語", "\U000e0001"]}
    for indent in (False, True):
        text = json_text(document, indent)
        assert text.replace("\n", "").isprintable()
        assert json.loads(text) == document
    assert "\n" not in json_text(document)


def test_cells_are_one_line_each_and_no_number_is_changed() -> None:
    lines = table(("user", "title", "count"), [("00042", HOSTILE, 7), ("1e5", "x", 1234)]).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("00042  a\\x1b[2J")
    assert lines[3].startswith("1e5    x ")
    assert lines[2].endswith("h      7")
    assert all(line.isprintable() for line in lines)


def test_columns_that_are_empty_are_left_out() -> None:
    assert table(("a", "b", "c"), [(1, None, ""), (2, "", None)]).split() == ["a", "-", "1", "2"]


@pytest.mark.parametrize("columns", [40, 50, 60, 79])
def test_on_a_narrow_terminal_the_flexible_columns_are_cut(narrow: pytest.MonkeyPatch, columns: int) -> None:
    narrow.setenv("COLUMNS", str(columns))
    lines = table(("id", "title", "error"), [("x" * 10, "日本語" * 20, "e" * 60)], ("title", "error")).splitlines()
    assert len(lines) == 3
    assert max(map(wcswidth, lines)) <= columns
    assert "x" * 10 in lines[2]
    assert "日本" in lines[2]
    assert "…" in lines[2]


def test_where_cutting_is_not_enough_each_row_is_a_block(narrow: pytest.MonkeyPatch) -> None:
    narrow.setenv("COLUMNS", str(10 + FLEXIBLE_MIN + 1))
    shown = table(("id", "title"), [("x" * 10, "t" * 30), ("y" * 10, "\x1b" * 3)], ("title",))
    assert shown == f"id     {'x' * 10}\ntitle  {'t' * 30}\n\nid     {'y' * 10}\ntitle  \\x1b\\x1b\\x1b"


def test_elsewhere_nothing_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert "t" * 300 in table(("id", "title"), [("x", "t" * 300)], ("title",))


def test_one_endless_text_does_not_widen_every_row() -> None:
    shown = table(("title", "id"), [("t" * 1_000_000, "x"), *[("", "y")] * 100])
    assert len(shown) < 200_000
    assert f"{'t' * 1_000}…  x" in shown


def test_fields_leave_out_what_is_empty() -> None:
    assert fields([("id", "x"), ("user", None), ("last error", "a\nb"), ("attempts", 0)]) == (
        "id          x\nlast error  a\\nb\nattempts    0"
    )


def test_times_are_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-2")
    time.tzset()
    try:
        assert instant(1_795_308_999_240) == "2026-11-22T02:56:39.240+02:00"
        assert second(1_795_308_999_940) == "2026-11-22 02:56:39"
        assert second(None) == ""
    finally:
        monkeypatch.undo()
        time.tzset()


def test_progress_is_a_line_that_changes_or_lines_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    lines, silent = Progress(elsewhere_s=5.0), Progress()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    changing = Progress()
    changing.clear()
    for _ in range(12):
        for progress in (lines, silent):
            progress.show("1 %")
            progress.clear()
        now += 1.0
    assert capsys.readouterr().err == "1 %\n1 %\n"
    changing.show("1 %")
    changing.show("too soon")
    changing.clear()
    changing.clear()
    assert capsys.readouterr().err == "\r\x1b[K1 %\r\x1b[K"


def test_progress_stays_on_one_line(narrow: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    narrow.setattr(sys.stderr, "isatty", lambda: True)
    narrow.setenv("COLUMNS", "20")
    progress = Progress()
    progress.show("日本語" * 20)
    assert wcswidth(capsys.readouterr().err.removeprefix("\r\x1b[K")) < 20
