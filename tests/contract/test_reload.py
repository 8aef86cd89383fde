"""Another configuration while the service runs: by the operation and by SIGHUP, all of it or nothing."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.client import SubmitClient
from tests.support.service import ROOT, RunningDispatcher, wait_until
from tests.support.worker import Worker

CONFIG = '[channels.email]\nprovider = "simulated"\n[channels.sms]\nprovider = "simulated"\n'
RULE = '[[rules]]\nname = "sms"\nwhen = "title == \'t\'"\nchannels = ["sms"]\n'


@pytest.fixture(scope="module")
def running() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(CONFIG) as service:
        yield service


@pytest.fixture
def service(running: RunningDispatcher) -> Iterator[RunningDispatcher]:
    """With the configuration that it was started with, before and after."""
    text = running.config_file.read_text()
    yield running
    running.config_file.write_text(text)
    running.request("config.reload")


def test_templates_are_put_where_that_is_allowed(service: RunningDispatcher) -> None:
    error = service.client.refused("template.put", name="welcome", parts={"text": "hello"})
    assert (error["code"], error["field"]) == ("unsupported", "op")
    assert service.request("template.list")["items"] == []
    service.config_file.write_text(service.config_file.read_text() + "[templates]\nallow_template_put = true\n")
    service.request("config.reload")
    assert len(service.request("template.put", name="welcome", parts={"text": "hello"})["items"]) == 1


def rewrite(service: RunningDispatcher, change: Callable[[str], str]) -> None:
    service.config_file.write_text(change(service.config_file.read_text()))


def channels(service: RunningDispatcher, title: str = "t") -> list[str]:
    """Where a notification goes, of users in all shards."""
    users = [f"user-{number}" for number in range(20)]
    ids = service.client.submit(*({"user_id": user, "title": title} for user in users))["ids"]
    found = {one["channel"] for id in ids for one in service.request("status", id=id)["deliveries"]}
    return sorted(found)


def version(service: RunningDispatcher) -> int | None:
    """None while shards go by different ones."""
    stats = service.request("stats")
    mine: int | None = stats["config_version"]
    assert mine is None or {shard["config_version"] for shard in stats["shards"]} == {mine}
    return mine


def killed(service: RunningDispatcher, *names: str) -> None:
    """Returns when others have taken their places."""
    before = service.child_pids()
    for name in names:
        os.kill(before[name], signal.SIGKILL)

    def replaced() -> bool:
        with SubmitClient(service.submit, timeout_s=2.0) as client, contextlib.suppress(AssertionError):
            stats = client.request("stats")  # which a router that is killed may have taken along
            now = {"router": stats["router"]["pid"]} | {f"shard {one['shard']}": one["pid"] for one in stats["shards"]}
            return all(name in now and now[name] != before[name] for name in names)
        return False

    wait_until(replaced, timeout_s=30.0)


def events(service: RunningDispatcher, event: str) -> list[dict[str, object]]:
    return [line for line in service.events() if line["event"] == event]


def test_what_is_answered_holds_in_every_shard(service: RunningDispatcher) -> None:
    before = version(service)
    assert before is not None
    assert channels(service) == ["inapp"]
    rewrite(service, lambda text: text + RULE)
    answer = service.request("config.reload")
    assert answer == {"ok": True, "version": before + 1}
    assert channels(service) == ["sms"]
    assert channels(service, "other") == ["inapp"]
    assert version(service) == before + 1
    said = events(service, "configuration reloaded")[-1]
    assert (said["version"], said["tables"], said["process"]) == (before + 1, "rules", "supervisor")


def test_what_has_not_changed_keeps_its_version(service: RunningDispatcher) -> None:
    before = version(service)
    rewrite(service, lambda text: "# a comment\n" + text)
    assert service.request("config.reload")["version"] == before


def test_a_signal_does_as_well(service: RunningDispatcher) -> None:
    before = service.request("config.reload")["version"]
    rewrite(service, lambda text: text + RULE)
    assert service.process is not None
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: version(service) == before + 1)
    assert channels(service) == ["sms"]


@pytest.mark.parametrize(
    ("addition", "key", "says"),
    [
        ('[[rules]]\nname = "x"\nwhen = "titel == 1"\npriority = "low"\n', "rules.0.when", "did you mean title?"),
        ("[retry]\nbsae = '1s'\n", "retry.bsae", "did you mean base?"),
        ("[retry\n", None, "not TOML"),
        (RULE + "[bounds]\nusers = 10\n", "bounds.users", "it cannot change while the dispatcher runs; restart it"),
        (RULE + "[log]\nformat = 'human'\n", "log.format", "it cannot change while the dispatcher runs; restart it"),
    ],
)
def test_a_wrong_file_changes_nothing(service: RunningDispatcher, addition: str, key: str | None, says: str) -> None:
    before = version(service)
    rewrite(service, lambda text: text + addition)
    error = service.client.refused("config.reload")
    assert error["code"] == "bad_value"
    assert says in error["message"]
    if key:
        lines = service.config_file.read_text().splitlines()
        line = next(number for number, text in enumerate(lines, 1) if text.startswith(f"{key.rpartition('.')[2]} ="))
        if key.startswith("rules"):
            line = next(number for number, text in enumerate(lines, 1) if "titel" in text)
        assert error["message"].startswith(f"{service.config_file}, line {line}: {key}: ")
    assert events(service, "configuration not reloaded")[-1]["error"] == error["message"]
    assert (version(service), channels(service)) == (before, ["inapp"])


def test_shards_that_are_killed_come_back_with_the_new_settings(service: RunningDispatcher) -> None:
    rewrite(service, lambda text: text + RULE)
    reloaded = service.request("config.reload")["version"]
    killed(service, "shard 0", "shard 1")
    assert version(service) == reloaded
    assert channels(service) == ["sms"]


def test_a_new_router_asks_as_well(service: RunningDispatcher) -> None:
    before = service.request("config.reload")["version"]
    killed(service, "router")
    rewrite(service, lambda text: text + RULE)
    assert service.request("config.reload")["version"] == before + 1
    assert channels(service) == ["sms"]


def test_many_at_once_are_all_answered(service: RunningDispatcher) -> None:
    rewrite(service, lambda text: text + RULE)
    answers = service.client.pipelined(*[{"op": "config.reload"}] * 50)
    assert {answer["version"] for answer in answers} == {version(service)}


def test_the_logs_level_is_taken_by_all(service: RunningDispatcher) -> None:
    before = version(service)
    rewrite(service, lambda text: text + '[log]\nlevel = "error"\n')
    assert service.request("config.reload")["version"] == before  # it is nothing that deliveries are decided by
    assert service.request("config.reload")["version"] == before


def test_what_was_spent_of_a_limit_stays_spent(service: RunningDispatcher) -> None:
    def sent(count: int) -> list[str]:
        notification = {"user_id": "spender", "title": "x", "channels": ["email"]}
        ids = service.client.submit(*[notification] * count)["ids"]
        return [service.request("status", id=id)["deliveries"][0]["outcome"] for id in ids]

    rewrite(service, lambda text: text + '[rate_limits]\nemail = "2/day"\n')
    service.request("config.reload")
    assert sent(3).count("rate_limited") == 1
    rewrite(service, lambda text: text + RULE)
    service.request("config.reload")
    assert sent(1) == ["rate_limited"]


def delivered(service: RunningDispatcher, *names: str) -> None:
    """To users in all shards."""
    for name in names:
        documents = ({"user_id": f"user-{number}", "title": "t", "channels": [name]} for number in range(20))
        before = service.request("stats")["channels"][name]["outcomes"]["delivered"]
        service.client.submit(*documents)
        wait_until(
            lambda name=name, before=before: (  # type: ignore[misc]  # bound now
                service.request("stats")["channels"][name]["outcomes"]["delivered"] == before + 20
            ),
            60.0,
            f"20 more deliveries on {name}",
        )


def test_channels_are_added(tmp_path: Path) -> None:
    """Of all kinds, where there were none of that kind, and with nothing lost of what is under way."""
    config = '[channels.sms]\nprovider = "simulated"\n[channels.early]\nprovider = "attached"\n'
    added = f"""
[channels.email]
provider = "simulated"
[channels.logbook]
class = "odd_channels:Logbook"
file = "{tmp_path / "log"}"
concurrency = 2000
rate = "10000/second"
[channels.pager]
provider = "attached"
"""
    with RunningDispatcher(config) as service, Worker(service.submit, "early", "w") as early:
        service.stop()
        service.environment = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "tests" / "support" / "plugins", ROOT)))}
        service.start()
        id = service.client.submit({"user_id": "ada", "title": "t", "channels": ["early"]})["ids"][0]
        under_way = early.take()
        pager = Worker(service.submit, "pager", "w")
        assert pager.client.refused("channel.attach", channel="pager", worker="w")["code"] == "unknown_channel"
        rejected = service.client.submit({"user_id": "ada", "title": "t", "channels": ["pager"]})["rejected"]
        assert rejected[0]["error"]["code"] == "unknown_channel"

        rewrite(service, lambda text: text + added)
        service.request("config.reload")
        delivered(service, "sms", "email", "logbook")
        assert (tmp_path / "log").read_text().count("\n") == 20
        early.settle(under_way)
        wait_until(lambda: service.request("status", id=id)["deliveries"][0]["outcome"] == "delivered")
        for _ in range(2):  # the second time after restarts of the shards and the router
            ids = service.client.submit(
                {"recipients": [f"user-{at}" for at in range(20)], "title": "t", "channels": ["pager"]}
            )
            pager.settle(pager.take(20))
            for one in ids["ids"][0]:
                wait_until(
                    lambda one=one: service.request("status", id=one)["deliveries"][0]["outcome"] == "delivered"  # type: ignore[misc]
                )
            killed(service, "shard 0", "shard 1", "router")
        delivered(service, "sms", "email", "logbook")
        pager.close()

        rewrite(service, lambda text: text.replace(added, ""))
        assert "channels.logbook: it cannot change" in service.client.refused("config.reload")["message"]


def test_a_signal_to_a_child_alone_changes_nothing(service: RunningDispatcher) -> None:
    pids = service.child_pids()
    for pid in pids.values():
        os.kill(pid, signal.SIGHUP)
    assert channels(service) == ["inapp"]
    assert service.child_pids() == pids


def test_a_version_is_kept_and_never_used_again(service: RunningDispatcher) -> None:
    rewrite(service, lambda text: text + RULE)
    reloaded = service.request("config.reload")["version"]
    service.stop()
    service.start()
    assert version(service) == reloaded
    service.stop()
    rewrite(service, lambda text: text.replace(RULE, ""))
    service.start()
    assert version(service) == reloaded + 1


def test_names_of_channels_run_out_before_anything_changes() -> None:
    """A journal has numbers for 256 names in its life."""

    def attached(*names: str) -> str:
        return "".join(f'[channels.{name}]\nprovider = "attached"\n' for name in names)

    first, second = ([f"{kind}-{number}" for number in range(count)] for kind, count in (("first", 190), ("then", 59)))
    with RunningDispatcher(attached(*first), shards=1) as service:
        service.stop()
        rewrite(service, lambda text: text.replace(attached(*first), attached(*second)))
        service.start()
        before = version(service)
        rewrite(service, lambda text: text + attached("one", "two"))
        error = service.client.refused("config.reload")
        assert error["code"] == "bad_value"
        assert "257 names of channels" in error["message"]
        assert version(service) == before
        rewrite(service, lambda text: text.replace(attached("two"), attached("first-0")))  # it has its number
        assert service.request("config.reload")["version"] == (before or 0) + 1
        assert service.client.submit({"user_id": "u", "title": "t", "channels": ["one", "first-0"]})["accepted"] == 1
