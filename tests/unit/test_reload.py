"""What may change while the service runs, and who waits for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from dispatcher.data_directory import DataDirectory
from dispatcher.reload import changed_tables
from dispatcher.reloads import PUTS_MAX, Put, Reloaded, Reloads
from dispatcher.settings import Settings, SettingsError, load
from shards.wire.errors import Error, RequestError
from shards.wire.requests import Request

EMAIL = {"email": {"provider": "simulated"}}


def composed(**tables: Any) -> Settings:
    return load(None, {}, tables)


@pytest.mark.parametrize(
    ("table", "value"),
    [
        ("categories", {"news": {"channels": ["inapp"]}}),
        ("rules", [{"name": "a", "priority": "low"}]),
        ("rate_limits", {"sms": "1/day"}),
        ("caps", {"few": {"limit": 1, "window": "1h"}}),
        ("digests", {"all": {"template": "t"}}),
        ("preferences", {"timezone": "Europe/Paris"}),
        ("schedules", {"horizon": "1h"}),
        ("retry", {"max_retries": 1}),
        ("priorities", {"aging": "1s"}),
        ("idempotency", {"window": "1h"}),
        ("retention", {"finished": "48h"}),
        ("log", {"level": "debug"}),
    ],
)
def test_what_may_change(table: str, value: Any) -> None:
    assert changed_tables(composed(), composed(**{table: value}), lambda _: "") == [table]
    assert changed_tables(composed(**{table: value}), composed(), lambda _: "") == [table]


PAGER: dict[str, Any] = {"class": "tests.support.scripted:Scripted", "label": "a"}
SIMULATED: dict[str, Any] = {"provider": "simulated"}
ATTACHED: dict[str, Any] = {"provider": "attached"}


@pytest.mark.parametrize(
    ("before", "after", "may"),
    [
        (PAGER, {**PAGER, "label": "b"}, True),
        (PAGER, {"providers": [PAGER, PAGER]}, True),
        (SIMULATED, {**SIMULATED, "timeout": "1s"}, True),
        (SIMULATED, {**SIMULATED, "failure_rate": 0.5}, False),
        (SIMULATED, PAGER, False),
        (PAGER, SIMULATED, False),
        (ATTACHED, {**ATTACHED, "timeout": "1s"}, True),
        (ATTACHED, PAGER, False),
        (PAGER, ATTACHED, False),
        (PAGER, {**PAGER, "concurrency": 1}, True),
        (PAGER, {**PAGER, "rate": "1/second"}, False),
    ],
)
def test_a_channel_changes_its_providers_but_not_whether_it_is_simulated_or_attached(
    before: dict[str, Any], after: dict[str, Any], may: bool
) -> None:
    old, new = (composed(channels={"pager": channel}) for channel in (before, after))
    if may:
        assert changed_tables(old, new, lambda _: "") == ["channels"]
        return
    with pytest.raises(SettingsError, match=r"channels\.pager\.(providers|rate): it cannot change"):
        changed_tables(old, new, lambda _: "")


@pytest.mark.parametrize(
    ("table", "value", "key"),
    [
        ("dispatcher", {"drain": "1s"}, "dispatcher.drain"),
        ("dispatcher", {"shards": 7}, "dispatcher.shards"),
        ("limits", {"batch": 1}, "limits.batch"),
        ("bounds", {"users": 1}, "bounds.users"),
        ("log", {"format": "human"}, "log.format"),
    ],
)
def test_what_takes_a_restart_refuses_all_of_it(table: str, value: Any, key: str) -> None:
    with pytest.raises(SettingsError) as caught:
        changed_tables(composed(), composed(retry={"max_retries": 1}, **{table: value}), ".".join)
    assert str(caught.value).startswith(f"{key}: {key}: it cannot change while the dispatcher runs; restart it")
    assert "\n" not in str(caught.value)


def test_a_channel_is_added_but_not_taken_away() -> None:
    one, both = composed(channels=EMAIL), composed(channels={**EMAIL, "pager": {"provider": "attached"}})
    assert changed_tables(composed(), both, lambda _: "") == changed_tables(one, both, lambda _: "") == ["channels"]
    with pytest.raises(SettingsError, match=r"channels\.pager: it cannot change"):
        changed_tables(both, one, lambda _: "")


def test_every_key_that_takes_a_restart_is_named() -> None:
    with pytest.raises(SettingsError) as caught:
        changed_tables(composed(), composed(bounds={"users": 1}, limits={"batch": 1}), lambda _: "x")
    assert len(str(caught.value).splitlines()) == 2


def test_the_order_of_digests_is_a_change() -> None:
    one, two = {"template": "t"}, {"template": "u"}
    before, after = composed(digests={"a": one, "b": two}), composed(digests={"b": two, "a": one})
    assert changed_tables(before, after, lambda _: "") == ["digests"]


def test_nothing_changed() -> None:
    assert not changed_tables(composed(channels=EMAIL), composed(channels=EMAIL), lambda _: "")


def test_a_version_is_of_one_configuration(tmp_path: Any) -> None:
    directory = DataDirectory(tmp_path / "data")
    with directory.lock():
        identity = directory.identity(1, lambda: False)
        versions = []
        for document in (b"a", b"a", b"b", b"a"):
            directory.number_configuration(identity, document)
            versions.append(identity.version)
        assert versions == [1, 1, 2, 3]
        again = directory.identity(None, lambda: False)
        directory.number_configuration(again, b"a")
        assert again == identity


class Asking:
    def __init__(self, waiting_max: int = 10) -> None:
        self.asked: list[str] = []
        self.answers: list[tuple[Any, Any]] = []
        self.reloads = Reloads(
            100, waiting_max, self.asked.append, lambda _envelope, _json, seq, found: self.answers.append((seq, found))
        )

    def add(self, seq: int, now: float = 0.0) -> None:
        self.reloads.add([b"client", b""], True, Request("config.reload", seq=seq), now)


def test_who_came_while_one_was_under_way_is_answered_by_the_next() -> None:
    asking = Asking()
    for seq in (1, 2, 3):
        asking.add(seq)
    assert asking.asked == ["reload 101"]
    asking.reloads.done(Reloaded(101, 5))
    assert asking.answers == [(1, {"version": 5})]
    assert asking.asked == ["reload 101", "reload 103"]
    asking.reloads.done(Reloaded(103, 6))
    assert asking.answers[1:] == [(2, {"version": 6}), (3, {"version": 6})]
    asking.add(4)
    error = Error("bad_value", "no")
    asking.reloads.done(Reloaded(104, 6, error))
    assert asking.answers[-1] == (4, error)


def test_what_is_put_lies_in_a_file_and_each_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    asking = Asking()
    for name in ("a", "b", "c"):
        asking.reloads.add([b""], True, Request("template.put", seq=name, name=name, parts={"text": name}), 0.0)
    assert asking.asked == ["put 101"]
    asking.reloads.done(Reloaded(101, 5, put={101: {"name": "a"}}))
    assert asking.asked == ["put 101", "put 103"]
    lying = msgspec.json.decode((tmp_path / "run/puts-103.json").read_bytes(), type=list[Put])
    assert lying == [Put(102, "b", {"text": "b"}), Put(103, "c", {"text": "c"})]
    asking.add(4)
    refused = Error("bad_value", "no")
    told = Reloaded(103, 6, put={103: {"name": "c"}}, refused={102: refused})
    asking.reloads.done(msgspec.json.decode(msgspec.json.encode(told), type=Reloaded))
    assert asking.answers == [("a", {"items": [{"name": "a"}]}), ("b", refused), ("c", {"items": [{"name": "c"}]})]
    assert asking.asked[2:] == ["reload 104"]


def test_what_cannot_be_laid_out_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # which has no directory for it
    asking = Asking()
    asking.reloads.add([b""], True, Request("template.put", seq=1, name="a", parts={"text": "a"}), 0.0)
    ((_, error),) = asking.answers
    assert error.code == "unavailable"
    asking.add(2)
    assert asking.asked == ["reload 102"]


def test_puts_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    asking = Asking(waiting_max=1_000)
    put = Request("template.put", name="a", parts={"text": "a"})
    for _ in range(PUTS_MAX):
        asking.reloads.add([b""], True, put, 0.0)
    with pytest.raises(RequestError, match="too many templates"):
        asking.reloads.add([b""], True, put, 0.0)
    asking.add(1)


def test_what_was_asked_by_a_router_before_answers_nobody() -> None:
    asking = Asking()
    asking.add(1)
    asking.reloads.done(Reloaded(100, 5))  # or by a signal
    assert not asking.answers
    asking.reloads.done(Reloaded(101, 5))
    assert asking.answers


def test_waiting_is_bounded() -> None:
    asking = Asking(waiting_max=1)
    asking.add(1)
    with pytest.raises(RequestError, match="too many"):
        asking.add(2)
    asking.reloads.expire(1e9)
    ((_, error),) = asking.answers
    assert error.code == "unavailable"


def test_what_a_router_is_told_survives_its_encoding() -> None:
    told = Reloaded(1, 2, Error("bad_value", "line\nline"))
    encoded = msgspec.json.encode(told)
    assert b"\n" not in encoded  # the file has it as one line
    assert msgspec.json.decode(encoded, type=Reloaded) == told
