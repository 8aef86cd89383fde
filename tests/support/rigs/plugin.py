"""The pagers of the example of a plug-in."""

from __future__ import annotations

import json
import sys
from typing import Any

from shards.answers import ErrorClass
from shards.channels.base import Context, NotificationChannel, Recipient
from shards.channels.registry import find
from shards.contacts import Contacts
from shards.options import read
from tests.support.endpoint import Endpoint, Script, answer, hang, hang_up
from tests.support.service import ROOT

TOKEN = "token-of-the-pagers"
FAILURES: dict[ErrorClass, bytes | Script] = {
    "transient": answer(503),
    "permanent": answer(400, "no such tone"),
    "bad_address": answer(404),
    "throttled": answer(429),
    "misconfigured": answer(401),
    "ambiguous": hang_up,
}


class PluginRig:
    name = "pager"
    classes: frozenset[ErrorClass] = frozenset(FAILURES)
    secrets = (TOKEN,)
    has_title = False

    def open(self) -> None:
        self._endpoint = Endpoint()
        self._endpoint.open()

    def close(self) -> None:
        self._endpoint.close()

    def channel(self, timeout_s: float = 5.0) -> NotificationChannel:
        folder = str(ROOT / "examples" / "plugins" / "pager")
        sys.path.insert(0, folder)
        try:
            kind: Any = find("", "dispatcher_pager:PagerChannel")
        finally:
            sys.path.remove(folder)
        channel: NotificationChannel = kind(
            read(kind, {"url": self._endpoint.url, "token": TOKEN}), Context("pager", timeout_s)
        )
        return channel

    def recipient(self) -> Recipient:
        return Recipient("ada", Contacts(other={"pager": "4711"}))

    def stranger(self) -> Recipient:
        return Recipient("bob", Contacts(email="bob@example.org"))

    def received(self) -> list[str]:
        return [json.loads(request.body)["text"] for request in tuple(self._endpoint.taken)]

    def keys(self) -> list[str]:
        return [json.loads(request.body)["id"] for request in tuple(self._endpoint.taken)]

    def fail(self, error_class: ErrorClass) -> None:
        self._endpoint.then(FAILURES[error_class])

    def hang(self) -> None:
        self._endpoint.then(hang)
