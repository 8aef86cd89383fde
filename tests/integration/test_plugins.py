"""Channels from outside: the example, found by its class or as an installed entry point; and those that misbehave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.endpoint import Endpoint, answer
from tests.support.service import ROOT, RunningDispatcher, wait_until

PATIENCE_S = 60.0
EXAMPLE = ROOT / "examples" / "plugins" / "pager"
ODD = ROOT / "tests" / "support" / "plugins"
RETRY = """
[retry]
base = "50ms"
max_retries = 2
"""
PAGER = """
[channels.pager]
{named}
url = "{url}"
token = "env:PAGER_TOKEN"
"""
LOGBOOK = """
[channels.{name}]
class = "odd_channels:{kind}"
file = "{file}"
"""


def running(config: str, *path: Path, **environment: str) -> RunningDispatcher:
    service = RunningDispatcher(RETRY + config)
    service.environment = {"PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT))), **environment}
    return service


def send(service: RunningDispatcher, channel: str, user: str = "ada", **fields: Any) -> str:
    return str(service.client.submit({"user_id": user, "title": "t", "channels": [channel], **fields})["ids"][0])


def outcome(service: RunningDispatcher, id: str) -> dict[str, Any]:
    """The delivery, once it is final."""

    def final() -> dict[str, Any] | None:
        found = service.client.exchange({"op": "status", "id": id}, as_json=True)  # unavailable while a shard restarts
        delivery = found["deliveries"][0] if found["ok"] else None
        return delivery if delivery and delivery["outcome"] not in ("pending", "retrying") else None

    return wait_until(final, PATIENCE_S, f"the end of {id}")


@pytest.fixture(scope="module")
def pagers() -> Iterator[Endpoint]:
    with Endpoint(usual=answer(200, "called")) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the example is installed as its README says, its dependencies aside."""
    target = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"),
            *("--no-deps", "--no-build-isolation", "--target", str(target), str(EXAMPLE)),
        ],
        check=True,
        timeout=PATIENCE_S,
    )
    return target


@pytest.mark.parametrize("found_by", ["class", "entry point"])
def test_the_example_delivers_retries_and_replays(
    pagers: Endpoint, found_by: str, request: pytest.FixtureRequest
) -> None:
    if found_by == "class":
        path, named = EXAMPLE, 'class = "dispatcher_pager:PagerChannel"'
    else:
        path, named = request.getfixturevalue("installed"), 'provider = "pager"'
    with running(PAGER.format(named=named, url=pagers.url), path, PAGER_TOKEN="token-17") as service:
        service.request("user.put", user_id="ada", user={"contacts": {"other": {"pager": "4711"}}})
        pagers.then(answer(503))
        id = send(service, "pager", title="Disk full", priority="critical")
        found = outcome(service, id)
        assert (found["outcome"], found["attempts"]) == ("delivered", 2)
        call = json.loads(pagers.taken[-1].body)
        assert call == {"id": call["id"], "pager": "4711", "text": "Disk full", "urgent": True}
        assert pagers.taken[-1].headers["authorization"] == "Bearer token-17"

        pagers.then(answer(400, "no such tone"))
        id = send(service, "pager")
        found = outcome(service, id)
        assert (found["outcome"], found["reason"]) == ("dead", "permanent")
        assert found["last_error"] == "HTTP 400: no such tone"
        assert service.request("dead.replay", id=id)["count"] == 1
        wait_until(lambda: outcome(service, id)["outcome"] == "delivered", PATIENCE_S)

        assert outcome(service, send(service, "pager", "bob"))["reason"] == "no_contact"
        shown = subprocess.run(
            [sys.executable, "-m", "dispatcher", "config", "show", "--config", str(service.config_file)],
            env={**os.environ, **service.environment},
            capture_output=True,
            check=True,
        )
        assert b"token-17" not in shown.stdout


def test_a_hanging_plugin_holds_up_no_other_channel(tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    config = LOGBOOK.format(name="logbook", kind="Logbook", file=good)
    for name in ("hanging", "blocking"):
        config += LOGBOOK.format(name=name, kind=name.title(), file=bad) + 'timeout = "1s"\nconcurrency = 4\n'
    config += LOGBOOK.format(name="buggy", kind="Buggy", file=bad)
    config += '[channels.either]\ntimeout = "1s"\nretry = { max_retries = 20, base = "50ms" }\n'
    for kind, file in (("Blocking", bad), ("Logbook", good)):
        config += f'[[channels.either.providers]]\nclass = "odd_channels:{kind}"\nfile = "{file}"\n'
    with running(config, ODD) as service:
        handed_over = [send(service, "either", f"user-{at}") for at in range(20)]
        ids = [send(service, name, f"user-{at}") for at in range(20) for name in ("hanging", "blocking")]
        wait_until(lambda: bad.exists() and bad.read_text().count("\n") >= 4, PATIENCE_S, "some that hang")
        booked = send(service, "logbook", body="refuse")
        assert outcome(service, booked)["attempts"] == 2
        assert outcome(service, send(service, "logbook", "nobody"))["outcome"] == "suppressed"
        assert f'{{"id":"{booked}-logbook","title":"t"}}' in good.read_text()
        found = outcome(service, send(service, "buggy"))
        assert (found["outcome"], found["last_error"]) == ("dead", "KeyError: 'a bug of the plug-in'")
        for id in ids[:2]:
            wait_until(lambda id=id: waits(service, id), PATIENCE_S, "the first attempt's end")  # type: ignore[misc]  # bound now
        for id in handed_over:
            assert outcome(service, id)["outcome"] == "delivered"
        service.request("config.reload")  # whatever they have printed


def waits(service: RunningDispatcher, id: str) -> bool:
    found = service.request("status", id=id)["deliveries"][0]
    return str(found["last_error"]).startswith(("no answer within 1 s", "it has not begun"))


def test_a_plugin_that_ends_the_process_is_a_dead_letter_after_three_deaths(tmp_path: Path) -> None:
    config = LOGBOOK.format(name="logbook", kind="Logbook", file=tmp_path / "good")
    config += LOGBOOK.format(name="leaving", kind="Leaving", file=tmp_path / "bad")
    with running(config, ODD) as service:
        id = send(service, "leaving")
        found = outcome(service, id)
        assert (found["outcome"], found["reason"]) == ("dead", "poison")
        assert "died 3 times" in found["last_error"]
        assert outcome(service, send(service, "logbook"))["outcome"] == "delivered"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('class = "odd_channels:Nothing"', "odd_channels has no class Nothing"),
        ('class = "not_there:Pager"', "not_there cannot be imported"),
        ('provider = "pagr"', "pagr"),
        ('class = "dispatcher_pager:PagerChannel"\nurl = "ftp://x"\ntoken = "env:HOME"', "it is to be like https://"),
    ],
)
def test_what_is_wrong_with_a_plugin_is_said_at_start(table: str, words: str) -> None:
    service = running(f"[channels.pager]\n{table}\n", EXAMPLE, ODD)
    with pytest.raises(AssertionError, match="exit code 2"):
        service.start()
    assert words in service.log()
