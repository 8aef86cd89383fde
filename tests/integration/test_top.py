"""``top`` in a terminal, and where there is none: what it shows, the keys, and how it leaves the terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from wcwidth import wcswidth

from dispatcher.screen import ENTER, LEAVE
from tests.support.service import ROOT, RunningDispatcher, wait_until
from tests.support.terminal import Terminal

CONFIG = """
[channels.email]
provider = "simulated"
[channels.sms]
provider = "simulated"
failure_rate = 1.0
retry = { max_retries = 100, base = "200ms", max = "200ms" }
[channels.push]
provider = "simulated"
[channels.pager]
provider = "attached"
"""
USERS = [f"user-{number}" for number in range(8)]  # of both shards
LONG_S = 30.0
COLUMNS = ["channel", "state"]


@pytest.fixture(scope="module")
def running() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(CONFIG, shards=2) as service:
        yield service


@pytest.fixture
def service(running: RunningDispatcher) -> Iterator[RunningDispatcher]:
    """Nothing is paused, before and after."""
    yield running
    for channel in ("email", "push"):
        running.request("channel.resume", channel=channel)


def shell(service: RunningDispatcher, **more: str) -> dict[str, str]:
    left_out = ("DISPATCHER_", "NO_COLOR", "TERM")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return kept | {"DISPATCHER_SUBMIT": service.submit} | more


def terminal(service: RunningDispatcher, *args: str, columns: int = 80, rows: int = 24, **more: str) -> Terminal:
    return Terminal("top", *args, columns=columns, rows=rows, environment=shell(service, **more))


def run(service: RunningDispatcher, *args: str) -> str:
    command = [sys.executable, "-m", "dispatcher", "top", *args]
    ended = subprocess.run(
        command, cwd=ROOT, env=shell(service), stdout=subprocess.PIPE, text=True, timeout=60, check=True
    )
    return ended.stdout


def submit(service: RunningDispatcher, channel: str) -> None:
    service.client.submit(*({"user_id": user, "title": "Hello", "channels": [channel]} for user in USERS))


def shows(screen: Terminal, text: str) -> None:
    """Returns once a line on the screen has the text."""
    wait_until(lambda: any(text in line for line in screen.frame()), LONG_S, f"{text!r} on the screen")


def channels(screen: Terminal) -> list[list[str]]:
    """The cells of the table of channels, without its headers."""
    rows = [line.split() for line in screen.frame()]
    first = next((at for at, row in enumerate(rows) if row[:2] == COLUMNS), len(rows)) + 1
    return rows[first : next((at for at, row in enumerate(rows) if at > first and not row), len(rows))]


# --- what it shows ------------------------------------------------------------------------------------------------


def test_without_a_terminal_one_frame_is_printed(service: RunningDispatcher) -> None:
    for args in ([], ["--once"]):
        lines = run(service, *args).splitlines()
        assert max(map(wcswidth, lines)) <= 80
        assert any(line.split()[:2] == COLUMNS for line in lines)
        assert any(line.split()[:2] == ["email", "running"] for line in lines)
        assert [line.split()[0] for line in lines[-4:]] == ["shard", "shard", "router", "collector"]
        assert "q quits" not in lines[0]
    assert json.loads(run(service, "--json"))["rates"]["email"] == {"delivered_per_s": 0.0, "failed_per_s": 0.0}


def test_a_terminal_that_cannot_move_its_cursor_gets_one_frame(service: RunningDispatcher) -> None:
    with terminal(service, TERM="dumb") as screen:
        assert screen.ended() == 0
        assert "collector" in screen.output
        assert "\x1b" not in screen.output


def test_what_is_delivered_shows_by_channel(service: RunningDispatcher) -> None:
    before = service.request("stats")
    with terminal(service, columns=200) as screen:
        shows(screen, "email")
        submit(service, "email")
        delivered = str(before["channels"]["email"]["outcomes"]["delivered"] + len(USERS))

        def cells() -> list[str]:
            return next((row for row in channels(screen) if row[:2] == ["email", "running"]), [])

        wait_until(lambda: delivered in cells(), LONG_S, "the deliveries")
        shows(screen, f"accepted {before['accepted'] + len(USERS)}, ")
        wait_until(lambda: screen.frames and "-" not in cells(), LONG_S, "rates and latencies")
        headers = next(line.split() for line in screen.frame() if line.split()[:2] == COLUMNS)
        assert {"queued", "retry", "dead", "p50", "p99", "suppressed", "limited", "cancelled"} <= set(headers)
        assert any(line.startswith("latency ms:  p50 ") for line in screen.frame())


def test_trouble_comes_first_and_stands_out(service: RunningDispatcher) -> None:
    with terminal(service) as screen:
        wait_until(lambda: [row[0] for row in channels(screen)] == ["pager", "email", "sms", "push", "inapp"], LONG_S)
        assert channels(screen)[0][:3] == ["pager", "no", "worker"]
        submit(service, "pager")
        shows(screen, "NO WORKER pager: what is for it waits")
        submit(service, "sms")
        wait_until(lambda: channels(screen)[:1] and channels(screen)[0][:2] == ["sms", "failing"], LONG_S)
        service.request("channel.pause", channel="push")
        shows(screen, "PAUSED push by an operator")
        wait_until(lambda: [row[:2] for row in channels(screen)][:1] == [["push", "paused"]], LONG_S)
        frame = screen.frame()
        row = next(at for at, line in enumerate(frame) if line.split()[:2] == ["push", "paused"])
        assert (screen.letter(row).fg, screen.letter(row).bold) == ("red", True)
        service.request("channel.resume", channel="push")
        wait_until(lambda: ["push", "running"] in [row[:2] for row in channels(screen)], LONG_S)


def test_without_colours_it_stands_out_all_the_same(service: RunningDispatcher) -> None:
    service.request("channel.pause", channel="push")
    with terminal(service, NO_COLOR="1") as screen:
        shows(screen, "PAUSED push")
        row = next(at for at, line in enumerate(screen.frame()) if line.startswith("PAUSED"))
        assert (screen.letter(row).fg, screen.letter(row).reverse) == ("default", True)
        assert "\x1b[1;31m" not in screen.output


def test_a_service_that_is_gone_is_said_and_found_again(service: RunningDispatcher) -> None:
    with terminal(service, "--timeout", "500ms") as screen:
        shows(screen, "email")
        service.stop()
        shows(screen, "NO ANSWER for ")
        assert any(line.startswith("shard 1") for line in screen.frame()), "what was known last stays there"
        service.start()
        wait_until(lambda: screen.frame() and "NO ANSWER" not in "".join(screen.frame()), LONG_S)
        screen.type(b"Q")
        assert screen.ended() == 0


def test_where_nobody_answers_it_says_so_and_takes_no_terminal(service: RunningDispatcher) -> None:
    nobody = "ipc:///nowhere/at/all"
    with terminal(service, "--submit", nobody, "--timeout", "200ms") as screen:
        assert screen.ended() == 1
        assert f"error: unavailable: no answer from {nobody} within 0.2 s" in " ".join(screen.output.split())
        assert ENTER not in screen.output
        assert screen.attributes() == screen.before


# --- sizes and keys -----------------------------------------------------------------------------------------------


def test_it_is_drawn_anew_in_the_size_of_its_terminal_until_q(service: RunningDispatcher) -> None:
    with terminal(service) as screen:
        shows(screen, "collector")
        assert screen.attributes() != screen.before
        assert max(map(len, screen.frame())) in range(60, 81)
        screen.resize(40, 14)
        shows(screen, "lines more")
        assert len(screen.frame()) == 14
        assert max(map(len, screen.frame())) <= 40
        assert any(line.startswith("channel state deliv/s fail/s") or "deliv/s" in line for line in screen.frame())
        screen.resize(100, 40)
        shows(screen, "collector")
        screen.type(b"q")
        assert screen.ended() == 0
        assert screen.output.startswith(ENTER)
        assert screen.output.endswith(LEAVE)
        assert screen.attributes() == screen.before


@pytest.mark.parametrize(("columns", "rows"), [(20, 5), (5, 2), (1, 1)])
def test_a_tiny_terminal_shows_what_fits(service: RunningDispatcher, columns: int, rows: int) -> None:
    with terminal(service) as screen:
        shows(screen, "collector")
        screen.resize(columns, rows)
        drawn = screen.frames
        wait_until(lambda: screen.frames >= drawn + 2 and screen.frame(), LONG_S, "frames in the new size")
        assert len(screen.frame()) == rows
        screen.type(b"q")
        assert screen.ended() == 0
        assert "Traceback" not in screen.output


def test_p_holds_the_view_until_p_again(service: RunningDispatcher) -> None:
    with terminal(service) as screen:
        shows(screen, "p holds")
        screen.type(b"p")
        shows(screen, "HELD")
        service.request("channel.pause", channel="email")
        drawn = screen.frames
        wait_until(lambda: screen.frames >= drawn + 3, LONG_S, "what it was told meanwhile")
        assert "PAUSED" not in "".join(screen.frame())
        screen.type(b"p")
        shows(screen, "PAUSED email")
        assert "HELD" not in "".join(screen.frame())


@pytest.mark.parametrize("keys", [b"\x03", b"\x1c"], ids=["ctrl-c", "ctrl-backslash"])
def test_an_interruption_leaves_the_terminal_as_it_was(service: RunningDispatcher, keys: bytes) -> None:
    with terminal(service) as screen:
        shows(screen, "email")
        screen.type(b"\x1a")  # nobody is there to continue it, so that it is not stopped
        wait_until(lambda: f"{LEAVE}{ENTER}" in screen.read(), LONG_S)
        screen.type(keys)
        assert screen.ended() == 0
        assert screen.output.endswith(LEAVE)
        assert "Traceback" not in screen.output
        assert screen.attributes() == screen.before


def test_a_signal_to_end_leaves_the_terminal_as_it_was(service: RunningDispatcher) -> None:
    with terminal(service) as screen:
        shows(screen, "email")
        screen.process.terminate()
        assert screen.ended() == 0
        assert screen.output.endswith(LEAVE)
        assert screen.attributes() == screen.before
