"""Push from a producer to the devices' services, through a running dispatcher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.push import apns, fcm, settings, tokens
from tests.support.push.apns import ApnsServer
from tests.support.push.fcm import FcmServer
from tests.support.push.server import Answer, Fault, Reply, Server
from tests.support.push.webpush import SUBJECT, WebPushServer
from tests.support.service import RunningDispatcher, wait_until

WAIT_S = 30.0
BUSY = fcm.error(500, "INTERNAL", "INTERNAL", "Internal error encountered.")
TOO_BIG = fcm.error(400, "INVALID_ARGUMENT", "", "Android message is too big")
CONFIG = """
[retry]
max_retries = 3
base = "50ms"
[channels.push]
timeout = "20s"
[channels.push.fcm]
service_account = "file:{directory}/fcm.json"
base_url = "{fcm.url}"
[channels.push.apns]
key = "file:{directory}/apns.p8"
key_id = "{apple.KEY_ID}"
team_id = "{apple.TEAM_ID}"
topic = "{apple.TOPIC}"
base_url = "{apns.url}"
ca_file = "{apns.ca_file}"
[channels.push.webpush]
private_key = "file:{directory}/vapid.pem"
subject = "{subject}"
services = ["localhost"]
allow_private = ["127.0.0.0/8", "::1/128"]
ports = [{webpush.port}]
ca_file = "{webpush.ca_file}"
"""


class Everything(NamedTuple):
    dispatcher: RunningDispatcher
    fcm: FcmServer
    apns: ApnsServer
    webpush: WebPushServer
    key_file: Path  # of FCM

    def put(self, user: str, *devices: tuple[str, str]) -> None:
        listed = [{"provider": provider, "token": token} for provider, token in devices]
        self.dispatcher.request("user.put", user_id=user, user={"contacts": {"push": listed}})

    def notify(self, user: str, title: str, outcome: str = "delivered") -> dict[str, Any]:
        """The delivery of it, when it has that outcome."""
        notification_id = self.submit(user, title)
        return wait_until(lambda: self.ended(notification_id, outcome), WAIT_S, f"{title} is {outcome}")

    def submit(self, user: str, title: str) -> str:
        said = {"user_id": user, "title": title, "body": "It has shipped", "channels": ["push"]}
        (notification_id,) = self.dispatcher.client.submit(said)["ids"]
        return str(notification_id)

    def delivery(self, notification_id: str) -> dict[str, Any]:
        (found,) = self.dispatcher.request("status", id=notification_id)["deliveries"]
        return {**found, "id": notification_id}

    def ended(self, notification_id: str, outcome: str) -> dict[str, Any] | None:
        found = self.delivery(notification_id)
        return found if found["outcome"] == outcome else None


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everything]:
    directory: Path = tmp_path_factory.mktemp("push")
    with FcmServer() as google, ApnsServer() as apple, settings.webpush_server() as browsers:
        settings.write_secrets(directory, google.token_uri)
        config = CONFIG.format(
            directory=directory, fcm=google, apns=apple, webpush=browsers, apple=apns, subject=SUBJECT
        )
        with RunningDispatcher(config) as dispatcher:
            yield Everything(dispatcher, google, apple, browsers, directory / "fcm.json")


def titles(service: Server) -> list[str]:
    if isinstance(service, FcmServer):
        return [message["notification"]["title"] for message in service.messages()]
    if isinstance(service, ApnsServer):
        return [message["aps"]["alert"]["title"] for message in service.messages()]
    assert isinstance(service, WebPushServer)
    return [message["title"] for message in service.messages()]


def test_all_devices_of_a_user_get_it(everything: Everything) -> None:
    devices = ("fcm", "ada-1"), ("apns", "ada2"), ("webpush", everything.webpush.subscription("ada-3"))
    everything.put("ada", *devices)
    assert everything.notify("ada", "to ada")["attempts"] == 1
    for service in (everything.fcm, everything.apns, everything.webpush):
        assert titles(service).count("to ada") == 1


def test_a_key_that_was_exchanged_is_read_again_and_nothing_is_lost(everything: Everything) -> None:
    """A file that is wrong pauses the channel, and the right one ends the pause."""
    everything.put("kim", ("fcm", "kim-1"))
    right = everything.key_file.read_text()
    other = tokens.pem(rsa.generate_private_key(65_537, 2_048))
    everything.key_file.write_text(fcm.account(everything.fcm.token_uri, private_key=other))
    everything.dispatcher.request("config.reload")
    id = everything.submit("kim", "with the new key")
    wait_until(lambda: everything.delivery(id)["reason"] == "channel_paused", WAIT_S, "the channel pauses")
    assert "Invalid JWT Signature" in everything.delivery(id)["last_error"]
    everything.key_file.write_text(right)
    everything.dispatcher.request("config.reload")
    wait_until(lambda: everything.delivery(id)["outcome"] == "delivered", WAIT_S, "it is delivered")
    assert everything.delivery(id)["attempts"] == 1


@pytest.mark.parametrize("name", ["fcm", "apns", "webpush"])
def test_what_a_service_cannot_take_now_is_sent_again(everything: Everything, name: str) -> None:
    service: Server = getattr(everything, name)
    everything.put(f"b-{name}", (name, everything.webpush.subscription() if name == "webpush" else "b1"))
    service.then(BUSY if name == "fcm" else apns.error(503, "Shutdown") if name == "apns" else Answer(500, b"sorry"))
    assert everything.notify(f"b-{name}", f"twice by {name}")["attempts"] == 2
    assert titles(service).count(f"twice by {name}") == 1


def test_an_attempt_of_which_nobody_knows_is_made_again_under_the_same_id(everything: Everything) -> None:
    everything.put("carl", ("apns", "ca41"))
    before = len(everything.apns.requests)
    everything.apns.then(Fault.DROP)
    assert everything.notify("carl", "perhaps twice")["attempts"] == 2
    first, second = everything.apns.requests[before:]
    assert first.headers["apns-id"] == second.headers["apns-id"]


@pytest.mark.parametrize(
    ("name", "refusal", "words"),
    [
        ("fcm", TOO_BIG, "HTTP 400: INVALID_ARGUMENT: Android message is too big"),
        ("apns", apns.error(413, "PayloadTooLarge"), "HTTP 413: PayloadTooLarge"),
        ("webpush", Answer(413, b"at most 4096 bytes"), "HTTP 413: at most 4096 bytes"),
    ],
)
def test_what_is_refused_for_good_is_a_dead_letter_and_can_be_replayed(
    everything: Everything, name: str, refusal: Reply, words: str
) -> None:
    service: Server = getattr(everything, name)
    user = f"d-{name}"
    everything.put(user, (name, everything.webpush.subscription() if name == "webpush" else "d1"))
    service.then(refusal)
    delivery = everything.notify(user, f"too big for {name}", "dead")
    (letter,) = everything.dispatcher.request("dead.list", user_id=user)["items"]
    assert letter["error_class"] == "permanent"
    assert words in letter["last_error"]
    assert everything.dispatcher.request("dead.replay", id=delivery["id"])["count"] == 1
    wait_until(lambda: everything.ended(delivery["id"], "delivered"), WAIT_S, "the replay is delivered")
    assert titles(service).count(f"too big for {name}") == 1


def test_a_dead_token_is_not_used_again_until_the_user_has_another(everything: Everything) -> None:
    everything.put("eve", ("fcm", "eve-old"), ("apns", "e0e1"))
    everything.fcm.dead.add("eve-old")
    everything.notify("eve", "first")
    everything.dispatcher.kill()
    everything.dispatcher.start()
    asked = len(everything.fcm.requests)
    everything.notify("eve", "second")
    everything.put("eve", ("apns", "e0e1"), ("fcm", "eve-old"))
    everything.notify("eve", "again")
    assert len(everything.fcm.requests) == asked
    assert {"first", "second", "again"} <= set(titles(everything.apns))
    everything.put("eve", ("fcm", "eve-new"), ("apns", "e0e1"))
    everything.notify("eve", "third")
    assert "third" in titles(everything.fcm)


def test_without_a_device_left_it_is_a_dead_letter_and_then_suppressed(everything: Everything) -> None:
    everything.put("fred", ("apns", "f0f0"))
    everything.apns.dead.add("f0f0")
    everything.notify("fred", "one", "dead")
    (letter,) = everything.dispatcher.request("dead.list", user_id="fred")["items"]
    assert letter["error_class"] == "bad_address"
    assert "HTTP 410: Unregistered" in letter["last_error"]
    assert everything.notify("fred", "two", "suppressed")["reason"] == "bad_address"
    everything.put("fred", ("apns", "f1f1"))
    everything.notify("fred", "three")


def test_devices_of_no_service_here_are_no_contact(everything: Everything) -> None:
    everything.put("gina")
    assert everything.notify("gina", "nowhere", "suppressed")["reason"] == "no_contact"
