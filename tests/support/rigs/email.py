"""E-mail beside a mail server of its kind, which does as the contract suite tells it."""

from __future__ import annotations

from shards.answers import ErrorClass
from shards.channels.base import Context, Recipient
from shards.channels.email import EmailChannel
from shards.contacts import Contacts
from tests.support.smtp import DROP, HANG, ScriptedServer

ANSWERS: dict[ErrorClass, tuple[str, str]] = {
    "transient": ("RCPT", "450 4.2.2 Mailbox full"),
    "permanent": (".", "554 5.7.1 Looks like spam"),
    "bad_address": ("RCPT", "550 5.1.1 User unknown"),
    "throttled": ("MAIL", "451 4.7.28 Too many mails from you"),
    "ambiguous": (".", DROP),
    "misconfigured": ("MAIL", "530 5.7.0 Authentication required"),
}


class EmailRig:
    name = "email"
    classes = frozenset(ANSWERS)

    def __init__(self) -> None:
        self._server: ScriptedServer | None = None

    @property
    def server(self) -> ScriptedServer:
        assert self._server is not None, "open() comes first"
        return self._server

    def open(self) -> None:
        self._server = ScriptedServer().__enter__()

    def close(self) -> None:
        self.server.close()

    def channel(self, timeout_s: float = 5.0) -> EmailChannel:
        settings = EmailChannel.Settings(
            host="127.0.0.1", port=self.server.port, tls="none", sender="Shop <no-reply@shop.example>"
        )
        return EmailChannel(settings, Context("email", timeout_s))

    def recipient(self) -> Recipient:
        return Recipient("user-1", Contacts(email="ada@example.org"))

    def stranger(self) -> Recipient:
        return Recipient("user-2", Contacts(phone="+33612345678"))

    def received(self) -> list[str]:
        found = []
        for mail in self.server.mails:
            body = mail.get_body(("plain", "html"))
            found.append(f"{mail['Subject']}\n{body.get_content() if body is not None else ''}")
        return found

    def keys(self) -> list[str]:
        return [mail["Message-ID"] for mail in self.server.mails]

    def fail(self, error_class: ErrorClass) -> None:
        self.server.on(*ANSWERS[error_class])

    def hang(self) -> None:
        self.server.on(".", HANG)
