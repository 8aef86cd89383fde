"""Shards, the router and once everything are killed while webhooks, mails and deliveries of a plug-in are under way.

Each arrives, few arrive twice, and then under the same id.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import SubmitClient
from tests.support.endpoint import Endpoint
from tests.support.killer import Killer
from tests.support.mail_server import MailServer
from tests.support.service import ROOT, RunningDispatcher, wait_until

COUNT = 900
BATCH = 50
KILLS = 3
CONCURRENCY = 16
PATIENCE_S = 240.0  # the mail server is in this process, and slow where the machine is busy
CHANNELS = ("webhook", "email", "logbook")
CONFIG = """
[retry]
base = "50ms"
[channels.webhook]
allow_private = ["127.0.0.0/8"]
ports = [{port}]
concurrency = {concurrency}
[channels.webhook.retry]
base = "50ms"
[channels.email]
host = "127.0.0.1"
port = {mail}
tls = "none"
sender = "shop@example.org"
connections = {concurrency}
concurrency = {concurrency}
[channels.logbook]
class = "odd_channels:Logbook"
file = "{file}"
concurrency = {concurrency}
"""


def submitted(client: SubmitClient, batch: list[dict[str, Any]]) -> list[str] | None:
    """The ids of a batch that was taken; None if it is to be sent again."""
    try:
        return list(client.submit(*batch)["ids"])
    except AssertionError:  # refused, or no answer in time
        return None


def notification(number: int) -> dict[str, Any]:
    return {
        "user_id": f"user-{number % 20}",
        "title": f"number {number}",
        "channels": [CHANNELS[number % len(CHANNELS)]],
        "idempotency_key": f"k{number}",
    }


@pytest.mark.slow
def test_each_delivery_arrives_and_only_what_was_under_way_arrives_twice(tmp_path: Path) -> None:
    with MailServer() as mail, Endpoint() as endpoint:
        book = tmp_path / "book"
        service = RunningDispatcher(
            CONFIG.format(port=endpoint.port, mail=mail.port, file=book, concurrency=CONCURRENCY), shards=2
        )
        service.environment = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "tests" / "support" / "plugins", ROOT)))}
        with service:
            for user in range(20):
                contacts = {"webhook": {"url": endpoint.url}, "email": f"user-{user}@example.org"}
                service.request("user.put", user_id=f"user-{user}", user={"contacts": contacts})
            chance = random.Random(7)
            ids: list[str] = []
            with SubmitClient(service.submit, timeout_s=2.0) as client:
                killer = _killer(service, chance)
                for first in range(0, COUNT, BATCH):
                    batch = [notification(number) for number in range(first, first + BATCH)]
                    ids += wait_until(lambda batch=batch: submitted(client, batch), 60, "a receipt")  # type: ignore[misc]  # bound now
                    if first == COUNT // 2:
                        service.kill()
                        service.start()
                        killer = _killer(service, chance)
                    elif first % (COUNT // KILLS // BATCH * BATCH) == 0:
                        wait_until(killer.kill_one, what="somebody to kill")

                def delivered() -> bool:
                    stats = client.request("stats")
                    return not stats["not_responding"] and stats["outcomes"]["delivered"] == COUNT

                wait_until(delivered, PATIENCE_S, "all are delivered")
        webhooks = [
            (str(json.loads(one.body)["data"]["title"]), one.headers["webhook-id"]) for one in tuple(endpoint.taken)
        ]
        mails = [(str(message["Subject"]), str(message["Message-ID"])) for message in mail.mails]
        lines = [(str(line["title"]), str(line["id"])) for line in map(json.loads, book.read_text().splitlines())]
    arrived = Counter([*webhooks, *mails, *lines])
    assert len(set(ids)) == COUNT
    assert Counter(title for title, _ in arrived) == {f"number {number}": 1 for number in range(COUNT)}, "one id each"
    repeated = arrived.total() - COUNT
    bound = (KILLS + 2) * len(CHANNELS) * CONCURRENCY
    assert repeated <= bound, f"{repeated} arrived twice"


def _killer(service: RunningDispatcher, chance: random.Random) -> Killer:
    assert service.process
    return Killer(service.process.pid, 2, chance)
