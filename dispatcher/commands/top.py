"""``top``: a running dispatcher, watched."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from dispatcher.commands.service import Service, asks

if TYPE_CHECKING:
    from dispatcher.overview import Pair, Sample
    from dispatcher.screen import Screen

EVERY_S = 1.0
SILENT_S = 2.0  # beyond, the view says that it is old
KEYS, HELD_KEYS = "p holds  q quits", "HELD: p goes on  q quits"


@click.command()
@click.option("--once", is_flag=True, help="Print what there is to see once. So it is done where there is no terminal.")
@asks
def top(service: Service, once: bool) -> None:
    """Watch channels and processes, every second, until q is typed; p holds the view, and lets it go on.

    What is in trouble comes first. Rates are of the last second; latencies, in milliseconds, since the start.
    """
    from dispatcher.screen import Screen, is_there

    if once or service.as_json or not is_there():
        _print(service)
        return
    first = _sample(service.ask("stats"))  # whatever is wrong with the endpoint is said where it stays
    try:
        with Screen() as screen:
            _Live(service, screen, first).run()
    except (KeyboardInterrupt, _QuitError):
        pass


def _print(service: Service) -> None:
    from dispatcher import overview
    from dispatcher.screen import COLUMNS

    before = _sample(service.ask("stats"))
    time.sleep(EVERY_S)
    pair = overview.Pair(_sample(service.ask("stats")), before)

    def for_people(_: dict[str, Any]) -> str:
        return "\n".join(text for text, _ in overview.lines(pair, COLUMNS))

    service.show({**pair.now.stats, "rates": overview.rates(pair)}, for_people)


def _sample(stats: dict[str, Any]) -> Sample:
    from dispatcher.overview import Sample

    return Sample(time.monotonic(), stats)


class _QuitError(Exception):
    """Somebody wants no more of it."""


class _Live:
    """Asks, draws and waits by turns; keys are heard while it waits for an answer as well."""

    def __init__(self, service: Service, screen: Screen, first: Sample) -> None:
        from dispatcher.overview import Pair

        self._service = service
        self._screen = screen
        self._pair = Pair(first)
        self._heard = first.at
        self._problem = ""
        self._held: tuple[Pair, str] | None = None

    def run(self) -> None:
        while True:
            began = time.monotonic()
            self._draw()
            while (left_s := began + EVERY_S - time.monotonic()) > 0:
                self._attend(left_s)
            self._ask()

    def _ask(self) -> None:
        from dispatcher.api.errors import DispatcherError
        from dispatcher.overview import Pair

        with self._service.connected() as client:
            client.on_wait = lambda: self._attend(0.0)
            try:
                now = _sample(client.request("stats"))
            except DispatcherError as error:
                self._problem = str(error)
            else:
                self._pair = Pair(now, None if self._problem else self._pair.now)
                self._heard, self._problem = now.at, ""
        if self._problem:
            self._service.close()  # what was asked meanwhile must not be answered when it is back

    def _attend(self, wait_s: float) -> None:
        key = self._screen.key(wait_s)
        if key and key[:1] in "qQ":
            raise _QuitError
        if key and key[:1] in "pP":
            self._held = None if self._held else (self._pair, self._trouble())
            self._draw()
        elif key == "" or self._is_silent:
            self._draw()

    @property
    def _is_silent(self) -> bool:
        return time.monotonic() - self._heard > SILENT_S

    def _trouble(self) -> str:
        """Why what is shown may be old."""
        if not (self._problem or self._is_silent):
            return ""
        why = f": {self._problem}" if self._problem else ""
        return f"NO ANSWER for {time.monotonic() - self._heard:.0f} s, asking again{why}"

    def _draw(self) -> None:
        from dispatcher import overview

        pair, problem = self._held or (self._pair, self._trouble())
        keys = HELD_KEYS if self._held else KEYS
        self._screen.draw(overview.lines(pair, self._screen.size[0], problem, keys))
