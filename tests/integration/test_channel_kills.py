"""Shards and the router are killed while webhooks and mails are under way: each arrives, and few arrive twice."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest

from tests.support.client import SubmitClient
from tests.support.endpoint import Endpoint
from tests.support.killer import Killer
from tests.support.mail_server import MailServer
from tests.support.service import RunningDispatcher, wait_until

COUNT = 900
BATCH = 50
KILLS = 3
CONCURRENCY = 16


def submitted(client: SubmitClient, batch: list[dict[str, Any]]) -> list[str] | None:
    """The ids of a batch that was taken; None if it is to be sent again."""
    try:
        return list(client.submit(*batch)["ids"])
    except AssertionError:  # refused, or no answer in time
        return None


@pytest.mark.slow
def test_each_webhook_and_mail_arrives_and_only_what_was_under_way_arrives_twice() -> None:
    with MailServer() as mail, Endpoint() as endpoint:
        config = f"""
        [retry]
        base = "50ms"
        [channels.webhook]
        allow_private = ["127.0.0.0/8"]
        ports = [{endpoint.port}]
        concurrency = {CONCURRENCY}
        [channels.webhook.retry]
        base = "50ms"
        [channels.email]
        host = "127.0.0.1"
        port = {mail.port}
        tls = "none"
        sender = "shop@example.org"
        concurrency = {CONCURRENCY}
        """
        with RunningDispatcher(config, shards=2) as service:
            for user in range(20):
                contacts = {"webhook": {"url": endpoint.url}, "email": f"user-{user}@example.org"}
                service.request("user.put", user_id=f"user-{user}", user={"contacts": contacts})
            assert service.process
            killer = Killer(service.process.pid, 2, random.Random(7))
            ids: list[str] = []
            with SubmitClient(service.submit, timeout_s=2.0) as client:
                for first in range(0, COUNT, BATCH):
                    batch = [
                        {
                            "user_id": f"user-{number % 20}",
                            "title": f"number {number}",
                            "channels": ["webhook" if number % 2 else "email"],
                            "idempotency_key": f"k{number}",
                        }
                        for number in range(first, first + BATCH)
                    ]
                    ids += wait_until(lambda batch=batch: submitted(client, batch), 60, "a receipt")  # type: ignore[misc]  # bound now
                    if first % (COUNT // KILLS // BATCH * BATCH) == 0:
                        wait_until(killer.kill_one, what="somebody to kill")

                def delivered() -> bool:
                    stats = client.request("stats")
                    return not stats["not_responding"] and stats["outcomes"]["delivered"] == COUNT

                wait_until(delivered, 60, "all are delivered")
            arrived = Counter(json.loads(request.body)["data"]["title"] for request in tuple(endpoint.taken))
            arrived += Counter(str(message["Subject"]) for message in mail.mails)
            repeated = arrived.total() - COUNT
        assert len(set(ids)) == COUNT
        assert arrived.keys() == {f"number {number}" for number in range(COUNT)}
        assert repeated <= KILLS * 2 * CONCURRENCY, f"{repeated} arrived twice"
