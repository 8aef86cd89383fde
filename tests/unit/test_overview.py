"""The live view: what is drawn of two answers to ``stats``, and what stands out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from wcwidth import wcswidth

from dispatcher.channel_report import alerts, listed, used
from dispatcher.overview import Pair, Sample, lines, rates
from dispatcher.router.totals import merge_stats
from shards.ledger import FINAL, OUTCOMES

ZERO = {OUTCOMES[final]: 0 for final in FINAL}


def channel(delivered: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "planned": delivered, "attempts": delivered, "failed_attempts": 0, "queued": 0, "in_flight": 0, "retrying": 0,
        "deferred": 0, "outcomes": ZERO | {"delivered": delivered}, "state": {"configured": True},
        "latency": {"buckets": {4: delivered}, "max_us": 500},
    } | more  # fmt: skip


def shard(number: int, pid: int, cpu_s: float, **channels: dict[str, Any]) -> dict[str, Any]:
    return {
        "shard": number, "pid": pid, "cpu_s": cpu_s, "rss_mb": 40.0, "uptime_s": 60.0, "accepted": 1, "duplicates": 0,
        "rejected": 0, "pending": 0, "dead_letters": {}, "broadcasts": [], "config_version": 1, "quarantined": [],
        "idempotency_entries": 10, "idempotency_window_s": 86_400.0, "journal_bytes": 2**20, "channels": channels,
    }  # fmt: skip


def stats(*shards: dict[str, Any] | None) -> dict[str, Any]:
    collector = {"pid": 1, "cpu_s": 1.0, "rss_mb": 40.0, "dead_letters": 0}
    return {**merge_stats(list(shards), collector, {"pid": 2, "cpu_s": 2.0, "rss_mb": 30.0}), "reasons": {}}


def texts(pair: Pair, columns: int = 80, problem: str = "") -> list[str]:
    return [text for text, _ in lines(pair, columns, problem)]


def row(pair: Pair, *first: str, columns: int = 80) -> dict[str, str]:
    """The cells of the line that begins so, by their headers."""
    headers: list[str] = []
    for line in texts(pair, columns):
        words = line.replace("shard ", "shard_").replace("CPU %", "CPU").replace(" MB", "_MB").split()
        if words[:1] in (["channel"], ["process"]):
            headers = words
        elif headers and words[: len(first)] == [*first]:
            return dict(zip(headers, words, strict=True))
    raise AssertionError(f"no line begins with {first}")


def first_cells(pair: Pair) -> list[list[str]]:
    """The first two cells of each line of both tables, from above."""
    found = [line.split() for line in texts(pair)]
    start = next(at for at, words in enumerate(found) if words[:1] == ["channel"])
    return [words[:2] for words in found[start + 1 :] if words and words[0] != "process"]


def test_rates_are_of_the_time_between_two_samples() -> None:
    before = Sample(10.0, stats(shard(0, 5, 1.0, email=channel(100))))
    now = Sample(12.0, stats(shard(0, 5, 2.0, email=channel(1_100, failed_attempts=3))))
    assert rates(Pair(now, before)) == {"email": {"delivered_per_s": 500.0, "failed_per_s": 1.5}}
    cells = row(Pair(now, before), "email")
    assert (cells["deliv/s"], cells["fail/s"]) == ("500", "1.5")
    assert row(Pair(now, before), "shard_0")["CPU"] == "50"  # percent of a processor


def test_there_is_no_rate_where_different_things_were_counted() -> None:
    one, two = shard(0, 5, 1.0, email=channel(100)), shard(1, 6, 1.0, email=channel(100))
    whole, half = stats(one, two), stats(one, None)
    nothing = {"email": {"delivered_per_s": None, "failed_per_s": None}}
    assert rates(Pair(Sample(1.0, whole))) == nothing
    assert rates(Pair(Sample(2.0, whole), Sample(1.0, half))) == nothing
    assert rates(Pair(Sample(2.0, half), Sample(1.0, whole))) == nothing
    replaced = copy.deepcopy(whole)
    replaced["shards"][1] |= {"pid": 7, "cpu_s": 0.1}
    pair = Pair(Sample(2.0, replaced), Sample(1.0, whole))
    assert [row(pair, f"shard_{number}")["CPU"] for number in (0, 1)] == ["0", "-"]


def test_a_frame_fits_80_columns_whatever_the_numbers() -> None:
    huge = channel(
        123_456_789, failed_attempts=98_765_432, queued=10_000_000, in_flight=64, retrying=50_000, deferred=999_999,
        outcomes=ZERO | {"delivered": 123_456_789, "dead": 1_234_567}, latency={"buckets": {9_999_999: 1}, "max_us": 1},
    )  # fmt: skip
    big = shard(0, 5, 1.0, **{"a-plug-in-of-a-long-name": huge, "sms": channel()}) | {"pending": 10_000_000}
    found = texts(Pair(Sample(2.0, stats(big)), Sample(1.0, stats(shard(0, 5, 1.0, sms=channel())))))
    assert max(map(wcswidth, found)) <= 80
    assert "10.0M" in " ".join(found)


PAUSE = {"reason": "misconfigured", "since_ms": 1_795_308_999_240, "message": "535 5.7.8 bad \x1b credentials"}


def test_what_is_paused_refused_or_silent_stands_out_with_its_words() -> None:
    paused = channel(state={"configured": True, "paused": PAUSE})
    refused = channel(
        state={
            "configured": True,
            "providers": [{"provider": "smtp", "state": "refused", "message": "no such account"}],
        }
    )
    found = lines(Pair(Sample(1.0, stats(shard(0, 5, 1.0, email=paused, sms=refused), None))), 80)
    said = " ".join(text.strip() for text, style in found if style == "alert")
    assert "NOT RESPONDING, and not counted here: shard 1" in said
    assert "PAUSED email since 2026-" in said
    assert "misconfigured: 535 5.7.8 bad \\x1b credentials; correct that, then: dispatcher config reload" in said
    assert (
        "REFUSED sms: provider 1 (smtp) is not asked any more: no such account; correct that, then: dispatcher config"
        in said
    )
    assert [text.split()[:2] for text, style in found if style == "alert" and text.startswith("email")] == [
        ["email", "paused"]
    ]
    assert [text.split()[:2] for text, style in found if style == "alert" and text.startswith("sms")] == [
        ["sms", "failing"]
    ]


def test_a_channel_without_workers_is_in_trouble_when_something_waits() -> None:
    attached = {"configured": True, "workers": 0}
    waiting, idle = channel(queued=3, state=attached), channel(state=attached)
    found = lines(Pair(Sample(1.0, stats(shard(0, 5, 1.0, pager=waiting, fax=idle)))), 80)
    said = [text for text, style in found if style == "alert"]
    assert "NO WORKER pager: what is for it waits; start a program that attaches to it" in said
    assert not [text for text in said if text.startswith("NO WORKER fax")]
    assert [text.split()[:3] for text, _ in found if text.startswith("pager")] == [["pager", "no", "worker"]]


def test_words_without_end_leave_room_for_the_rest() -> None:
    paused = channel(state={"configured": True, "paused": PAUSE | {"message": "no " * 1_000}})
    assert len(texts(Pair(Sample(1.0, stats(shard(0, 5, 1.0, email=paused)))))) < 20


def test_what_went_wrong_with_the_asking_is_the_first_alert() -> None:
    found = lines(Pair(Sample(1.0, stats(shard(0, 5, 1.0)))), 80, "NO ANSWER for 3 s")
    assert ("NO ANSWER for 3 s", "alert") in found


def test_damage_and_loss_stand_out() -> None:
    lost = stats(shard(0, 5, 1.0, email=channel(5, planned=6)) | {"quarantined": ["quarantine/1"]})
    said = texts(Pair(Sample(1.0, lost)))
    assert "NOT CONSERVED: planned is not outcomes + pending; stop it, and run:" in " ".join(said)
    assert "DAMAGED, put aside, each with a report: quarantine/1" in said


@pytest.mark.parametrize("columns", [20, 30, 40, 60, 80, 120, 200])
def test_what_matters_least_is_left_out_where_it_is_narrow(columns: int) -> None:
    pair = Pair(Sample(1.0, stats(shard(0, 5, 1.0, email=channel(7, failed_attempts=3)))))
    assert max(map(wcswidth, texts(pair, columns, "NO ANSWER for 3 s"))) <= columns
    cells = row(pair, "email", columns=columns)
    assert cells["state"] == "running"
    assert ("deliv/s" in cells, "cancelled" in cells) == (columns >= 30, columns >= 120)


def test_the_worst_comes_first() -> None:
    paused = channel(state={"configured": True, "paused": PAUSE})
    off = channel(3, state={"configured": False})
    open_one = {"provider": "twilio", "state": "open"}
    closed = {"provider": "sms-http", "state": "closed"}
    degraded = channel(state={"configured": True, "providers": [open_one, closed]})
    broken = channel(state={"configured": True, "providers": [open_one]})
    before = stats(shard(1, 5, 1.0, inapp=channel(), chat=channel()))
    young = shard(1, 6, 0.1, inapp=channel(1), off=off, sms=degraded, push=broken, email=paused, chat=channel())
    young["channels"]["chat"]["failed_attempts"] = 1
    now = stats(None, young | {"uptime_s": 5.0}, shard(2, 5, 1.0) | {"uptime_s": 100.0})
    now["channels"] |= {name: one | {"planned": 1} for name, one in now["channels"].items()}
    now["channels"] |= {
        "pager": now["channels"]["inapp"] | {"state": "no_worker"},
        "fax": now["channels"]["inapp"] | {"state": "on_fire"},  # as a newer dispatcher may say
    }
    before["not_responding"] = now["not_responding"]
    assert first_cells(Pair(Sample(2.0, now), Sample(1.0, before))) == [
        ["fax", "on_fire"],
        ["email", "paused"],
        ["push", "failing"],
        ["chat", "failing"],  # by its attempts
        ["pager", "no"],  # worker
        ["sms", "degraded"],
        ["off", "off"],
        ["inapp", "running"],
        ["shard", "0"],  # does not answer
        ["shard", "1"],  # has just been started
        ["shard", "2"],
        ["router", "ok"],
        ["collector", "ok"],
    ]


def test_all_outcomes_and_reasons_are_told() -> None:
    outcomes = ZERO | {"delivered": 5, "dead": 3, "suppressed": 2, "rate_limited": 1}
    counted = shard(0, 5, 1.0, email=channel(5, outcomes=outcomes, retrying=4)) | {"dead_letters": {"max_retries": 3}}
    said = " ".join(texts(Pair(Sample(1.0, stats(counted)))))
    for told in ("delivered 5", "dead 3", "suppressed 2", "rate_limited 1", "retrying 4", "letters:  max_retries 3"):
        assert told in said
    assert "expired 0" not in said
    assert "latency ms:  p50 0.5  p99 0.5  max 0.5" in said


# --- channel list -------------------------------------------------------------------------------------------------


def test_a_channel_that_never_was_is_not_listed() -> None:
    off: dict[str, Any] = {"state": {"configured": False}}
    found = used(stats(shard(0, 5, 1.0, email=channel(), sms=channel(**off), push=channel(3, **off))))
    assert list(found["channels"]) == ["email", "push"]
    assert "not configured" in listed(found)


@pytest.mark.parametrize(
    ("states", "told"),
    [
        (("closed", "closed"), "smtp"),
        (("open", "open"), "smtp (open)"),
        (("closed", "half_open"), "smtp (half open in 1 of 2 shards)"),
    ],
)
def test_a_provider_is_told_with_its_breakers(states: tuple[str, ...], told: str) -> None:
    found = stats(
        *(
            shard(
                at,
                at,
                1.0,
                email=channel(state={"configured": True, "providers": [{"provider": "smtp", "state": one}]}),
            )
            for at, one in enumerate(states)
        )
    )
    assert f"  {told}  " in listed(used(found))
    assert not list(alerts(found))
