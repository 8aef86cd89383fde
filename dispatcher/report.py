"""What the command line shows to people of a simulation, of a notification and of the whole service."""

from __future__ import annotations

import time
from typing import Any

from dispatcher import channel_report
from dispatcher.terminal import Progress, fields, plain, relative, second, shown, table

PROGRESS_EVERY_S = 5.0  # where no terminal shows a line that changes
NOTES = {"suppressed": ", by the users' drawn preferences"}


class SimulationProgress(Progress):
    """How far a simulation has come."""

    def __init__(self) -> None:
        super().__init__(elsewhere_s=PROGRESS_EVERY_S)
        self._started = time.monotonic()

    def follow(self, stats: dict[str, Any]) -> None:
        done, events = stats["events_done"], stats["events"]
        rate = done / max(0.001, time.monotonic() - self._started)
        left_s = (events - done) / rate if rate else 0.0
        failed, dead = stats["failed_attempts"], stats["outcomes"]["dead"]
        self.show(
            f"{100 * done // max(1, events)} % of {events:,}  {rate:,.0f}/s  {left_s:.0f} s left  "
            f"queued {stats['pending']:,}  delivered {stats['outcomes']['delivered']:,}  failed {failed:,}  "
            f"retried {max(0, failed - dead):,}  dead {dead:,}"
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
        *((f"  {name}", f"{count:,}{NOTES.get(name, '')}") for name, count in outcomes.items()),
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


def broadcast(whole: dict[str, Any]) -> str:
    """How far a notification to a topic has come."""
    return fields(
        [
            ("id", whole["id"]),
            ("topic", whole["topic"]),
            ("category", whole["category"]),
            ("state", whole["state"]),
            ("users", f"{whole['users_done']:,} of {whole['users']:,}"),
            ("deliveries", f"{whole['planned']:,}"),
            *((f"  {name}", f"{count:,}") for name, count in sorted(whole["outcomes"].items())),
            ("accepted", second(whole["created_at"])),
            ("due", second(whole["send_at"])),
            ("started", second(whole["started_at"])),
            ("finished", second(whole["finished_at"])),
            ("error", whole["error"]),
        ]
    )


def broadcasts(found: list[dict[str, Any]]) -> str:
    """A line for each."""
    rows = [
        (
            one["id"],
            one["topic"],
            one["state"],
            f"{one['users_done'] / max(1, one['users']):.0%}",
            one["users_done"],
            one["users"],
            one["planned"],
            second(one["started_at"] or one["send_at"]),
        )
        for one in found
    ]
    headers = ("broadcast", "topic", "state", "done", "users", "of", "planned", "started or due")
    return table(headers, rows, flexible=("topic",))


def status(answer: dict[str, Any]) -> str:
    if "broadcast" in answer:
        return broadcast(answer["broadcast"])
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
    deliveries = table(headers, rows, flexible=("last error",)) + "\n" if rows else ""
    return f"{answer['id']}\n{deliveries}\n{decisions(answer['decisions'])}"


def explanation(answer: dict[str, Any]) -> str:
    text = decisions(answer["decisions"])
    return f"{text}\n\nand {answer['more']:,} recipients more" if answer.get("more") else text


def cancelled(answer: dict[str, Any]) -> str:
    count = answer["cancelled"]
    if not count:
        return "cancelled 0 deliveries; what is being attempted at this moment is not tried again"
    return f"cancelled {count} {'delivery' if count == 1 else 'deliveries'}"


_MARKS = {"pass": ("✓", "+"), "skip": ("-", "-"), "defer": ("…", "~"), "block": ("✗", "x"), "rejected": ("✗", "x")}
_NO_MARK = ("→", "=")  # of an outcome


def decisions(found: list[dict[str, Any]]) -> str:
    """A line each, those of a channel, and of a recipient where there are several, under its name."""
    now_ms = int(time.time() * 1000)
    width = max(len(decision["step"]) for decision in found)
    lines: list[str] = []
    heading: tuple[str | None, str | None] = (None, None)
    for decision in found:
        user_id, channel = decision.get("user_id"), decision["channel"]
        if user_id != heading[0]:
            lines += ["", f"to {plain(user_id or '')}"] if lines else [f"to {plain(user_id or '')}"]
        if channel is not None and (user_id, channel) != heading:
            lines.append(channel)
        heading = user_id, channel
        facts = _facts(decision["detail"], now_ms)
        reason = decision["reason"] if decision["reason"] not in (decision["step"], decision["result"]) else ""
        told = ": ".join(filter(None, (reason, facts)))
        if decision["step"] == "outcome":
            told = " ".join(filter(None, (decision["result"].upper(), f"({told})" if told else "")))
        mark = shown(*_MARKS.get(decision["result"], _NO_MARK))
        indent = "  " if channel is not None else ""
        lines.append(f"{indent}{mark} {decision['step']:<{width}}  {plain(told)}".rstrip())
    return "\n".join(lines)


def _facts(detail: dict[str, Any], now_ms: int) -> str:
    """Times are there for programs and for people: shown are the local ones."""
    facts = []
    for name, value in detail.items():
        if f"{name}_rfc3339" in detail:
            facts.append(f"{name} {second(value)} ({relative(value, now_ms)})")
        elif not name.endswith("_rfc3339") and value not in (None, "", [], {}):
            facts.append(f"{name} {_fact(value)}")
    return ", ".join(facts)


def _fact(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return " ".join(f"{key}={inner}" for key, inner in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


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
            channel["deferred"],
            channel["failed_attempts"],
            channel["latency_ms"]["p50"],
            channel["latency_ms"]["p99"],
        )
        for name, channel in answer["channels"].items()
        if channel["planned"]
    ]
    headers = (
        "channel", "planned", "delivered", "suppressed", "limited", "expired", "dead",
        "queued", "retrying", "deferred", "failed tries", "p50 ms", "p99 ms",
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
    head = "\n".join((*map(plain, channel_report.alerts(answer)), head))
    if put_aside := [case for shard in answer["shards"] for case in shard["quarantined"]]:
        head = f"DAMAGED, put aside, each with a report: {', '.join(put_aside)}\n{head}"
    if answer["not_responding"]:
        silent = [
            name + (f" ({answer['reasons'][name]})" if name in answer["reasons"] else "")
            for name in answer["not_responding"]
        ]
        head = f"NOT RESPONDING, and not counted here: {', '.join(silent)}\n{head}"
    return "\n\n".join(
        (
            head,
            table(headers, channels) if channels else "nothing was planned yet",
            *([broadcasts(answer["broadcasts"])] if answer["broadcasts"] else []),
            table(("process", "pid", "CPU s", "memory MB", "pending", "up s"), processes),
        )
    )
