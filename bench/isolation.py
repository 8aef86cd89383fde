"""What does an endpoint that hangs cost everybody else? Beside the same load without it.

A thousand webhooks are for a host that takes connections and says nothing. Meanwhile others go to the inbox, to another
endpoint and by mail; the times are from the submit to the delivery, as the service counts them.
"""

from __future__ import annotations

import socket
import threading
from functools import partial
from time import monotonic
from typing import Any

from bench.load import Submitter
from bench.receiver import receiver
from bench.report import Figure, options, result, show
from shards.wire.notification import Notification
from tests.support.service import RunningDispatcher, wait_until
from tests.support.smtp import ScriptedServer

CHANNELS = ("inapp", "webhook", "email")
CONFIG = """
[dispatcher]
drain = "1s"
[channels.webhook]
provider = "webhook"
allow_private = ["127.0.0.0/8"]
ports = []
[channels.email]
provider = "smtp"
host = "127.0.0.1"
port = {port}
tls = "none"
sender = "bench@example.org"
"""
USERS = 100
TICK_S = 0.02
SETTLED_S = 60.0


def run(rounds: int = 1, rate: int = 100, duration_s: float = 10.0, pending: int = 1_000) -> dict[str, Any]:
    found: dict[str, list[list[float]]] = {}
    for _ in range(rounds):
        for name, count in (("alone", 0), ("beside", pending)):
            found.setdefault(name, []).append(_latencies(rate, duration_s, count))
    names = [f"submit to {channel}, {share}" for channel in CHANNELS for share in ("p50", "p99")]
    alone, beside = ([sorted(values)[rounds // 2] for values in zip(*found[name], strict=True)] for name in found)
    figures = [Figure(*row, "ms") for row in zip(names, beside, alone, strict=True)]
    return result("isolation", rounds, figures, rate=rate, pending=pending)


def _latencies(rate: int, duration_s: float, pending: int) -> list[float]:
    """p50 and p99 of each channel, milliseconds."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=1_024) as silent,
        ScriptedServer() as mails,
        receiver() as (url, _),
        RunningDispatcher(CONFIG.format(port=mails.port)) as dispatcher,
    ):
        for number in range(USERS):
            _put(dispatcher, f"fine-{number}", url)
            _put(dispatcher, f"slow-{number}", f"http://127.0.0.1:{silent.getsockname()[1]}/")
        with Submitter(dispatcher.submit) as submitter:
            submitter.submit([[_one("slow", number, "webhook") for number in range(pending)]])
            if pending:
                wait_until(partial(_is_full, dispatcher), SETTLED_S, "deliveries that wait for the endpoint")
            _load(submitter, rate, duration_s)
        count = int(rate * duration_s)
        wait_until(partial(_is_done, dispatcher, count * len(CHANNELS)), SETTLED_S, "the end of what does not hang")
        channels = dispatcher.request("stats")["channels"]
        return [float(channels[name]["latency_ms"][share]) for name in CHANNELS for share in ("p50", "p99")]


def _put(dispatcher: RunningDispatcher, user: str, url: str) -> None:
    contacts = {"webhook": {"url": url}, "email": f"{user}@example.org"}
    dispatcher.request("user.put", user_id=user, user={"contacts": contacts})


def _one(who: str, number: int, channel: str) -> Notification:
    return Notification(user_id=f"{who}-{number % USERS}", title="A title", body="And a body.", channels=[channel])


def _load(submitter: Submitter, rate: int, duration_s: float) -> None:
    """So many per second on each channel."""
    pause, started, sent, count = threading.Event(), monotonic(), 0, int(rate * duration_s)
    while sent < count:
        due = min(count, int((monotonic() - started) * rate) + 1)
        batch = [_one("fine", number, channel) for number in range(sent, due) for channel in CHANNELS]
        if batch:
            submitter.submit([batch])
        sent = due
        pause.wait(TICK_S)


def _is_full(dispatcher: RunningDispatcher) -> bool:
    return bool(dispatcher.request("stats")["channels"]["webhook"]["waiting_for_endpoints"])


def _is_done(dispatcher: RunningDispatcher, count: int) -> bool:
    return int(dispatcher.request("stats")["outcomes"]["delivered"]) == count


def main() -> None:
    chosen = options("bench.isolation", __doc__, 1, rate=100, duration_s=10.0, pending=1_000)
    show(run(chosen.rounds, chosen.rate, chosen.duration_s, chosen.pending), chosen.json)


if __name__ == "__main__":
    main()
