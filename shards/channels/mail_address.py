"""Addresses as the envelope and the headers of a mail have them: ASCII wherever that can be."""

from __future__ import annotations

import functools
import re
from email.headerregistry import Address as HeaderAddress
from email.headerregistry import HeaderRegistry
from typing import Any, NamedTuple

from shards.channels.mail_policy import CONTROL
from shards.contacts import email_parts

PLAIN = re.compile(r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*@[a-z0-9](-*[a-z0-9])*(\.[a-z0-9](-*[a-z0-9])*)+", re.ASCII)
PLAIN_LENGTH_MAX = 64  # of the whole address: what RFC 5321 allows the part before the @


class Address(NamedTuple):
    """``text`` has the domain in ASCII (IDNA); ``utf8`` if what is before the @ is not, which needs SMTPUTF8."""

    text: str
    utf8: bool

    @property
    def domain(self) -> str:
        return self.text.rpartition("@")[2]


class Mailbox(NamedTuple):
    """An address with the name that is shown; ``header`` is both, as a header has them."""

    address: Address
    header: str


def parse(text: str) -> Address:
    """``ValueError`` says what is wrong with the address."""
    if len(text) <= PLAIN_LENGTH_MAX and PLAIN.fullmatch(text):
        return Address(text, utf8=False)
    return _parse(text)


@functools.lru_cache(maxsize=1_024)
def _parse(text: str) -> Address:
    found = email_parts(text)
    if found.ascii_email is not None:
        return Address(found.ascii_email, utf8=False)
    return Address(f"{found.local_part}@{found.ascii_domain}", utf8=True)


def parse_mailbox(text: str) -> Mailbox:
    """Of "Name <address>", or an address alone. ``ValueError`` says what is wrong with it."""
    if CONTROL.search(text):
        raise ValueError("it has a line break or control character")
    try:
        header: Any = HeaderRegistry()("From", text)
    except (AttributeError, IndexError, TypeError):  # which ``email`` stumbles over in some that are none
        raise ValueError("it is no address, with a name before it or without") from None
    if header.defects or len(header.addresses) != 1:
        raise ValueError("it is not one address, with a name before it or without")
    found = header.addresses[0]
    if "=?" in found.display_name:
        raise ValueError("its name has =?, which mail programs would decode")
    address = parse(found.addr_spec)
    return Mailbox(address, str(HeaderAddress(found.display_name, addr_spec=address.text)))
