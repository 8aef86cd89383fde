"""Settings of the push channel for the services here."""

from __future__ import annotations

import functools
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from shards.channels import apns, fcm, webpush
from shards.hidden import Secret
from tests.support.push import apns as apple
from tests.support.push import fcm as google
from tests.support.push import tokens
from tests.support.push.apns import ApnsServer
from tests.support.push.fcm import FcmServer
from tests.support.push.webpush import SUBJECT, WebPushServer


@functools.cache
def vapid_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def write_secrets(directory: Path, token_uri: str = "https://oauth2.example.org/token") -> None:
    """The files that operators are given: ``fcm.json``, ``apns.p8`` and ``vapid.pem``."""
    texts = {
        "fcm.json": google.account(token_uri),
        "apns.p8": tokens.pem(apple.key()),
        "vapid.pem": tokens.pem(vapid_key()),
    }
    for name, text in texts.items():
        path = directory / name
        path.touch(0o600)
        path.write_text(text)


def webpush_server() -> WebPushServer:
    return WebPushServer(webpush.public_key(vapid_key()))


def for_fcm(server: FcmServer) -> fcm.Settings:
    return fcm.Settings(Secret(google.account(server.token_uri)), base_url=server.url)


def for_apns(server: ApnsServer) -> apns.Settings:
    key = Secret(tokens.pem(apple.key()))
    return apns.Settings(key, apple.KEY_ID, apple.TEAM_ID, apple.TOPIC, base_url=server.url, ca_file=server.ca_file)


def for_webpush(server: WebPushServer) -> webpush.Settings:
    return webpush.Settings(
        Secret(tokens.pem(vapid_key())),
        SUBJECT,
        services=("localhost",),
        allow_private=("127.0.0.0/8", "::1/128"),
        ports=(server.port,),
        ca_file=server.ca_file,
    )
