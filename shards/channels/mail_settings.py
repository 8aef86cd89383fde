"""The settings of the provider "smtp", and what can be said of them before anything is sent."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Literal

import msgspec

from shards.channels import mail_address, unsubscribe
from shards.channels.certificates import check_ca_file
from shards.channels.mail_policy import CONTROL
from shards.hidden import Secret
from shards.units import Seconds

PORTS = {"starttls": 587, "tls": 465, "none": 25}  # RFC 8314
HEADER_NAME = re.compile(r"[!-9;-~]{1,76}")  # RFC 5322, 3.6.8
HEADER_LENGTH_MAX = 900  # a line may have 998 characters, RFC 5322, 2.1.1
OURS = re.compile(
    "from|sender|to|cc|bcc|subject|date|message-id|reply-to|mime-version|auto-submitted|content-.*|list-unsubscribe.*|resent-.*",
    re.IGNORECASE,
)


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    host: str
    sender: str  # "Shop <no-reply@shop.example>"
    port: int = 0  # by default that of ``tls``
    tls: Literal["starttls", "tls", "none"] = "starttls"
    ca_file: str = ""
    username: str = ""
    password: Secret | None = None
    helo: str = ""
    reply_to: str = ""
    domain: str = ""
    headers: dict[str, str] = {}
    attachment_bytes: int = 10_000_000  # of one mail, before they are encoded
    unsubscribe_url: str = ""
    unsubscribe_secret: Secret | None = None
    connections: int = 10  # per shard
    idle: Seconds = Seconds(30)
    mails_per_connection: int = 100

    def __post_init__(self) -> None:
        """``ValueError`` begins with the key that it is about."""
        if not self.host or not self.host.isprintable() or set(self.host) & set(" /@"):
            raise ValueError(f"host is {self.host!r}; give the mail server's name, as in smtp.example.org")
        if self.host.count(":") == 1:
            raise ValueError(f"host is {self.host!r}; port is a setting of its own")
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port is {self.port}; it must be 1 to 65535, or 0 for that of tls")
        for key in ("connections", "mails_per_connection"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} is {getattr(self, key)}; it must be 1 or more")
        if self.attachment_bytes < 0:
            raise ValueError(f"attachment_bytes is {self.attachment_bytes}; it must be 0 or more")
        _check_mailbox("sender", self.sender)
        if self.reply_to:
            _check_mailbox("reply_to", self.reply_to)
        for key in ("helo", "domain"):
            if not re.fullmatch(r"[A-Za-z0-9.\[\]:-]*", getattr(self, key)):
                raise ValueError(f"{key} is {getattr(self, key)!r}; it is to be a domain, as in mail.example.org")
        self._check_access()
        for name, value in self.headers.items():
            _check_header(name, value)
        secret = self.unsubscribe_secret is not None
        if problem := unsubscribe.problem_of(self.unsubscribe_url, secret):
            raise ValueError(problem)

    def _check_access(self) -> None:
        if bool(self.username) != (self.password is not None):
            missing, given = ("password", "username") if self.username else ("username", "password")
            raise ValueError(f"{missing} is missing while there is a {given}; give both, or neither")
        if self.username and self.tls == "none" and not _is_loopback(self.host):
            raise ValueError(
                'tls is "none" while there is a password, which would cross the network in the clear; '
                'use "starttls" or "tls"'
            )
        check_ca_file(self.ca_file)

    @property
    def fitting(self) -> dict[str, Any]:
        """Of what every channel has: no attempt waits for a connection, and servers may greet and answer slowly."""
        return {"concurrency": self.connections, "timeout": "60s"}

    @property
    def port_used(self) -> int:
        return self.port or PORTS[self.tls]


def _check_mailbox(key: str, text: str) -> None:
    try:
        mail_address.parse_mailbox(text)
    except ValueError as error:
        raise ValueError(f"{key} is {text!r}: {error}; it is to be like Shop <no-reply@shop.example>") from None


def _check_header(name: str, value: str) -> None:
    if not HEADER_NAME.fullmatch(name):
        raise ValueError(f"headers has {name!r}, which is no name of a header; use letters, digits and -")
    if OURS.fullmatch(name):
        raise ValueError(f"headers has {name!r}, which every mail has its own of; leave it out")
    if CONTROL.search(value) or not 0 < len(value) <= HEADER_LENGTH_MAX:
        raise ValueError(
            f"headers.{name} has a line break or control character, nothing, or over {HEADER_LENGTH_MAX} characters; "
            "give one line"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
