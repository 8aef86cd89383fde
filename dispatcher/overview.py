"""What two answers to ``stats`` say of the service and of the time between them, as lines of a screen."""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from dispatcher import channel_report
from dispatcher.screen import Line
from dispatcher.terminal import fit, plain, width

STATES = {"partly_paused": "partly", "not_configured": "off", "no_worker": "no worker"}
NAME_MAX = 12  # columns, so that a table fits into 80
ALERT_LINES = 3

CHANNELS = (
    "channel", "state", "queued", "flight", "retry", "defer", "deliv/s", "fail/s", "dead", "p50", "p99",
)  # fmt: skip
PROCESSES = ("process", "pending", "idempotency", "CPU %", "RSS MB", "journal MB")

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


def lines(pair: Pair, columns: int, problem: str = "") -> list[Line]:
    """The whole view; ``problem`` is why the sample may be old."""
    stats = pair.now.stats
    found: list[Line] = [(text, "bold") for text in _head(pair)]
    for alert in _alerts(stats, problem):
        wrapped = textwrap.wrap(plain(alert), max(20, columns), subsequent_indent="  ")
        found += [(text, "alert") for text in wrapped[:ALERT_LINES]]
    found.append(("", ""))
    found += _channels(pair)
    found.append(("", ""))
    found += _processes(pair)
    return found


def _head(pair: Pair) -> Iterator[str]:
    stats = pair.now.stats
    up_s = max((shard["uptime_s"] for shard in stats["shards"]), default=0.0)
    up = datetime.timedelta(seconds=int(up_s))
    clock = datetime.datetime.now().astimezone().strftime("%H:%M:%S")
    yield f"{clock}  up {up}  shards {len(stats['shards'])}  pending {stats['pending']:,}  q quits"
    delivered = stats["outcomes"]["delivered"], pair.rate(lambda one: one["outcomes"]["delivered"])
    accepted = stats["accepted"], pair.rate(lambda one: one["accepted"])
    yield "  ".join(
        (
            f"accepted {_count(accepted[0])}, {_rate(accepted[1])}/s",
            f"delivered {_count(delivered[0])}, {_rate(delivered[1])}/s",
            f"failed {_rate(pair.rate(lambda one: one['failed_attempts']))}/s",
            f"dead {_count(sum(stats['dead_letters'].values()))}",
        )
    )


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


def _channels(pair: Pair) -> Iterator[Line]:
    per_s = rates(pair)
    rows = []
    for name, one in channel_report.used(pair.now.stats)["channels"].items():
        rows.append(
            (
                name,
                STATES.get(one["state"], one["state"]),
                *(_count(one[key]) for key in ("queued", "in_flight", "retrying", "deferred")),
                *(_rate(rate) for rate in per_s[name].values()),
                _count(one["outcomes"]["dead"]),
                *(_ms(one["latency_ms"][key]) for key in ("p50", "p99")),
            )
        )
    return _grid(CHANNELS, rows, [row[1] in ("paused", "partly", "no worker") for row in rows], 2)


def _processes(pair: Pair) -> Iterator[Line]:
    stats = pair.now.stats
    rows = [
        (
            f"shard {shard['shard']}",
            f"{shard['pending']:,}",
            f"{shard['idempotency_entries']:,}",
            _cpu(pair, shard["pid"]),
            f"{shard['rss_mb']:.1f}",
            f"{shard['journal_bytes'] / 2**20:,.1f}",
        )
        for shard in stats["shards"]
    ]
    rows += [
        (role, "", "", _cpu(pair, stats[role]["pid"]), f"{stats[role]['rss_mb']:.1f}", "")
        for role in ("router", "collector")
        if stats[role]
    ]
    return _grid(PROCESSES, rows, [False] * len(rows), 1)


def _cpu(pair: Pair, pid: int) -> str:
    """Of a process, in percent of one core; a process that was started anew counts anew."""
    rate = pair.rate(lambda stats: _cpu_s(stats)[pid])
    return "-" if rate is None else f"{100 * rate:.0f}"


def _cpu_s(stats: Stats) -> dict[int, float]:
    processes = filter(None, (*stats["shards"], stats["router"], stats["collector"]))
    return {one["pid"]: one["cpu_s"] for one in processes}


def _grid(headers: Sequence[str], rows: Sequence[Sequence[str]], alerts: Sequence[bool], texts: int) -> Iterator[Line]:
    """A line per row; the first ``texts`` columns are texts, the others numbers."""
    rows = [[plain(cell) for cell in row] for row in rows]
    sizes = [max(map(width, column)) for column in zip(headers, *rows, strict=True)]
    sizes[0] = min(sizes[0], NAME_MAX)
    for row, is_alert in zip((headers, *rows), (None, *alerts), strict=True):
        cells = (fit(cell, size, at >= texts) for at, (cell, size) in enumerate(zip(row, sizes, strict=True)))
        yield " ".join(cells).rstrip(), "bold" if is_alert is None else "alert" if is_alert else ""


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
