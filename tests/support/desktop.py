"""A desktop for tests: a session bus, an X server without a screen, and dunst as the notification daemon."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.needs import needs
from tests.support.service import DIES_WITH_US, wait_until

# Without services that the bus would start by itself.
BUS = """<busconfig><type>session</type><listen>unix:path={socket}</listen><policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"""
DUNST = "[global]\nnotification_limit = 1\nhistory_length = 0\nsort = no\nstack_duplicates = no\nmarkup = {markup}\n"


class Desktop:
    """A context manager. The parts can be stopped and started again, at the same address."""

    def __init__(self) -> None:
        found = all(shutil.which(name) for name in ("dbus-daemon", "Xvfb", "dunst", "dunstctl", "busctl"))
        needs(found, "dbus-daemon, Xvfb or dunst is not installed (Debian: dbus-daemon xvfb dunst systemd)")
        self._directory = Path(tempfile.mkdtemp(prefix="desktop-"))
        self.address = f"unix:path={self._directory}/bus"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._display = ""

    def start(self) -> None:
        self.start_bus()
        self.start_daemon()

    def start_bus(self) -> None:
        config = self._directory / "bus.conf"
        config.write_text(BUS.format(socket=self._directory / "bus"))
        self._run("dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile")
        wait_until((self._directory / "bus").exists, what="the session bus")

    def start_daemon(self, markup: str = "full") -> None:
        """``markup`` is ``full`` or ``no``."""
        if not self._display:
            reading, writing = os.pipe()
            self._run("Xvfb", "-displayfd", str(writing), "-nolisten", "tcp", pass_fds=[writing])
            os.close(writing)
            with os.fdopen(reading) as answer:
                self._display = f":{answer.readline().strip()}"
        config = self._directory / "dunstrc"
        config.write_text(DUNST.format(markup=markup))
        self._run("dunst", "-conf", str(config))
        wait_until(lambda: self._dunstctl("count").returncode == 0, what="the notification daemon")

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def stop(self, *names: str) -> None:
        """Kill parts; all of them by default."""
        for name in names or tuple(self._processes):
            process = self._processes.pop(name)
            process.kill()
            process.wait()
        if "dbus-daemon" in names:
            (self._directory / "bus").unlink()

    def shown(self) -> list[dict[str, Any]]:
        """What was shown since the daemon started, the oldest first; it is closed by that."""
        assert self._dunstctl("close-all").returncode == 0
        items = json.loads(self._dunstctl("history").stdout)["data"][0]
        return [{key: entry["data"] for key, entry in item.items()} for item in reversed(items)]

    def _dunstctl(self, command: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["dunstctl", command], env=self._environment(), capture_output=True, check=False)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "DBUS_SESSION_BUS_ADDRESS": self.address, "DISPLAY": self._display}

    def _run(self, name: str, *arguments: str, pass_fds: Sequence[int] = ()) -> None:
        self._processes[name] = subprocess.Popen(
            [*DIES_WITH_US, name, *arguments],
            env=self._environment(),
            pass_fds=pass_fds,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)
