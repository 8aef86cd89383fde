"""``NotificationService`` with a dispatcher of its own: how it starts, ends, and survives what befalls it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dispatcher import Delivery, NotificationService, Recipient, ShutdownError, StartError
from dispatcher.api.embedded import Embedded
from tests.support.service import ROOT, wait_until

PATIENCE_S = 60.0


def host_of(service: NotificationService) -> Embedded:
    assert isinstance(service._host, Embedded)
    return service._host


def pid_of(service: NotificationService) -> int:
    process = host_of(service)._keeper._process
    assert process is not None
    return process.pid


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def run(program: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """A program without a __main__ guard, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embedded in Käfer") / "data"


@pytest.fixture(scope="module")
def service(directory: Path) -> Iterator[NotificationService]:
    with NotificationService(directory, shards=1, durability="process") as one:
        yield one


# --- while it runs ------------------------------------------------------------------------------------------------


def test_it_delivers_and_is_private(service: NotificationService, directory: Path) -> None:
    receipt = service.notify(user_id="ada", title="Hello")
    assert service.wait(receipt.id, PATIENCE_S).outcomes == {"inapp": "delivered"}
    assert service.submit_endpoint == f"ipc://{directory}/run/submit"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for name in ("embedded.toml", "embedded.log"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600


def test_templates_can_be_registered(service: NotificationService) -> None:
    service.register_template("greeting", {"title": "Hello {{ name }}"})
    receipt = service.notify(user_id="eve", template="greeting", payload={"name": "Eve"})
    service.wait(receipt.id, PATIENCE_S)
    assert [item.title for item in service.inbox("eve")] == ["Hello Eve"]


def test_another_one_in_the_same_directory_is_told_how_to_connect(
    service: NotificationService, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.api.embedded.FREED_S", 0.0)
    with pytest.raises(StartError, match=f"submit='{service.submit_endpoint}', stream='{service.stream_endpoint}'"):
        NotificationService(directory)
    with NotificationService(submit=service.submit_endpoint, stream=service.stream_endpoint) as other:
        assert other.notify(user_id="bob", title="a").id


def test_of_two_that_start_at_once_one_gets_the_directory_and_its_own_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.api.embedded.FREED_S", 0.0)
    with ThreadPoolExecutor(2) as pool:
        futures = {
            shards: pool.submit(NotificationService, tmp_path, config={"dispatcher": {"shards": shards}})
            for shards in (1, 2)
        }
    (refused,) = (future.exception() for future in futures.values() if future.exception())
    assert isinstance(refused, StartError)
    assert "is in use" in str(refused)
    ((shards, future),) = ((shards, future) for shards, future in futures.items() if not future.exception())
    with future.result() as service:
        assert len(service.metrics()["shards"]) == shards


def test_a_killed_dispatcher_is_started_again(service: NotificationService, caplog: pytest.LogCaptureFixture) -> None:
    first = pid_of(service)
    os.kill(first, signal.SIGKILL)
    ids = [service.notify(user_id="kim", title=f"{at}").id for at in range(3)]
    service.wait(ids[-1], PATIENCE_S)
    assert [item.title for item in service.inbox("kim")] == ["0", "1", "2"]
    assert pid_of(service) != first
    assert "the embedded dispatcher ended, and is started again: by signal 9" in caplog.text


def test_a_forked_child_has_a_connection_of_its_own(service: NotificationService) -> None:
    mine = service.notify(user_id="fork", title="of the parent")
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of 3.12 on: that there are threads is what it is about
        child = os.fork()
    if child == 0:
        try:
            found = service.notify(user_id="fork", title="of the child").id
            service.shutdown()
            os.write(write, found.encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        theirs = pipe.read()
    os.waitpid(child, 0)
    assert theirs
    assert theirs != mine.id
    last = service.notify(user_id="fork", title="of the parent again")
    service.wait(last.id, PATIENCE_S)
    titles = [item.title for item in service.inbox("fork")]
    assert titles == ["of the parent", "of the child", "of the parent again"]


# --- its end ------------------------------------------------------------------------------------------------------


def test_what_was_handed_over_is_there_the_next_time(tmp_path: Path) -> None:
    with NotificationService(tmp_path / "data", shards=1) as service:
        futures = [service.submit(user_id="ada", title=f"{at}") for at in range(100)]
        pid = pid_of(service)
    assert not is_alive(pid)
    assert len({future.result().id for future in futures}) == 100
    with pytest.raises(ShutdownError):
        service.notify(user_id="ada", title="late")
    with NotificationService(tmp_path / "data") as again:
        wait_until(lambda: len(list(again.inbox("ada"))) == 100, PATIENCE_S, "all of them")


def test_damage_is_told_to_the_program(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with NotificationService(tmp_path, shards=1) as service:
        service.notify(user_id="ada", title="Hello")
    (tmp_path / "shard-0.db").write_bytes(b"no database" * 1_000)
    with NotificationService(tmp_path, shards=1) as service:
        service.notify(user_id="ada", title="Again")
    assert "damaged" in caplog.text


def test_who_is_not_shut_down_warns_and_ends(tmp_path: Path) -> None:
    services = [NotificationService(tmp_path, shards=1)]
    pid = pid_of(services[0])
    with pytest.warns(ResourceWarning, match="was not shut down"):
        services.clear()
    wait_until(lambda: not is_alive(pid), PATIENCE_S, "the end of the dispatcher")


def test_a_program_that_just_ends_leaves_nothing_behind(tmp_path: Path) -> None:
    program = """
        import sys
        from dispatcher import NotificationService
        service = NotificationService(sys.argv[1], shards=1)
        future = service.submit(user_id="ada", title="last words")
        print(service._host._keeper._process.pid)
    """
    ended = run(program, str(tmp_path))
    assert ended.returncode == 0, ended.stderr
    wait_until(lambda: not is_alive(int(ended.stdout)), PATIENCE_S, "the end of the dispatcher")
    with NotificationService(tmp_path) as service:
        wait_until(lambda: [item.title for item in service.inbox("ada")], PATIENCE_S, "the last words")


def test_a_program_that_is_killed_takes_its_dispatcher_along(tmp_path: Path) -> None:
    program = """
        import os, signal, sys
        from dispatcher import NotificationService
        service = NotificationService(sys.argv[1], shards=1)
        print(service._host._keeper._process.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    ended = run(program, str(tmp_path))
    wait_until(lambda: not is_alive(int(ended.stdout)), PATIENCE_S, "the end of the dispatcher")


def test_an_interrupt_ends_in_order(tmp_path: Path) -> None:
    program = """
        import os, signal, sys, threading, time
        from dispatcher import NotificationService
        try:
            with NotificationService(sys.argv[1], shards=1) as service:
                tomorrow = int((time.time() + 86_400) * 1000)
                receipt = service.notify(user_id="ada", title="a", send_at=tomorrow)
                threading.Timer(0.2, os.killpg, (os.getpgid(0), signal.SIGINT)).start()
                service.wait(receipt.id)
        except KeyboardInterrupt:
            print("in order")
    """
    ended = run(program, str(tmp_path), start_new_session=True)
    assert (ended.returncode, ended.stdout) == (0, "in order\n"), ended.stderr


# --- its configuration --------------------------------------------------------------------------------------------


def test_a_mapping_or_a_file_configures_it(tmp_path: Path) -> None:
    (tmp_path / "texts" / "greeting").mkdir(parents=True)
    (tmp_path / "texts" / "greeting" / "title").write_text("Hello {{ name }}")
    config: dict[str, Any] = {
        "dispatcher": {"data_dir": str(tmp_path / "data"), "shards": 1},
        "templates": {"directory": "texts"},
        "channels": {"sms": {"provider": "simulated"}},
    }
    file = tmp_path / "mine.toml"
    file.write_text(
        '[dispatcher]\nshards = 1\n[templates]\ndirectory = "texts"\n[channels.sms]\nprovider = "simulated"\n'
    )
    with NotificationService(tmp_path / "data", config=file) as service:
        receipt = service.notify(user_id="ada", template="greeting", payload={"name": "Ada"}, channels=["sms", "inapp"])
        assert service.wait(receipt.id, PATIENCE_S).outcomes == {"sms": "delivered", "inapp": "delivered"}
        assert [item.title for item in service.inbox("ada")] == ["Hello Ada"]
        assert len(service.metrics()["shards"]) == 1
    del config["templates"]
    with NotificationService(config=config) as service:
        assert [item.id for item in service.inbox("ada")] == [receipt.id]
    assert config["channels"] == {"sms": {"provider": "simulated"}}


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"channels": {"sms": {"provider": "simulatd"}}}, "did you mean simulated"),
        ({"dispatcher": {"durability": "some"}}, "dispatcher.durability"),
        ({"dispatcher": 3}, "dispatcher must be a table, and not int"),
        ({"dispatcher": {"shard": 2}}, "^config: dispatcher.shard: unknown key 'shard'"),
        ({"channels": {"sms": {"sender": None}}}, "config: channels.sms.sender: .*NoneType"),
        ({"dispatcher": {"submit": "tcp://127.0.0.1:*"}}, "where this process is to connect to"),
    ],
)
def test_what_is_wrong_with_it_is_told(tmp_path: Path, config: dict[str, Any], told: str) -> None:
    with pytest.raises(StartError, match=told):
        NotificationService(tmp_path / "data", config=config, shards=1)


def test_what_is_wrong_with_a_file_is_told_by_its_lines(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[dispatcher]\n\nshard = 2\n")
    with pytest.raises(StartError, match=r"mine\.toml, line 3: dispatcher\.shard: .*did you mean shards"):
        NotificationService(tmp_path / "data", config=file)
    with pytest.raises(StartError, match="cannot be read"):
        NotificationService(tmp_path / "data", config=tmp_path / "nothing.toml")


def test_a_directory_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="must be a directory of this user"):
        NotificationService(tmp_path / "file")


def test_a_path_may_be_long(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 30)
    with NotificationService(directory, shards=1) as service:
        sockets = Path(service.submit_endpoint.removeprefix("ipc://")).parent
        assert not sockets.is_relative_to(tmp_path)
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
        assert service.notify(user_id="ada", title="a").id
    assert not sockets.exists()


class Nowhere:
    name = "nowhere"

    def supports_recipient(self, recipient: Recipient) -> bool:
        return False

    async def send(self, delivery: Delivery) -> None:
        raise AssertionError


def test_its_files_are_found_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text('[channels.sms]\nprovider = "simulated"\n')
    monkeypatch.chdir(tmp_path)
    with NotificationService("data", config="mine.toml", shards=1) as service:
        monkeypatch.chdir("/")
        service.register_channel("nowhere", Nowhere())
        assert {"sms", "nowhere"} <= service.metrics()["channels"].keys()


def test_what_is_left_of_registered_channels_is_told(tmp_path: Path) -> None:
    (tmp_path / "embedded-channels.json").write_text("")
    with pytest.raises(StartError, match=r"embedded-channels\.json: .* delete it"):
        NotificationService(tmp_path)


def test_what_stands_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "embedded.toml").mkdir()
    with pytest.raises(StartError, match="Is a directory; data_dir must be"):
        NotificationService(tmp_path)
