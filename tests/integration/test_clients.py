"""The example clients in other languages: each is built, run and understood, and the same is asked of all of them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import zmq

from tests.support.example_clients import BUILDERS, CLIENTS, LANGUAGES, PATIENCE_S, WITHOUT_CURVE, ExampleClient
from tests.support.keys import SERVER, KeyRing
from tests.support.service import RunningDispatcher, free_endpoints

AT_ONCE = ("--silence", "0.2")
NEVER = ("--silence", "600", "--timeout", "600")
SHORT = ("--timeout", "0.3")
TITLE = 'He said "hi" \\ tab\t line\n\u00e9 日本語 😀 </script>'


@pytest.fixture(scope="module")
def service() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(shards=2) as running:
        yield running


@pytest.fixture(scope="module", params=LANGUAGES)
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ExampleClient:
    return BUILDERS[request.param](tmp_path_factory.mktemp(request.param))


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


WITH_CURVE = pytest.mark.parametrize("client", [name for name in LANGUAGES if name not in WITHOUT_CURVE], indirect=True)
REFUSING_BYTES = ("c", "cpp", "ruby")  # elsewhere the arguments of a program are text, with U+FFFD for what is none


class Acted:
    """A socket that plays a part of the dispatcher, as a context manager."""

    def __init__(self, kind: int) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(kind)
        self._socket.set(zmq.LINGER, 0)
        self.endpoint = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"

    def received(self) -> list[bytes]:
        assert self._socket.poll(int(PATIENCE_S * 1000)), "nothing came"
        return self._socket.recv_multipart()

    def comes(self) -> bool:
        """Whether something has come, or comes soon."""
        return bool(self._socket.poll(50))

    def send(self, *parts: bytes) -> None:
        self._socket.send_multipart(parts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)


class ActedSubmit(Acted):
    """The ROUTER of ``submit``."""

    def __init__(self) -> None:
        super().__init__(zmq.ROUTER)
        self._sender = b""
        self._seq: int | None = None

    def request(self) -> bytes:
        """The next request but its ``seq``."""
        self._sender, delimiter, body = self.received()
        assert delimiter == b""
        request = json.loads(body)
        self._seq = request.pop("seq")
        return json.dumps(request).encode()

    def answer_raw(self, body: bytes) -> None:
        self.send(self._sender, b"", body)

    def answer(self, *, later: int = 0, **fields: Any) -> None:
        assert self._seq is not None
        self.answer_raw(json.dumps({"seq": self._seq + later, **fields}).encode())

    def refuse(self, code: str, **fields: Any) -> None:
        self.answer(ok=False, error={"code": code, "message": "said the test", **fields})

    def accept(self, *ids: str, later: int = 0) -> None:
        self.answer(later=later, ok=True, accepted=len(ids), duplicates=0, ids=ids, duplicate=[], rejected=[])


def inbox(service: RunningDispatcher, user: str) -> list[dict[str, Any]]:
    return list(service.request("inbox.list", user_id=user)["items"])


def say(service: RunningDispatcher, user: str, *titles: str) -> list[dict[str, Any]]:
    """Submit, and return the inbox with them."""
    service.request("submit", notifications=[{"user_id": user, "title": title} for title in titles])
    service.settled_stats()
    return inbox(service, user)


def told(items: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(item["cursor"], item["title"]) for item in items]


def read(lines: list[str]) -> list[tuple[int, str]]:
    """Of the lines of ``follow``."""
    return [(int(cursor), json.loads(title)) for cursor, _, title in (line.partition(" ") for line in lines)]


def without_ids(line: str) -> str:
    return re.sub(r"\b[0-9a-f]{8}-[0-9a-f]{16}-[0-9a-f]+-[0-9a-f]+\b", "ID", line)


# --- receipts ----------------------------------------------------------------------------------------------------


def test_a_receipt_says_what_became_of_each(client: ExampleClient, service: RunningDispatcher, user: str) -> None:
    too_long = "k" * 256
    at = client.at(service)
    first = client.run(*at, "submit", user, "one", TITLE, too_long, "never", "two", "--count")
    assert (first.code, first.error) == (1, "")
    ids = [service.request("status", user_id=user, idempotency_key=key)["id"] for key in ("one", "two")]
    rejected = first.lines.pop(1)
    assert first.lines == [f"accepted one {ids[0]}", f"accepted two {ids[1]}"]
    assert rejected.startswith(f"rejected {too_long} bad_value: ")
    again = client.done(*at, "submit", user, "two", "--count", "one", "other words", "three", "new")
    assert again[:2] == [f"duplicate two {ids[1]}", f"mismatch one {ids[0]}"]
    assert again[2].startswith("accepted three ")
    service.settled_stats()
    assert {item["title"] for item in inbox(service, user)} == {TITLE, "--count", "new"}


def test_a_request_that_is_refused_is_not_sent_again(
    client: ExampleClient, service: RunningDispatcher, user: str
) -> None:
    large = [argument for at in range(11) for argument in (f"key-{at}", "x" * 100_000)]  # 1.1 MB
    ended = client.run(*client.at(service), *NEVER, "submit", user, *large)
    assert (ended.code, ended.lines, len(ended.error.splitlines())) == (1, [], 1)
    assert ended.error.startswith("error: too_large: ")
    with ActedSubmit() as submit, client.started("--submit", submit.endpoint, *NEVER, "status", "id") as program:
        submit.request()
        submit.answer_raw(b'{"ok":false,"error":{"code":"bad_encoding","message":"it had no seq"}}')
        ended = program.ended()
    assert (ended.code, ended.error) == (1, "error: bad_encoding: it had no seq\n")


def test_after_silence_the_same_is_sent_again(client: ExampleClient, user: str) -> None:
    with (
        ActedSubmit() as submit,
        client.started("--submit", submit.endpoint, *AT_ONCE, "submit", user, "key", TITLE) as program,
    ):
        sent = [submit.request() for _ in range(3)]
        submit.accept("the-id")
        assert program.ended().lines == ["accepted key the-id"]
    assert len(set(sent)) == 1
    assert json.loads(sent[0]) == {
        "op": "submit",
        "notifications": [{"user_id": user, "idempotency_key": "key", "title": TITLE}],
    }


def test_what_asks_for_it_is_sent_again_and_what_is_not_ours_is_dropped(client: ExampleClient, user: str) -> None:
    with (
        ActedSubmit() as submit,
        client.started("--submit", submit.endpoint, *NEVER, "submit", user, "key", "Hello") as program,
    ):
        sent = [submit.request()]
        submit.refuse("unavailable", retry_after_ms=10)
        sent.append(submit.request())
        submit.refuse("overloaded", retry_after_ms=10)
        sent.append(submit.request())
        submit.refuse("unavailable")
        sent.append(submit.request())
        for garbage in (b"", b"\xff\x00", b"[]", b"null", b"{}", b'{"ok": tr', b"\x82\xa2ok"):
            submit.answer_raw(garbage)
        submit.accept("of-an-earlier-request", later=-1)
        submit.accept("the-id")
        assert program.ended().lines == ["accepted key the-id"]
    assert len(set(sent)) == 1


def test_it_gives_up_where_it_would_have_to_wait_too_long(client: ExampleClient) -> None:
    with ActedSubmit() as submit, client.started("--submit", submit.endpoint, *NEVER, "status", "id") as program:
        submit.request()
        submit.refuse("overloaded", retry_after_ms=601_000)
        ended = program.ended()
    assert (ended.code, ended.lines, ended.error) == (3, [], "error: overloaded: said the test\n")


def test_one_that_was_killed_meanwhile_is_waited_for(
    client: ExampleClient, service: RunningDispatcher, user: str
) -> None:
    service.kill()
    with client.started(*client.at(service), *AT_ONCE, "submit", user, "key", "Hello") as program:
        service.start()
        ended = program.ended()
    assert ended.code == 0, ended
    word, key, identifier = ended.lines[0].split()
    assert (word in ("accepted", "duplicate"), key) == (True, "key")
    assert service.request("status", user_id=user, idempotency_key="key")["id"] == identifier
    service.settled_stats()
    assert told(inbox(service, user)) == [(1, "Hello")]


def test_a_receipt_that_a_kill_took_is_asked_for_again(
    client: ExampleClient, service: RunningDispatcher, user: str
) -> None:
    with (
        ActedSubmit() as submit,
        client.started("--submit", submit.endpoint, *AT_ONCE, "submit", user, "key", "Hello") as program,
    ):
        lost = json.loads(service.client.exchange_bytes(submit.request()))
        service.kill()
        service.start()
        answer = json.loads(service.client.exchange_bytes(submit.request()))
        submit.answer(**answer)
        while not program.has_ended():  # it may have sent again meanwhile, and take only the answer to that
            if submit.comes():
                submit.request()
                submit.answer(**answer)
        assert program.ended().lines == [f"duplicate key {lost['ids'][0]}"]
    service.settled_stats()
    assert told(inbox(service, user)) == [(1, "Hello")]


def test_the_session_of_the_guide(client: ExampleClient, service: RunningDispatcher, user: str) -> None:
    session = re.search(r"```console\n\$ (.*?)```", (CLIENTS / "README.md").read_text(), re.DOTALL)
    assert session
    for step in session[1].replace("ada", user).split("\n$ "):
        command, *expected = step.splitlines()
        ended = client.run(*client.at(service), *shlex.split(command)[1:])
        shown = [*ended.lines, *ended.error.splitlines()]
        assert list(map(without_ids, shown)) == list(map(without_ids, expected))
        service.settled_stats()


# --- the other commands ------------------------------------------------------------------------------------------


def test_status_is_asked_by_id_and_by_key(client: ExampleClient, service: RunningDispatcher, user: str) -> None:
    notification = {"user_id": user, "title": "Hello", "idempotency_key": "é 1", "channels": ["inapp", "push"]}
    (identifier,) = service.request("submit", notifications=[notification])["ids"]
    service.settled_stats()
    expected = [f"id {identifier}", "inapp delivered 1 -", "push dead 0 channel_not_configured"]
    assert client.done(*client.at(service), "status", identifier) == expected
    assert client.done(*client.at(service), "status", user, "é 1") == expected
    ended = client.run(*client.at(service), "status", "no such id")
    assert (ended.code, ended.lines, ended.error.startswith("error: not_found: ")) == (1, [], True)


def test_fire_and_forget_arrives(client: ExampleClient, service: RunningDispatcher, user: str) -> None:
    long = "x" * 100_000  # more than one write of a socket
    assert client.done(*client.at(service), "send", user, TITLE, long) == ["sent 2"]
    seen = client.done(*client.at(service), *AT_ONCE, "--count", "2", "follow", user)
    assert read(seen) == [(1, TITLE), (2, long)]


@pytest.mark.parametrize("arguments", [("status", "id"), ("follow", "user"), ("submit", "user", "key", "Hello")])
def test_without_an_answer_it_gives_up_in_time(
    client: ExampleClient, service: RunningDispatcher, arguments: tuple[str, ...]
) -> None:
    (nobody,) = free_endpoints(1)
    for endpoint in (nobody, service.stream):  # the second is there, but is no ROUTER
        ended = client.run("--submit", endpoint, *SHORT, *arguments)
        assert (ended.code, ended.lines, len(ended.error.splitlines())) == (3, [], 1)
        assert ended.error.startswith(f"error: no answer from {endpoint} within 0.3 s; ")


def test_sending_to_nobody_fails_in_time(client: ExampleClient) -> None:
    (nobody,) = free_endpoints(1)
    ended = client.run("--ingest", nobody, *SHORT, "send", "user", "Hello")
    assert (ended.code, ended.lines, len(ended.error.splitlines())) == (3, [], 1)
    assert ended.error.startswith(f"error: no connection to {nobody} within 0.3 s; ")


def test_wrong_arguments_are_said(client: ExampleClient) -> None:
    for arguments in ([], ["dance"], ["submit", "user", "key"], ["--wrong", "1", "follow", "user"], ["--count"]):
        ended = client.run(*arguments)
        assert (ended.code, ended.lines, ended.error[:6]) == (2, [], "usage:"), arguments
    ended = client.run("--submit", "no endpoint", "status", "id")
    assert (ended.code, ended.lines, ended.error[:6]) == (2, [], "error:")


@pytest.mark.parametrize("client", [name for name in LANGUAGES if name in REFUSING_BYTES], indirect=True)
def test_what_is_not_utf8_is_not_sent(client: ExampleClient, service: RunningDispatcher, user: str) -> None:
    for arguments in (["submit", user, "key", "cut \udcc3", "other", "good"], ["send", user, "good", "cut \udcc3"]):
        ended = client.run(*client.at(service), *arguments)
        assert (ended.code, ended.lines, ended.error[:6], len(ended.error.splitlines())) == (2, [], "error:", 1)
    assert inbox(service, user) == []


# --- the stream --------------------------------------------------------------------------------------------------


def test_it_follows_what_was_there_and_what_comes(client: ExampleClient, service: RunningDispatcher, user: str) -> None:
    say(service, user, "1", "2", TITLE)
    arguments = (*client.at(service), *AT_ONCE, "--after", "1", "--count", "4", "follow", user)
    with client.started(*arguments) as program:
        assert read(program.shown(2)) == [(2, "2"), (3, TITLE)]
        say(service, user + "7", "not ours")
        items = say(service, user, "4", "5")
        ended = program.ended()
    assert (ended.code, ended.error, read(ended.lines)) == (0, "", told(items)[1:])


def test_a_gap_in_the_stream_is_filled_from_the_inbox(
    client: ExampleClient, service: RunningDispatcher, user: str
) -> None:
    topic = f"inapp.{user}\0".encode()
    with (
        Acted(zmq.XPUB) as stream,
        client.started(
            *("--submit", service.submit, "--stream", stream.endpoint, *NEVER, "--count", "7", "follow", user)
        ) as program,
    ):

        def publish(item: dict[str, Any]) -> None:
            stream.send(topic, json.dumps(item).encode())

        assert stream.received() == [b"\1" + topic]
        first = say(service, user, "1", "2")
        publish(first[1])
        program.shown(2)
        publish(first[0])  # known
        publish(first[1])
        items = say(service, user, "3", "4", "5", "6")
        publish(items[5])
        assert read(program.shown(6)) == told(items)
        publish({"cursor": 7, "title": "of the stream alone"})
        ended = program.ended()
    assert (ended.code, read(ended.lines)) == (0, [*told(items), (7, "of the stream alone")])


def test_without_a_word_of_the_stream_the_inbox_is_asked(
    client: ExampleClient, service: RunningDispatcher, user: str
) -> None:
    (nobody,) = free_endpoints(1)
    at = ("--submit", service.submit, "--stream", nobody)
    with client.started(*at, *AT_ONCE, "--count", "3", "follow", user) as program:
        say(service, user, "1")
        program.shown(1)
        items = say(service, user, "2", "3")
        assert read(program.ended().lines) == told(items)


# --- keys --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    return KeyRing(tmp_path_factory.mktemp("ring"))


@pytest.fixture(scope="module")
def locked(ring: KeyRing) -> Iterator[RunningDispatcher]:
    keys = ring.new("ada")
    ring.new("stranger")
    ring.admit("ada")
    with RunningDispatcher(ring.config, shards=1, keys=keys) as running:
        yield running


def keys(ring: KeyRing, name: str) -> tuple[str | Path, ...]:
    return "--server-key", ring.public(SERVER), "--public-key", ring.public(name), "--secret-key", ring.secret(name)


@WITH_CURVE
def test_keys_open_every_socket(client: ExampleClient, locked: RunningDispatcher, ring: KeyRing, user: str) -> None:
    at = (*client.at(locked), *keys(ring, "ada"))
    assert client.done(*at, "submit", user, "key", "one")[0].startswith("accepted key ")
    assert client.done(*at, "send", user, "two") == ["sent 1"]
    assert client.done(*at, "status", user, "key")[1] == "inapp delivered 1 -"
    with client.started(*at, *AT_ONCE, "--count", "3", "follow", user) as program:
        program.shown(2)
        say(locked, user, "three")
        assert {title for _, title in read(program.ended().lines)} == {"one", "two", "three"}


@WITH_CURVE
def test_without_the_right_keys_nothing_opens(
    client: ExampleClient, locked: RunningDispatcher, ring: KeyRing, tmp_path: Path
) -> None:
    for at in (client.at(locked), (*client.at(locked), *keys(ring, "stranger"))):
        assert client.run(*at, *SHORT, "status", "id").code == 3
        assert client.run(*at, *SHORT, "send", "user", "Hello").code == 3
    cut = tmp_path / "cut"
    cut.write_text("too short")
    for secret in (cut, tmp_path / "missing"):
        ended = client.run(*client.at(locked), *keys(ring, "ada")[:4], "--secret-key", secret, "status", "id")
        assert (ended.code, ended.lines, len(ended.error.splitlines())) == (2, [], 1)
        assert str(secret) in ended.error
