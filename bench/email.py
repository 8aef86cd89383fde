"""How many mails per second, from submit to the last outcome? Beside a bare client, to the same server.

Two shards, the mail server and the producer share the machine. The floor is one process that only sends one mail that
is made already, over as many connections, with as few round trips. Beside it: the channel alone, in one process.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any, Literal

from bench import delivered
from bench.mail_sink import sink
from bench.report import Figure, medians, options, result, show
from shards.channels.base import Context
from shards.channels.email import EmailChannel
from shards.wire.notification import Notification
from tests.support.deliveries import mail_to
from tests.support.service import RunningDispatcher

CONNECTIONS = 10  # per shard
CONFIG = """
[channels.email]
provider = "smtp"
host = "127.0.0.1"
port = {port}
tls = "none"
sender = "Shop <no-reply@shop.example>"
connections = {connections}
concurrency = 64
[rate_limits]
email = "1000000/second"
"""
TEXT = "Your order is on its way \N{EM DASH} it will be with you tomorrow.\n\nIt comes by post.\n" * 4
GROUP = b"MAIL FROM:<no-reply@shop.example>\r\nRCPT TO:<user-1@example.org>\r\nDATA\r\n"
USERS = 1_000
DONE_S = 120.0


def run(
    rounds: int = 3, mails: int = 10_000, shards: int = 2, durability: Literal["power", "process"] = "power"
) -> dict[str, Any]:
    with sink() as port:
        config = CONFIG.format(port=port, connections=CONNECTIONS)
        with RunningDispatcher(config, shards=shards, durability=durability) as dispatcher:
            for number in range(USERS):
                user = {"contacts": {"email": f"user-{number}@example.org"}}
                dispatcher.request("user.put", user_id=f"user-{number}", user=user)
            sent = iter(range(mails, (rounds + 1) * mails + 1, mails))
            product, alone, floor = medians(
                rounds,
                lambda: delivered.rate(dispatcher, next(sent), mails, _notification),
                lambda: asyncio.run(_alone(port, mails)),
                lambda: asyncio.run(_bare(port, mails, shards * CONNECTIONS)),
            )
    figures = [
        Figure(f"mails, {shards} shards, {durability}", product, floor, "events/s"),
        Figure("the channel alone, one process", alone, floor, "events/s"),
    ]
    return result("email", rounds, figures, mails=mails, users=USERS, connections=shards * CONNECTIONS)


def _notification(number: int) -> Notification:
    return Notification(
        user_id=f"user-{number * 7_919 % USERS}",
        category="transaction",
        title=f"Order {number} has shipped",
        body=TEXT,
        channels=["email"],
        idempotency_key=str(number),
    )


async def _alone(port: int, mails: int) -> float:
    settings = EmailChannel.Settings(
        host="127.0.0.1", port=port, tls="none", sender="Shop <no-reply@shop.example>", connections=2 * CONNECTIONS
    )
    channel = EmailChannel(settings, Context("email", DONE_S))
    started = perf_counter()
    await asyncio.gather(*(_send(channel, first, mails) for first in range(2 * CONNECTIONS)))
    took = perf_counter() - started
    await channel.close()
    return mails / took


async def _send(channel: EmailChannel, first: int, mails: int) -> None:
    for number in range(first, mails, 2 * CONNECTIONS):
        await channel.send(mail_to(f"user-{number}@example.org", title=f"Order {number} has shipped", text=TEXT))


async def _bare(port: int, mails: int, connections: int) -> float:
    """Mails per second of a client that does nothing else."""
    content = f"Subject: Order 17 has shipped\n\n{TEXT}.\n".replace("\n", "\r\n").encode()

    async def send(count: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await reader.readline()
        for _ in range(count):
            writer.write(GROUP)
            for _ in range(3):
                await reader.readline()
            writer.write(content)
            await reader.readline()
        writer.close()

    started = perf_counter()
    await asyncio.gather(*(send(mails // connections) for _ in range(connections)))
    return mails / (perf_counter() - started)


def main() -> None:
    chosen = options("bench.email", __doc__, 3, mails=10_000, shards=2, durability="power")
    show(run(chosen.rounds, chosen.mails, chosen.shards, chosen.durability), chosen.json)


if __name__ == "__main__":
    main()
