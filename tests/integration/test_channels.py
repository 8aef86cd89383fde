"""Operators and channels: a plug-in that is paused, refuses its credentials, and is corrected."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import ROOT, RunningDispatcher, wait_until

PAGER = '''
import msgspec
from shards.channels.base import SendError, Sent
from shards.hidden import Secret

class Pager:
    """Takes messages if its token is the right one."""

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        token: Secret

    def __init__(self, settings, context):
        self._token = settings.token.reveal()

    def supports_recipient(self, recipient):
        return "pager" in recipient.contacts.other

    async def send(self, delivery):
        if self._token != "the right one":
            raise SendError("misconfigured", f"the service refuses {self._token}")
        return Sent("taken")
'''
CONFIG = """
[categories.news]
channels = ["email"]
unsubscribable = true
[channels.email]
host = "127.0.0.1"
sender = "shop@shop.example"
"""
USERS = [f"user-{number}" for number in range(8)]  # of both shards
LONG_S = 30.0


class Service(RunningDispatcher):
    """With a channel whose token is in a file."""

    def __init__(self, directory: Path) -> None:
        self.token = directory / "token"
        (directory / "pager_plugin.py").write_text(PAGER)
        super().__init__(
            f'{CONFIG}[channels.pager]\nclass = "pager_plugin:Pager"\ntoken = "file:{self.token}"\n', shards=2
        )
        self.environment = {"PYTHONPATH": f"{directory}:{ROOT}"}
        self.keep("the right one")

    def keep(self, token: str) -> None:
        self.token.write_text(token)
        self.token.chmod(0o600)

    def run(self, *args: str, expect: int = 0) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "dispatcher", *args],
            cwd=ROOT,
            env=self.shell(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == expect, f"{args}: {ended.stdout}\n{ended.stderr}"
        assert "one that is wrong" not in ended.stdout + ended.stderr
        return ended.stdout

    def shell(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
        return kept | self.environment | {"DISPATCHER_SUBMIT": self.submit}

    def page(self, title: str) -> None:
        self.client.submit(*({"user_id": user, "title": title, "channels": ["pager"]} for user in USERS))

    def pager(self) -> dict[str, Any]:
        return dict(self.request("stats")["channels"]["pager"])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("plugin")) as service:
        for user in USERS:
            service.request("user.put", user_id=user, user={"contacts": {"other": {"pager": "1"}}})
        yield service


@pytest.fixture
def service(running: Service) -> Iterator[Service]:
    """Running, with the right token and nothing pending, before and after."""
    yield running
    running.keep("the right one")
    running.request("config.reload")
    running.request("channel.resume", channel="pager")
    running.settled_stats(LONG_S)


def test_what_an_operator_pauses_stays_paused_until_it_is_resumed(service: Service) -> None:
    delivered = service.pager()["outcomes"]["delivered"]
    assert service.run("channel", "pause", "pager") == (
        "pager is paused; what is for it waits until: dispatcher channel resume pager\n"
    )
    since_ms = service.pager()["paused"]["since_ms"]
    service.page("while it is paused")
    service.stop()
    service.start()
    waiting = wait_until(lambda: (one := service.pager())["queued"] == len(USERS) and one, LONG_S)
    assert (waiting["state"], waiting["outcomes"]["delivered"]) == ("paused", delivered)
    assert waiting["paused"] == {"reason": "operator", "since_ms": since_ms, "message": ""}
    service.request("config.reload")
    assert service.pager()["state"] == "paused"
    listed = service.run("channel", "list")
    assert re.search(r"(?m)^pager +paused +pager_plugin:Pager +8 +0 ", listed)
    assert re.search(
        r"(?m)^PAUSED pager by an operator since .* ago\); to go on: dispatcher channel resume pager$", listed
    )
    assert json.loads(service.run("channel", "resume", "pager", "--json")) == {"state": "running"}
    assert service.settled_stats(LONG_S)["channels"]["pager"]["outcomes"]["delivered"] == delivered + len(USERS)


def test_refused_credentials_pause_until_they_are_corrected(service: Service) -> None:
    """No attempt is lost, the words of the service are told, and no secret is."""
    before = service.pager()
    service.keep("one that is wrong")
    service.request("config.reload")  # nothing but the file of the secret is another
    service.page("while the token is wrong")
    paused = wait_until(lambda: (one := service.pager())["state"] == "paused" and one, LONG_S)
    assert (paused["paused"]["reason"], paused["paused"]["message"]) == ("misconfigured", "the service refuses ***")
    assert paused["providers"] == [
        {"provider": "pager_plugin:Pager", "states": {"refused": 2}, "message": "the service refuses ***"}
    ]
    for command in (["channel", "list"], ["stats"], ["top", "--once"]):
        told = " ".join(service.run(*command).split())
        assert re.search(r"PAUSED pager since .*, misconfigured: the service refuses \*\*\*; correct that", told)
    service.keep("the right one")
    service.run("config", "reload")
    after = service.settled_stats(LONG_S)["channels"]["pager"]
    assert after["state"] == "running"
    events = [one["event"] for one in service.events() if one["event"].startswith("a channel ")]
    assert events[-4:] == ["a channel is paused"] * 2 + ["a channel goes on"] * 2
    assert after["outcomes"]["delivered"] == before["outcomes"]["delivered"] + len(USERS)
    assert after["outcomes"]["dead"] == before["outcomes"]["dead"]


def test_a_restart_tries_refused_credentials_again(service: Service) -> None:
    service.keep("one that is wrong")
    service.request("config.reload")
    service.page("before the restart")
    wait_until(lambda: service.pager()["state"] == "paused", LONG_S)
    service.stop()
    service.keep("the right one")
    service.start()
    assert service.settled_stats(LONG_S)["channels"]["pager"]["state"] == "running"


def test_a_category_that_nobody_can_unsubscribe_from_is_warned_of_at_the_start(service: Service) -> None:
    (warning, *_) = [
        one for one in service.events() if one["event"] == "unsubscribable, but its e-mails do not say how"
    ]
    assert (warning["level"], warning["category"], warning["missing"]) == (
        "warning", "news", "channels.email.unsubscribe_url"
    )  # fmt: skip


def test_an_unknown_channel_is_refused(service: Service) -> None:
    assert service.client.refused("channel.pause", channel="paper")["code"] == "unknown_channel"
    service.run("channel", "resume", "paper", expect=1)


def test_a_plug_in_is_tried_with_the_configuration_of_the_service(service: Service) -> None:
    args = ("channel", "test", "pager", "--to", "1", "--config", str(service.config_file))
    assert "✓ delivered by pager_plugin:Pager" in service.run(*args)
    service.keep("one that is wrong")
    refused = json.loads(service.run(*args, "--json", expect=1))
    assert (refused["error_class"], refused["message"]) == ("misconfigured", "the service refuses ***")
