"""What two answers to ``stats`` say of the service and of the time between them, as lines of a screen."""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from dispatcher import channel_report
from dispatcher.grid import Column, Row, flow, grid
from dispatcher.screen import Line
from dispatcher.terminal import plain
from dispatcher.troubles import ALARMING, CHANNEL_STATES, PROCESS_STATES, channel_state, place, shard_state

ALERT_LINES = 3
ROOM_MIN = 20  # columns; a narrower terminal shows the left of it

CHANNELS = (
    Column("channel", is_text=True), Column("state", is_text=True), Column("queued", 2), Column("flight", 7),
    Column("retry", 5), Column("defer", 8), Column("deliv/s", 1), Column("fail/s", 1), Column("dead", 3),
    Column("p50", 6), Column("p99", 4), Column("max", 14), Column("delivered", 9), Column("suppressed", 10),
    Column("limited", 11), Column("expired", 12), Column("cancelled", 13),
)  # fmt: skip
PROCESSES = (
    Column("process", is_text=True), Column("state", is_text=True), Column("accept/s", 2), Column("pending", 1),
    Column("retry", 9), Column("idempotency", 7), Column("CPU %", 3), Column("RSS MB", 4), Column("journal MB", 5),
    Column("up", 6),
)  # fmt: skip
GAUGES = ("queued", "in_flight", "retrying", "deferred")
OUTCOMES = ("delivered", "suppressed", "rate_limited", "expired", "cancelled")

Stats = dict[str, Any]


class Sample(NamedTuple):
    """``at`` is when it was taken, in monotonic seconds."""

    at: float
    stats: Stats


class Pair(NamedTuple):
    """A sample and the one before it, if there is any."""

    now: Sample
    before: Sample | None = None

    def rate(self, count: Callable[[Stats], float]) -> float | None:
        """Per second; None where both were not counted over the same shards."""
        if self.before is None or self.now.at <= self.before.at:
            return None
        if self.now.stats["not_responding"] != self.before.stats["not_responding"]:
            return None
        try:
            grown = count(self.now.stats) - count(self.before.stats)
        except (KeyError, TypeError):  # a channel or a process that was not there
            return None
        return max(0.0, grown / (self.now.at - self.before.at))


def rates(pair: Pair) -> dict[str, Any]:
    """Deliveries and failed attempts per second, of each channel."""

    def of(name: str) -> dict[str, float | None]:
        return {
            "delivered_per_s": pair.rate(lambda stats: stats["channels"][name]["outcomes"]["delivered"]),
            "failed_per_s": pair.rate(lambda stats: stats["channels"][name]["failed_attempts"]),
        }

    return {name: of(name) for name in channel_report.used(pair.now.stats)["channels"]}


def lines(pair: Pair, columns: int, problem: str = "", keys: str = "") -> list[Line]:
    """The whole view; ``problem`` is why the sample may be old, and ``keys`` what can be typed."""
    stats = pair.now.stats
    room = max(ROOM_MIN, columns)
    found: list[Line] = [(text, "bold") for text in flow(_title(stats, keys), room)]
    for alert in _alerts(stats, problem):
        wrapped = textwrap.wrap(plain(alert), room, subsequent_indent="  ")
        found += [(text, "alert") for text in wrapped[:ALERT_LINES]]
    found += [(text, "bold") for text in _totals(pair, room)]
    found.append(("", ""))
    found += grid(CHANNELS, _channels(pair), room)
    found.append(("", ""))
    found += grid(PROCESSES, _processes(pair), room)
    return found


def _title(stats: Stats, keys: str) -> list[str]:
    clock = datetime.datetime.now().astimezone().strftime("%H:%M:%S")
    shards = len(stats["shards"]) + sum(name.startswith("shard") for name in stats["not_responding"])
    title = [clock, f"up {_span(_longest_s(stats))}", f"shards {shards}", f"pending {stats['pending']:,}"]
    return [*title, keys] if keys else title


def _totals(pair: Pair, room: int) -> Iterator[str]:
    stats = pair.now.stats
    outcomes = dict(stats["outcomes"])
    accepted, delivered, failed = (
        _rate(pair.rate(count))
        for count in (
            lambda one: one["accepted"],
            lambda one: one["outcomes"]["delivered"],
            lambda one: one["failed_attempts"],
        )
    )
    retrying = sum(one["retrying"] for one in stats["channels"].values())
    yield from flow(
        [
            f"accepted {_count(stats['accepted'])}, {accepted}/s",
            f"delivered {_count(outcomes.pop('delivered'))}, {delivered}/s",
            f"failed {failed}/s",
            f"retrying {_count(retrying)}",
            f"dead {_count(outcomes.pop('dead'))}",
            *_counts(outcomes),
        ],
        room,
    )
    if letters := _counts(stats["dead_letters"]):
        yield from flow(["dead letters:", *letters], room)
    latency = stats["latency_ms"]
    if latency["max"] is not None:
        yield from flow(["latency ms:", *(f"{name} {_ms(latency[name])}" for name in ("p50", "p99", "max"))], room)


def _counts(found: dict[str, int]) -> list[str]:
    return [f"{name} {_count(count)}" for name, count in found.items() if count]


def _alerts(stats: Stats, problem: str) -> Iterator[str]:
    if problem:
        yield problem
    for name in stats["not_responding"]:
        why = stats["reasons"].get(name)
        yield f"NOT RESPONDING, and not counted here: {name}{f' ({why})' if why else ''}"
    if not stats["conserved"] and not stats["not_responding"]:
        yield "NOT CONSERVED: planned is not outcomes + pending; stop it, and run: dispatcher check"
    if put_aside := [case for shard in stats["shards"] for case in shard["quarantined"]]:
        yield f"DAMAGED, put aside, each with a report: {', '.join(put_aside)}"
    yield from channel_report.alerts(stats)


def _channels(pair: Pair) -> list[Row]:
    """The worst first."""
    rows = []
    for name, per_s in rates(pair).items():
        one = pair.now.stats["channels"][name]
        state = channel_state(one, *per_s.values())
        latency = one["latency_ms"]
        cells = (
            name,
            state,
            *(_count(one[key]) for key in GAUGES),
            *(_rate(rate) for rate in per_s.values()),
            _count(one["outcomes"]["dead"]),
            *(_ms(latency[key]) for key in ("p50", "p99", "max")),
            *(_count(one["outcomes"][outcome]) for outcome in OUTCOMES),
        )
        rows.append(Row(cells, "alert" if state in ALARMING else ""))
    return sorted(rows, key=lambda row: place(CHANNEL_STATES, row.cells[1]))


def _processes(pair: Pair) -> list[Row]:
    """The worst first; who does not answer has a line, and nothing to say."""
    stats = pair.now.stats
    longest_s = _longest_s(stats)
    rows = [Row((name, "silent", *[""] * (len(PROCESSES) - 2)), "alert") for name in stats["not_responding"]]
    for shard in stats["shards"]:
        state = shard_state(shard, longest_s)
        cells = (
            f"shard {shard['shard']}",
            state,
            _rate(_accepted(pair, shard["shard"])),
            f"{shard['pending']:,}",
            _count(shard["retrying"]),
            f"{shard['idempotency_entries']:,}",
            _cpu(pair, shard["pid"]),
            f"{shard['rss_mb']:.1f}",
            f"{shard['journal_bytes'] / 2**20:,.1f}",
            _span(shard["uptime_s"]),
        )
        rows.append(Row(cells, "" if state == "ok" else "alert"))
    for role in ("router", "collector"):
        if stats[role]:
            used = _cpu(pair, stats[role]["pid"]), f"{stats[role]['rss_mb']:.1f}"
            rows.append(Row((role, "ok", "", "", "", "", *used, "", "")))
    return sorted(rows, key=lambda row: place(PROCESS_STATES, row.cells[1]))


def _longest_s(stats: Stats) -> float:
    return max((shard["uptime_s"] for shard in stats["shards"]), default=0.0)


def _accepted(pair: Pair, number: int) -> float | None:
    return pair.rate(lambda stats: sum(one["accepted"] for one in stats["shards"] if one["shard"] == number))


def _cpu(pair: Pair, pid: int) -> str:
    """Of a process, in percent of one core; a process that was started anew counts anew."""
    rate = pair.rate(lambda stats: _cpu_s(stats)[pid])
    return "-" if rate is None else f"{100 * rate:.0f}"


def _cpu_s(stats: Stats) -> dict[int, float]:
    processes = filter(None, (*stats["shards"], stats["router"], stats["collector"]))
    return {one["pid"]: one["cpu_s"] for one in processes}


def _span(seconds: float) -> str:
    return str(datetime.timedelta(seconds=int(seconds)))


def _count(number: int) -> str:
    for size, unit in ((10**9, "G"), (10**6, "M")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number // 1000}k" if number >= 100_000 else str(number)


def _rate(rate: float | None) -> str:
    if rate is None:
        return "-"
    return f"{rate:.1f}" if 0 < rate < 10 else _count(round(rate))


def _ms(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    if milliseconds >= 10_000:
        return f"{_count(round(milliseconds / 1000))}s"
    return f"{milliseconds:.1f}" if milliseconds < 100 else f"{milliseconds:.0f}"
