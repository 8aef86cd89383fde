"""APNs: developer.apple.com, "Sending notification requests to APNs", with tokens of providers."""

from __future__ import annotations

import functools
import json
import uuid
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.push import tokens
from tests.support.push.server import Answer, Reply, Request, Server

KEY_ID = "ABC123DEFG"
TEAM_ID = "DEF123GHIJ"
TOPIC = "com.example.shop"


@functools.cache
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def error(status: int, reason: str, **headers: str) -> Answer:
    return Answer(status, json.dumps({"reason": reason}).encode(), headers)


class ApnsServer(Server):
    """``dead`` are tokens of apps that are gone, ``expired`` those of providers that are too old."""

    http2 = encrypted = True

    def __init__(self) -> None:
        super().__init__()
        self.dead: set[str] = set()
        self.expired: set[str] = set()

    def messages(self) -> list[Any]:
        return [json.loads(request.body) for request in self.accepted]

    def respond(self, request: Request) -> Reply:
        headers = request.headers
        token = headers.get("authorization", "").removeprefix("bearer ")
        try:
            header, claims = tokens.verified(token, key().public_key())
        except ValueError:
            return error(403, "InvalidProviderToken")
        if token in self.expired:
            return error(403, "ExpiredProviderToken")
        if header["kid"] != KEY_ID or claims["iss"] != TEAM_ID or not tokens.is_now(claims["iat"], 3_600):
            return error(403, "InvalidProviderToken")
        if headers["apns-topic"] != TOPIC:
            return error(400, "TopicDisallowed")
        if headers["apns-push-type"] != "alert":
            return error(400, "InvalidPushType")
        if headers["apns-priority"] not in {"1", "5", "10"}:
            return error(400, "BadPriority")
        if len(headers.get("apns-collapse-id", "").encode()) > 64:
            return error(400, "BadCollapseId")
        if len(request.body) > 4_096:
            return error(413, "PayloadTooLarge")
        if not request.path.startswith("/3/device/"):
            return error(404, "BadPath")
        if request.path.removeprefix("/3/device/") in self.dead:
            return error(410, "Unregistered")
        return Answer(200, b"", {"apns-id": str(uuid.UUID(headers["apns-id"]))})
