"""What the command line shows to people of a simulation, of a notification and of the whole service."""

from __future__ import annotations

import time
from typing import Any

from dispatcher.terminal import Progress, fields, second, table

PROGRESS_EVERY_S = 5.0  # where no terminal shows a line that changes


class SimulationProgress(Progress):
    """How far a simulation has come."""

    def __init__(self) -> None:
        super().__init__(elsewhere_s=PROGRESS_EVERY_S)
        self._started = time.monotonic()

    def follow(self, stats: dict[str, Any]) -> None:
        done, events = stats["events_done"], stats["events"]
        rate = done / max(0.001, time.monotonic() - self._started)
        left_s = (events - done) / rate if rate else 0.0
        self.show(
            f"{done:,} of {events:,} events  queued {stats['pending']:,}  "
            f"delivered {stats['outcomes']['delivered']:,}  failed {stats['failed_attempts']:,}  "
            f"retried {max(0, stats['failed_attempts'] - stats['outcomes']['dead']):,}  "
            f"dead {stats['outcomes']['dead']:,}  {rate:,.0f}/s  {left_s:.0f} s left"
        )


def simulation(summary: dict[str, Any]) -> str:
    outcomes = {name: count for name, count in summary["outcomes"].items() if count}
    latency = summary["latency_ms"]
    rows = [
        ("events", f"{summary['events']:,} in {summary['elapsed_s']:.2f} s: {summary['events_per_s']:,}/s"),
        ("accepted", f"{summary['accepted']:,}"),
        ("duplicates dropped", f"{summary['duplicates']:,}"),
        ("rejected", f"{summary['rejected']:,}"),
        ("deliveries planned", f"{summary['planned']:,}"),
        *((f"  {name}", f"{count:,}") for name, count in outcomes.items()),
        ("  pending", f"{summary['pending']:,}"),
        ("conserved", "yes" if summary["conserved"] else "NO: planned is not outcomes + pending"),
        ("attempts", f"{summary['attempts']:,}, {summary['failed_attempts']:,} failed"),
        ("delivered per second", f"{summary['deliveries_per_s']:,}"),
        ("latency to the inbox", f"p50 {latency['p50']} ms, p99 {latency['p99']} ms, max {latency['max']} ms"),
        ("durability", summary["durability"] + (" (on tmpfs: it says nothing)" if summary["on_tmpfs"] else "")),
        ("CPU seconds", ", ".join(f"{role} {seconds}" for role, seconds in summary["cpu_s"].items())),
        ("memory, MB", ", ".join(f"{role} {size}" for role, size in summary["rss_mb"].items())),
    ]
    dead = [
        ("dead letters", f"{summary['dead_letters']:,}"),
        *((f"  {reason}", f"{count:,}") for reason, count in summary["dead_letters_by_reason"].items()),
        ("  replayed and delivered", f"{summary['dead_drained']:,}"),
    ]
    return fields(rows + dead)


def status(answer: dict[str, Any]) -> str:
    rows = [
        (
            delivery["channel"],
            delivery["outcome"],
            delivery["reason"],
            delivery["attempts"],
            second(delivery["updated_at"]),
            second(delivery["next_attempt_at"]),
            delivery["last_error"],
        )
        for delivery in answer["deliveries"]
    ]
    headers = ("channel", "outcome", "reason", "attempts", "updated", "next attempt", "last error")
    return f"{answer['id']}\n" + table(headers, rows, flexible=("last error",))


def stats(answer: dict[str, Any]) -> str:
    channels = [
        (
            name,
            channel["planned"],
            *(
                channel["outcomes"][outcome]
                for outcome in ("delivered", "suppressed", "rate_limited", "expired", "dead")
            ),
            channel["queued"] + channel["in_flight"],
            channel["retrying"],
            channel["failed_attempts"],
            channel["latency_ms"]["p50"],
            channel["latency_ms"]["p99"],
        )
        for name, channel in answer["channels"].items()
        if channel["planned"]
    ]
    headers = (
        "channel", "planned", "delivered", "suppressed", "limited", "expired", "dead",
        "queued", "retrying", "failed tries", "p50 ms", "p99 ms",
    )  # fmt: skip
    processes = [
        (f"shard {shard['shard']}", shard["pid"], shard["cpu_s"], shard["rss_mb"], shard["pending"], shard["uptime_s"])
        for shard in answer["shards"]
    ]
    processes += [
        (name, answer[name]["pid"], answer[name]["cpu_s"], answer[name]["rss_mb"], None, None)
        for name in ("router", "collector")
        if answer[name]
    ]
    dead = ", ".join(f"{reason} {count:,}" for reason, count in answer["dead_letters"].items() if count)
    window_s = answer["idempotency_window_s"] or 0.0  # none where no shard answered
    head = (
        f"accepted {answer['accepted']:,}  duplicates {answer['duplicates']:,}  rejected {answer['rejected']:,}  "
        f"planned {answer['planned']:,}  pending {answer['pending']:,}  "
        f"conserved {'yes' if answer['conserved'] else 'NO'}\n"
        f"dead letters {dead or 'none'}  idempotency window {window_s:,.0f} s"
    )
    if put_aside := [case for shard in answer["shards"] for case in shard["quarantined"]]:
        head = f"DAMAGED, put aside, each with a report: {', '.join(put_aside)}\n{head}"
    if answer["not_responding"]:
        head = f"NOT RESPONDING, and not counted here: {', '.join(answer['not_responding'])}\n{head}"
    return "\n\n".join(
        (
            head,
            table(headers, channels) if channels else "nothing was planned yet",
            table(("process", "pid", "CPU s", "memory MB", "pending", "up s"), processes),
        )
    )
