"""E-mail over SMTP: provider "smtp". One delivery is one mail to one recipient."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from shards.channels import mail_settings
from shards.channels.base import Context, Delivery, Recipient, SendError, Sent
from shards.channels.mail_message import Composer, Mail
from shards.channels.smtp_answers import refusal, worded
from shards.channels.smtp_conversation import LostError, RefusedError, Reply
from shards.channels.smtp_pool import Pool
from shards.channels.smtp_server import Server, own_name

OF_TIMEOUT = 0.9  # we give up before the caller does, and can tell whether the mail may have been taken
TO_BEGIN = 0.4  # the part of the timeout in which there must be a connection: the rest is the server's, for its answer


class Times(NamedTuple):
    """Of one attempt, on the loop's clock: until when there must be a connection, and an answer."""

    begin: float
    end: float


class EmailChannel:
    """Keeps connections open, and takes their breaking while they were idle for no failure."""

    name = "email"
    Settings = mail_settings.Settings

    def __init__(self, settings: mail_settings.Settings, context: Context) -> None:
        self._composer = Composer(settings)
        self._context = context
        self._server = Server(settings, context, own_name(self._composer.domain))
        self._pool = Pool(self._server.connect, settings.connections, settings.idle, settings.mails_per_connection)

    def supports_recipient(self, recipient: Recipient) -> bool:
        return recipient.contacts.email is not None

    def variables(self, delivery: Delivery) -> dict[str, Any]:
        """For the end of a mail's text."""
        return {"unsubscribe_url": self._composer.link(delivery) or None}

    async def send(self, delivery: Delivery) -> Sent:
        now = asyncio.get_running_loop().time()
        times = Times(now + TO_BEGIN * self._context.timeout_s, now + OF_TIMEOUT * self._context.timeout_s)
        mail = self._composer.compose(delivery)
        server = self._server.name
        try:
            reply = await self._send(mail, times)
        except RefusedError as refused:
            contact = delivery.recipient.contacts.email or ""
            raise refusal(self._context.answers, server, refused.command, refused.reply, contact) from None
        except LostError as lost:
            name, text = "unreachable", f"the connection to {server} broke: {lost.why}"
            if lost.sent:
                name, text = "unanswered", f"{server} got the whole mail and did not say whether it took it: {lost.why}"
            raise SendError(self._context.answers.error_class("smtp", name), worded(text)) from None
        return Sent(worded(reply.text))

    async def _send(self, mail: Mail, times: Times) -> Reply:
        try:
            return await self._try(mail, times)
        except LostError as lost:
            if not lost.stale:
                raise
            return await self._try(mail, times, fresh=True)

    async def _try(self, mail: Mail, times: Times, *, fresh: bool = False) -> Reply:
        async with self._pool.connection(times.begin, fresh=fresh) as conversation:
            if objection := conversation.objection(mail):
                raise SendError("permanent", f"{self._server.name} cannot take it: {objection}")
            return await conversation.send(mail, times.end)

    async def close(self) -> None:
        await self._pool.close()
