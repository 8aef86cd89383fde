"""Templates in a running service: from the directory and from clients, to the inbox, as docs/templates.md states it."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import SubmitClient
from tests.support.service import ROOT, RunningDispatcher, wait_until

CONFIG = """
[templates]
directory = "templates"
allow_template_put = true
[digests]
social = { template = "social", window = "1s", categories = ["social"] }
slow = { template = "slow", window = "1h", categories = ["slow"] }
[categories]
slow = { channels = ["inapp"] }
social = { channels = ["inapp"] }
"""
FILES = {
    "layouts/base": "{% block content %}{% endblock %}",
    "order/title": "Order {{ order }} shipped",
    "order/fr/title": "Commande {{ order }} expédiée",
    "order/text": "{% extends 'layouts/base' %}{% block content %}Dear {{ name }}{% endblock %}",
    "social/inapp.title": "{{ count }} news",
    "social/inapp.body": "{% for item in items %}{{ item.title }};{% endfor %}",
    "slow/inapp.title": "{{ count }}",
    "slow/de/title": "{{ count }}: {{ items[0].title.upper() }}",
    "mail/email.subject": "only for e-mails",
}

_numbers = itertools.count(1)


def with_files(service: RunningDispatcher) -> RunningDispatcher:
    for name, text in FILES.items():
        path = service.directory / "templates" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return service


@pytest.fixture(scope="module")
def service() -> Iterator[RunningDispatcher]:
    with with_files(RunningDispatcher(CONFIG, shards=2)) as running:
        yield running
        assert running.request("stats")["conserved"]


@pytest.fixture
def user() -> str:
    return f"user-{next(_numbers)}"


def sent(service: RunningDispatcher, user: str, template: str = "order", **fields: Any) -> str:
    notification = {"user_id": user, "template": template, "channels": ["inapp"], **fields}
    answer = service.client.submit(notification)
    assert answer["accepted"] == 1, answer
    return str(answer["ids"][0])


def first_item(service: RunningDispatcher, user: str) -> dict[str, Any]:
    items = wait_until(lambda: service.request("inbox.list", user_id=user)["items"], 20, "an item")
    return dict(items[0])


def outcome(service: RunningDispatcher, id: str) -> dict[str, Any]:
    def ended() -> dict[str, Any] | None:
        found = service.request("status", id=id)["deliveries"][0]
        return dict(found) if found["outcome"] in ("delivered", "dead") else None

    return wait_until(ended, 20, "the end of it")


ADA = {"order": 17, "name": "Ada"}


# --- rendering ----------------------------------------------------------------------------------------------------


def test_an_inbox_shows_what_the_template_says(service: RunningDispatcher, user: str) -> None:
    sent(service, user, payload=ADA)
    item = first_item(service, user)
    assert (item["title"], item["body"], item["template"]) == ("Order 17 shipped", "Dear Ada", "order")
    assert item["payload"] == ADA


def test_it_is_said_in_the_language_of_the_reader(service: RunningDispatcher, user: str) -> None:
    service.request("user.put", user_id=user, user={"locale": "fr-CA"})
    sent(service, user, payload=ADA)
    item = first_item(service, user)
    assert (item["title"], item["body"]) == ("Commande 17 expédiée", "Dear Ada")
    service.request("user.put", user_id=user, user={"locale": "de"})
    assert first_item(service, user)["title"] == "Order 17 shipped"


def test_the_stream_says_the_same(service: RunningDispatcher, user: str) -> None:
    with service.subscribed(b"inapp." + user.encode() + b"\0") as stream:

        def followed() -> dict[str, Any] | None:
            sent(service, user, payload=ADA)
            found = stream.read(0.2)
            return found[1] if found else None

        published = wait_until(followed, 20, "a document")
    assert (published["title"], published["body"]) == ("Order 17 shipped", "Dear Ada")
    assert published in service.request("inbox.list", user_id=user, limit=1000)["items"]


def test_a_digest_is_rendered(service: RunningDispatcher, user: str) -> None:
    service.client.submit(*({"user_id": user, "category": "social", "title": str(n)} for n in range(3)))
    item = first_item(service, user)
    assert (item["title"], item["body"], item["template"]) == ("3 news", "0;1;2;", "social")


def test_the_producer_says_what_the_template_does_not(service: RunningDispatcher, user: str) -> None:
    sent(service, user, "mail", title="title", body="body")
    item = first_item(service, user)
    assert (item["title"], item["body"]) == ("title", "body")


@pytest.mark.parametrize(
    ("template", "payload", "says"),
    [
        ("order", {"order": 17}, "template 'order', text, line 1: 'name' is undefined"),
        ("order", {}, "template 'order', title, line 1: 'order' is undefined"),
        ("mail", {}, "template 'mail': it has no part for inapp; add inapp.text, or text for all"),
    ],
)
def test_what_cannot_be_rendered_is_a_dead_letter(
    service: RunningDispatcher, user: str, template: str, payload: dict[str, Any], says: str
) -> None:
    id = sent(service, user, template, payload=payload)
    found = outcome(service, id)
    assert (found["outcome"], found["reason"], found["last_error"]) == ("dead", "template", says)
    letters = wait_until(lambda: service.request("dead.list", user_id=user)["items"], 20, "the dead letter")
    assert [(one["reason"], one["error_class"], one["last_error"]) for one in letters] == [
        ("template", "permanent", says)
    ]
    assert service.request("inbox.list", user_id=user)["items"] == []


def test_one_that_cannot_be_rendered_spoils_no_others(service: RunningDispatcher, user: str) -> None:
    payloads = [ADA, {}, ADA, {}, ADA]
    answer = service.client.submit(
        *({"user_id": user, "template": "order", "channels": ["inapp"], "payload": one} for one in payloads)
    )
    found = [outcome(service, id)["outcome"] for id in answer["ids"]]
    assert found == ["delivered", "dead", "delivered", "dead", "delivered"]
    assert len(service.request("inbox.list", user_id=user)["items"]) == 3


def test_a_key_with_escapes_is_a_template_as_well(service: RunningDispatcher, user: str) -> None:
    body = json.dumps(
        {"op": "submit", "notifications": [{"user_id": user, "template": "order", "channels": ["inapp"]}]}
    ).replace("template", "\\u0074emplate")
    answer = json.loads(service.client.exchange_bytes(body.encode()))
    assert outcome(service, answer["ids"][0])["reason"] == "template"


def test_an_unknown_template_is_refused(service: RunningDispatcher, user: str) -> None:
    for name, says in (("ordr", "did you mean order"), ("layouts", "unknown template 'layouts'")):
        answer = service.client.submit({"user_id": user, "template": name})
        (rejection,) = answer["rejected"]
        assert (rejection["error"]["code"], rejection["error"]["field"]) == ("unknown_template", "template")
        assert says in rejection["error"]["message"]


def test_explain_says_which_parts_are_taken(service: RunningDispatcher, user: str) -> None:
    service.request("user.put", user_id=user, user={"locale": "fr-CA"})

    def step(payload: dict[str, Any]) -> list[dict[str, Any]]:
        notification = {"user_id": user, "template": "order", "channels": ["inapp"], "payload": payload}
        decisions = service.request("explain", notification=notification)["decisions"]
        return [one for one in decisions if one["step"] in ("template", "outcome")]

    assert step(ADA) == [
        {
            "step": "template", "channel": "inapp", "result": "pass", "reason": None,
            "detail": {"template": "order", "locale": "fr-CA", "parts": {"title": "fr/title", "body": "text"}},
        },
        {"step": "outcome", "channel": "inapp", "result": "pending", "reason": None, "detail": {}},
    ]  # fmt: skip
    template, ends = step({})
    assert (template["result"], ends["result"], ends["reason"]) == ("block", "dead", "template")
    assert template["detail"]["message"] == "template 'order', fr/title, line 1: 'order' is undefined"


def test_explain_says_what_a_digest_takes(service: RunningDispatcher, user: str) -> None:
    service.request("user.put", user_id=user, user={"locale": "de-AT"})

    def digest(category: str, **said: Any) -> tuple[dict[str, Any], str]:
        notification = {"user_id": user, "category": category, "title": "t", **said}
        decisions = service.request("explain", notification=notification)["decisions"]
        (found,) = (one["detail"] for one in decisions if one["step"] == "digest")
        return found, decisions[-1]["result"]

    detail, ends = digest("slow")
    assert (detail["template"], detail["locale"], ends) == ("slow", "de-AT", "deferred")
    assert detail["parts"] == {"title": "de/title"}
    detail, ends = digest("slow", title=None, body="without a title")
    assert "parts" not in detail
    assert detail["message"] == "template 'slow', de/title, line 1: 'None' has no attribute 'upper'"
    service.client.submit({"user_id": user, "category": "slow", "title": "first"})
    wait_until(lambda: digest("slow")[0]["items"] == 1, what="the first item")
    assert digest("slow", title=None, body="with one before")[0]["parts"] == {"title": "de/title"}


# --- list and put -------------------------------------------------------------------------------------------------


def put(service: RunningDispatcher, name: str, **parts: str) -> dict[str, Any]:
    (item,) = service.request("template.put", name=name, parts=parts)["items"]
    return dict(item)


def listed(service: RunningDispatcher) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in service.request("template.list")["items"]}


def test_list_says_what_there_is(service: RunningDispatcher) -> None:
    found = listed(service)
    assert found["order"] == {
        "name": "order", "parts": ["fr/title", "text", "title"], "locales": ["fr"], "source": "directory",
    }  # fmt: skip
    assert {"layouts", "social", "mail"} <= found.keys()


def test_all_shards_have_what_was_put(service: RunningDispatcher) -> None:
    for text in ("first", "second"):
        assert put(service, "everywhere", title=text)["source"] == "put"
        users = [f"{text}-{number}" for number in range(20)]
        service.client.submit(*({"user_id": one, "template": "everywhere", "channels": ["inapp"]} for one in users))
        assert {first_item(service, one)["title"] for one in users} == {text}
    assert listed(service)["everywhere"]["source"] == "put"


@pytest.mark.parametrize(
    ("name", "parts", "field", "says"),
    [
        ("x", {"text": "\n{{"}, "parts.text", "template 'x', text, line 2: "),
        ("x", {"text": "{{ a|b }}", "html": "{% c %}"}, "parts.html", "unknown tag 'c'.; and 1 more"),
        ("x", {"text": "{% extends 'layouts/bas' %}"}, "parts.text", "did you mean layouts/base"),
        ("x", {}, "name", "it has no parts"),
        ("../x", {"text": "x"}, "name", "a name has"),
        ("x", {"subject": "x"}, "parts.subject", "of every channel there are"),
        ("layouts", {"other": "x"}, "parts.text", "unknown layout 'layouts/base'"),
        ("x", {"text": 1}, "parts", "str"),
        ("x", {"text": "x" * 300_000}, "parts.text", "at most 262144"),
    ],
)
def test_a_wrong_template_is_refused_with_part_line_and_reason(
    service: RunningDispatcher, name: str, parts: dict[str, Any], field: str, says: str
) -> None:
    before = listed(service)
    error = service.client.refused("template.put", name=name, parts=parts)
    assert (error["code"], error["field"]) == ("bad_value", field)
    assert says in error["message"]
    assert listed(service) == before


def test_puts_at_once_are_answered_one_by_one(service: RunningDispatcher) -> None:
    wrong = {"op": "template.put", "name": "wrong", "parts": {"text": "{{"}}
    fine = [{"op": "template.put", "name": f"many-{n}", "parts": {"text": "x"}} for n in range(10)]
    answers = service.client.pipelined(*fine[:5], wrong, {"op": "config.reload"}, *fine[5:])
    assert [answer["ok"] for answer in answers] == [*[True] * 5, False, *[True] * 6]
    assert [answer["items"][0]["name"] for answer in answers if "items" in answer] == [f"many-{n}" for n in range(10)]
    assert {f"many-{n}" for n in range(10)} <= listed(service).keys()


def test_a_dead_letter_is_delivered_with_a_better_template(service: RunningDispatcher, user: str) -> None:
    put(service, "mended", title="{{ missing }}")
    id = sent(service, user, "mended")
    assert outcome(service, id)["outcome"] == "dead"
    put(service, "mended", title="mended")
    assert service.request("dead.replay", user_id=user)["count"] == 1
    assert outcome(service, id)["outcome"] == "delivered"
    assert first_item(service, user)["title"] == "mended"


def test_what_is_read_later_by_a_worse_template_is_shown_as_the_producer_said_it(
    service: RunningDispatcher, user: str
) -> None:
    put(service, "worse", title="fine")
    sent(service, user, "worse", title="of the producer")
    assert first_item(service, user)["title"] == "fine"
    put(service, "worse", title="{{ missing }}")
    assert first_item(service, user)["title"] == "of the producer"


# --- files --------------------------------------------------------------------------------------------------------


def test_a_reload_reads_the_files_again(service: RunningDispatcher, user: str) -> None:
    file = service.directory / "templates/fresh/title"
    file.parent.mkdir()
    file.write_text("one")
    version = service.request("config.reload")["version"]
    file.write_text("{{")
    error = service.client.refused("config.reload")
    assert error["code"] == "bad_value"
    assert f"{file}, line 1: " in error["message"]
    file.write_text("two")
    assert service.request("config.reload")["version"] == version + 1
    assert service.request("config.reload")["version"] == version + 1
    sent(service, user, "fresh")
    assert first_item(service, user)["title"] == "two"


def test_no_start_with_a_wrong_template(tmp_path: Path) -> None:
    config = tmp_path / "mine.toml"
    config.write_text('[templates]\ndirectory = "t"\n[digests.d]\ntemplate = "b"\n')
    for name in ("a/text", "a/title"):
        (tmp_path / "t" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / name).write_text("\n{% for %}")
    command = [sys.executable, "-m", "dispatcher", "serve", "--config", str(config), "--data-dir", str(tmp_path / "d")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line for line in lines if line.startswith(f"error: {tmp_path}/t/a/text, line 2: ")]
    assert [line for line in lines if line.startswith(f"error: {tmp_path}/t/a/title, line 2: ")]
    assert [line for line in lines if f"{config}, line 4: digests.d.template: unknown template 'b'" in line]


def test_what_was_put_survives_and_wins(service: RunningDispatcher, user: str) -> None:
    put(service, "order", title="put")
    try:
        service.stop()
        file = service.data_dir / "templates.json"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        service.start()
        assert listed(service)["order"]["source"] == "put"
        sent(service, user)
        assert first_item(service, user)["title"] == "put"
    finally:
        stored = json.loads((service.data_dir / "templates.json").read_text())
        stored.pop("order")
        (service.data_dir / "templates.json").write_text(json.dumps(stored))
        service.request("config.reload")
    assert listed(service)["order"]["source"] == "directory"


class Putting(threading.Thread):
    """Puts one version after the other, until nobody answers."""

    def __init__(self, endpoint: str) -> None:
        super().__init__()
        self.endpoint = endpoint
        self.tried = self.answered = 0

    def run(self) -> None:
        with SubmitClient(self.endpoint, timeout_s=2.0) as client, contextlib.suppress(AssertionError):
            while True:
                self.tried += 1
                client.request("template.put", name="t", parts={"title": str(self.tried)})
                self.answered = self.tried


def test_a_kill_in_the_middle_of_a_put_loses_nothing_that_was_answered() -> None:
    with RunningDispatcher("[templates]\nallow_template_put = true\n", shards=1) as service:
        for count in (3, 5):
            putting = Putting(service.submit)
            putting.start()
            wait_until(functools.partial(lambda one, count: one.answered >= count, putting, count), 30, "some puts")
            service.kill()
            putting.join()
            stored = json.loads((service.data_dir / "templates.json").read_text())
            assert putting.answered <= int(stored["t"]["title"]) <= putting.tried
            service.start()
            assert listed(service)["t"]["source"] == "put"
            assert not list((service.data_dir / "run").glob("puts-*"))
