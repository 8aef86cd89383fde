"""Providers that say "too much": their channels are slowed, others are not, and no message is lost."""

from __future__ import annotations

import pytest

from tests.support.endpoint import Endpoint
from tests.support.service import RunningDispatcher, wait_until
from tests.support.throttled import ThrottledEndpoint

PATIENCE_S = 120.0
PLACES = 64  # of a channel in one shard
SHARDS = 2
CHANNEL = """
[channels.{name}]
provider = "sms-http"
url = "http://127.0.0.1:{port}/send"
"""


@pytest.mark.slow
def test_a_service_that_takes_so_many_a_second_gets_all_of_them_for_few_attempts() -> None:
    with (
        ThrottledEndpoint(10) as slow,
        ThrottledEndpoint(50) as fast,
        ThrottledEndpoint(50, asks="1") as asking,
        Endpoint() as free,
    ):
        services = {"slow": slow, "fast": fast, "asking": asking, "free": free}
        counts = {"slow": 30, "fast": 150, "asking": 150, "free": 150}
        config = "".join(CHANNEL.format(name=name, port=service.port) for name, service in services.items())
        with RunningDispatcher(config, shards=SHARDS) as dispatcher:
            for user in range(20):
                phone = {"phone": f"+336123456{user:02}"}
                dispatcher.request("user.put", user_id=f"user-{user}", user={"contacts": phone})
            for name, count in counts.items():
                users = (f"user-{number % 20}" for number in range(count))
                dispatcher.client.submit(*({"user_id": user, "title": "to pay", "channels": [name]} for user in users))

            def left() -> set[str]:
                channels = dispatcher.request("stats")["channels"]
                return {name for name in counts if channels[name]["outcomes"]["delivered"] < counts[name]}

            wait_until(lambda: "free" not in left(), PATIENCE_S, "what is not slowed is delivered")
            assert left() == {"slow", "fast", "asking"}
            wait_until(lambda: not left(), PATIENCE_S, "all are delivered")
            channels = dispatcher.request("stats")["channels"]
            told = [one["channel"] for one in dispatcher.events() if one["event"] == "a channel is slowed"]
        assert set(told) == {"slow", "fast", "asking"}
        for name, count in counts.items():
            assert len(services[name].taken) == count, "none came twice"
            burnt = channels[name]["failed_attempts"]
            assert burnt <= SHARDS * (PLACES + 10), f"{name}: one wave, of which nothing was known, and few more"
