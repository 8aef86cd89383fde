"""A shell session of docs/, done again: in a directory of its own the commands print what the page shows.

Titled blocks are files. A command that prints `ready: ...` stays in the background, as in a shell of its own, until
the next such one or the end. What differs from run to run (ids, times, durations) is compared by its form. A line `...`
in the output stands for any number of lines.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Self

from click.testing import CliRunner

from dispatcher.cli import main
from dispatcher.settings import Settings
from tests.support.service import DIES_WITH_US, ROOT, free_endpoints
from tests.support.snippets import Snippet

COMMAND_S = 60.0
SETTLED_S = 30.0  # what a command that only looks shows may take a moment to become so
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{16}-[0-9a-f]+-[0-9a-f]+")
# asks a running dispatcher, and is nothing to a shell but words
ASKS = re.compile(r"dispatcher (?!serve|config|channel test)[^$|<>;&`\n]*")
LOOKS = re.compile(r"dispatcher (?:status|inbox|stats|dead list|channel list|user get)\b")
VARYING = (  # what it looks like, and what it is called where runs are compared
    (ID, "ID"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.\d]*(?:Z|\+00:00))?"), "TIME"),
    (re.compile(r"\((?:now|in [^()]+|[^()]+ ago)\)"), "SPAN"),
    (re.compile(r"(?<=epoch: )\d+"), "EPOCH"),
    (re.compile(r"\d+(?:\.\d+)?(?= (?:s|MiB)\b)"), "N"),
    (re.compile(r"-{3,}| {2,}"), " "),
)


class Session:
    """A context manager; ``run`` does one block."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ids: dict[str, str] = {}  # of the page, and here
        self._service: subprocess.Popen[str] | None = None
        own = Settings().dispatcher
        names = ("ingest", "submit", "stream")
        self._endpoints = dict(zip([getattr(own, name) for name in names], free_endpoints(3), strict=True))
        self._given = {f"DISPATCHER_{name.upper()}": self._endpoints[getattr(own, name)] for name in names}
        given = [f"{name}={endpoint}" for name, endpoint in self._given.items()]
        programs = directory / "bin"
        programs.mkdir()
        for name, words in (("dispatcher", [*given, sys.executable, "-m", "dispatcher"]), ("python", [sys.executable])):
            (programs / name).write_text(f'#!/bin/sh\nexec env {shlex.join(words)} "$@"\n')
            (programs / name).chmod(0o755)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")},
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}:{directory / 'work'}",
            "TZ": "UTC",
            "LC_ALL": "C.UTF-8",
        }
        self._work = directory / "work"
        self._work.mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def run(self, snippet: Snippet) -> None:
        if snippet.title:
            path = self._work / snippet.title
            path.touch(0o600)
            path.write_text(self._here(snippet.text))
        if snippet.language == "console":
            for command, shown in _steps(snippet.text):
                act = self._serve if shown.startswith("ready: ") else self._call
                deadline = time.monotonic() + (SETTLED_S if LOOKS.match(command) else 0)
                while not self._shows(shown, printed := act(self._here(command))):
                    assert time.monotonic() < deadline, (
                        f"{snippet}: {command}\n--- the page\n{shown}\n--- printed\n{printed}"
                    )

    def program(self, text: str) -> None:
        """Python of a page; it must end by itself, and well."""
        ended = self._ended([sys.executable, "-W", "error", "-"], text)
        assert ended.returncode == 0, ended.stdout

    def _call(self, command: str) -> str:
        if not ASKS.fullmatch(command):
            return self._ended(["bash", "-c", command]).stdout
        with contextlib.chdir(self._work):  # in this interpreter, which spares half a second
            return CliRunner().invoke(main, shlex.split(command)[1:], env=self._given).output

    def _ended(self, words: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            cwd=self._work,
            env=self._environment,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,  # in the order in which a terminal has them
            text=True,
            timeout=COMMAND_S,
            check=False,
        )

    def _serve(self, command: str) -> str:
        self._stop()
        self._service = subprocess.Popen(
            [*DIES_WITH_US, *shlex.split(command)],
            cwd=self._work,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._service.stdout is not None
        return self._service.stdout.readline()

    def _stop(self) -> None:
        if self._service is None:
            return
        self._service.send_signal(signal.SIGTERM)
        try:
            assert self._service.wait(COMMAND_S) == 0
        finally:
            self._service.kill()
            with contextlib.suppress(AttributeError):
                self._service.stdout.close()  # type: ignore[union-attr]  # it is there: PIPE
            self._service = None

    def _here(self, text: str) -> str:
        """With the ids and endpoints that stand here for those of the page."""
        for of_page, here in {**self._ids, **self._endpoints}.items():
            text = text.replace(of_page, here)
        return text

    def _shows(self, shown: str, printed: str) -> bool:
        for of_page, here in self._endpoints.items():
            printed = printed.replace(here, of_page)
        if not _matches(_lines(shown), _lines(printed)):
            return False
        self._ids |= dict(zip(ID.findall(shown), ID.findall(printed), strict=False))
        return True


def _steps(text: str) -> Iterator[tuple[str, str]]:
    """Each command, with its here-document, and the output that the page shows."""
    for step in re.split(r"(?m)^\$ ", text)[1:]:
        first, _, rest = step.partition("\n")
        if found := re.search(r"<<'?(\w+)'?", first):
            document, end, rest = rest.partition(f"\n{found[1]}\n")
            first = f"{first}\n{document}{end}"
        yield first, rest


def _lines(text: str) -> list[str]:
    for form, name in VARYING:
        text = form.sub(name, text)
    return [line.strip() for line in text.strip().splitlines()]


def _matches(shown: list[str], printed: list[str]) -> bool:
    if "..." not in shown:
        return all(one == other for one, other in zip_longest(shown, printed))
    at = shown.index("...")
    return shown[:at] == printed[:at] and any(
        _matches(shown[at + 1 :], printed[start:]) for start in range(at, len(printed) + 1)
    )
