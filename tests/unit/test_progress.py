"""Lines about long work."""

from __future__ import annotations

from shards import logs
from shards.progress import EVERY_S, Progress
from tests.support.logs import captured_logs


def test_a_line_now_and_then_and_one_at_the_end() -> None:
    now = 100.0
    with captured_logs() as lines:
        progress = Progress(logs.logger(), "re-sharding", 1_000, clock=lambda: now)
        for _ in range(10):
            now += EVERY_S / 5
            progress.advance(50)
        progress.advance(500)
        progress.end()
    shown = [{key: line[key] for key in line if key not in ("event", "level")} for line in lines]
    assert [line["event"] for line in lines] == ["re-sharding", "re-sharding", "re-sharding: done"]
    assert shown[0] == {"done": 250, "total": 1_000, "per_s": 50, "left_s": 15.0}
    assert shown[1] == {"done": 500, "total": 1_000, "per_s": 50, "left_s": 10.0}
    assert shown[2] == {"done": 1_000, "total": 1_000, "per_s": 100, "took_s": 10.0}


def test_short_work_is_one_line() -> None:
    with captured_logs() as lines:
        progress = Progress(logs.logger(), "salvage", 0, clock=lambda: 5.0)
        progress.end()
    assert lines == [{"event": "salvage: done", "level": "info", "done": 0, "total": 0, "per_s": None, "took_s": 0.0}]
