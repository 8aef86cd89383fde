"""Log lines, as a process of its own writes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

from shards import logs
from shards.wire.ids import hash_user
from tests.support.service import ROOT

PRELUDE = """
import logging, warnings
from shards import logs
logs.configure("shard 3", logs.LogSettings(format={format!r}, level={level!r}))
log = logs.logger()
"""


def written(code: str, log_format: str = "json", level: str = "info") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PRELUDE.format(format=log_format, level=level) + code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def lines(code: str, level: str = "info") -> list[dict[str, Any]]:
    return [json.loads(line) for line in written(code, level=level).stderr.splitlines()]


def test_a_line_says_when_who_and_what() -> None:
    (line,) = lines("log.warning('ended', child='shard 1', failures=2)")
    assert list(line) == ["time", "level", "process", "pid", "event", "child", "failures"]
    assert line["time"].endswith("Z")
    assert abs(datetime.now(UTC) - datetime.fromisoformat(line["time"])) < timedelta(minutes=5)
    assert (line["level"], line["process"], line["event"]) == ("warning", "shard 3", "ended")
    assert (line["child"], line["failures"]) == ("shard 1", 2)


def test_lines_below_the_level_are_left_out() -> None:
    code = "log.debug('a'); log.info('b'); log.warning('c'); log.error('d')"
    assert [line["event"] for line in lines(code)] == ["b", "c", "d"]
    assert [line["event"] for line in lines(code, level="error")] == ["d"]


def test_a_librarys_line_that_cannot_be_filled_in_is_written_as_it_is() -> None:
    (line, after) = lines("logging.getLogger('lib').warning('%d of %d', 'x'); log.info('after')")
    assert (line["event"], line["library"], after["event"]) == ("%d of %d", "lib", "after")


def test_no_value_breaks_a_line() -> None:
    (line,) = lines("log.info('x', name='a\\nb', odd=object, huge=2**99, half='\\ud800')")
    assert line["name"] == "a\nb"
    assert line["huge"] == 2**99
    (text,) = written("log.info('x', name='a\\n\\x1b[2Jb=\"c\"', half='\\ud800')", "human").stderr.splitlines()
    assert text.endswith(r'shard 3    x  name="a\n\u001b[2Jb=\"c\"" half="\ud800"')


def test_without_a_terminal_there_are_no_colours() -> None:
    assert "\x1b" not in written("log.error('x', a=1)", "human").stderr
    assert json.loads(written("log.error('x', a=1)", "auto").stderr)["a"] == 1


def test_a_terminal_gets_lines_for_people() -> None:
    terminal, other = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", PRELUDE.format(format="auto", level="info") + "log.error('x', a=1)"],
        cwd=ROOT,
        stderr=other,
    ) as process:
        assert process.wait(60) == 0
    os.close(other)
    text = os.read(terminal, 10_000).decode()
    os.close(terminal)
    assert "\x1b[31merror   \x1b[0m shard 3    x  \x1b[2ma=\x1b[0m1" in text


def test_a_bug_is_one_line_with_its_traceback() -> None:
    result = written("def f(): raise ValueError('no\\nway')\nf()")
    assert result.returncode == 1
    (line,) = [json.loads(text) for text in result.stderr.splitlines()]
    assert (line["level"], line["event"], line["error"]) == ("critical", "crashed", "ValueError: no\nway")
    assert line["exception"].startswith("Traceback (most recent call last)")
    assert "in f" in line["exception"]


def test_libraries_log_and_warn_the_same_way() -> None:
    code = "logging.getLogger('aiolib').warning('odd %s', 1); warnings.warn('old')"
    first, second = lines(code)
    assert (first["event"], first["library"]) == ("odd 1", "aiolib")
    assert (second["level"], second["library"]) == ("warning", "py.warnings")
    assert "old" in second["event"]


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    result = written("import os; os.close(2); log.error('x'); print('went on')")
    assert (result.returncode, result.stdout) == (0, "went on\n")


def test_a_recipient_is_the_hash_that_ids_have() -> None:
    assert logs.of_user("ada") == f"{hash_user('ada'):016x}"
