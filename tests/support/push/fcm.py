"""FCM: firebase.google.com/docs/reference/fcm/rest/v1, with the server of its access tokens."""

from __future__ import annotations

import functools
import json
from typing import Any
from urllib.parse import parse_qs

from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.push import tokens
from tests.support.push.server import Answer, Reply, Request, Server

PROJECT = "shop-1"
EMAIL = "sender@shop-1.iam.gserviceaccount.com"
KEY_ID = "0123abcd"
DETAIL = "type.googleapis.com/google.firebase.fcm.v1.FcmError"


@functools.cache
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65_537, 2_048)


def error(status: int, text: str, code: str = "", message: str = "", *details: Any, **headers: str) -> Answer:
    """As FCM writes it; ``code`` is that of FcmError."""
    listed = [{"@type": DETAIL, "errorCode": code}, *details] if code else list(details)
    body = {"error": {"code": status, "message": message, "status": text, "details": listed}}
    return Answer(status, json.dumps(body).encode(), {name.replace("_", "-"): value for name, value in headers.items()})


def account(token_uri: str, **changed: str) -> str:
    """The service account's file."""
    fields = {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": KEY_ID,
        "private_key": tokens.pem(key()),
        "client_email": EMAIL,
        "token_uri": token_uri,
    }
    return json.dumps(fields | changed)


UNREGISTERED = error(404, "NOT_FOUND", "UNREGISTERED", "Requested entity was not found.")
UNAUTHENTICATED = error(401, "UNAUTHENTICATED", "", "Request had invalid authentication credentials.")


class FcmServer(Server):
    """``dead`` are tokens of apps that are gone; ``issued`` are the access tokens, ``revoked`` those no longer good."""

    def __init__(self) -> None:
        super().__init__()
        self.dead: set[str] = set()
        self.issued: list[str] = []
        self.revoked: set[str] = set()
        self.grants: list[Reply] = []  # what is answered to the next requests for an access token

    @property
    def token_uri(self) -> str:
        return f"{self.url}/token"

    def messages(self) -> list[Any]:
        """What was taken for devices."""
        return [json.loads(request.body)["message"] for request in self.accepted if request.path != "/token"]

    def scripted(self, request: Request) -> bool:
        return request.path != "/token"

    def respond(self, request: Request) -> Reply:
        if request.path == "/token":
            return self.grants.pop(0) if self.grants else self._grant(request)
        if request.path != f"/v1/projects/{PROJECT}/messages:send":
            return Answer(404, b"<html>Not Found</html>")
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.issued or token in self.revoked:
            return UNAUTHENTICATED
        message = json.loads(request.body)["message"]
        assert all(isinstance(value, str) for value in message["data"].values())
        if message["token"] in self.dead:
            return UNREGISTERED
        return Answer(200, json.dumps({"name": f"projects/{PROJECT}/messages/{len(self.accepted)}"}).encode())

    def _grant(self, request: Request) -> Answer:
        form = parse_qs(request.body.decode())
        assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
        try:
            header, claims = tokens.verified(form["assertion"][0], key().public_key())
        except ValueError:
            return Answer(400, b'{"error": "invalid_grant", "error_description": "Invalid JWT Signature."}')
        assert header["kid"] == KEY_ID
        assert claims["iss"] == EMAIL
        assert claims["aud"] == self.token_uri
        assert claims["scope"] == "https://www.googleapis.com/auth/firebase.messaging"
        assert tokens.is_now(claims["iat"])
        assert 0 < claims["exp"] - claims["iat"] <= 3_600
        self.issued.append(f"ya29.secret-{len(self.issued)}")
        return Answer(200, json.dumps({"access_token": self.issued[-1], "expires_in": 3_599}).encode())
