"""The running dispatcher that a command asks, and the options that name it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from dispatcher.commands.options import WRONG_USAGE, config_option, duration, fail, json_option, loaded_settings

if TYPE_CHECKING:
    from dispatcher.client import Client
    from dispatcher.settings import Settings
    from shards.wire.errors import Error

START = "`python -m dispatcher` starts one; --submit or --config names another; --timeout waits longer"


class Service:
    """Asks over one connection, made when first needed. Every failure ends the program, with the remedy."""

    def __init__(
        self, submit: str | None, config: Path | None, keys: dict[str, str | None], timeout_s: float, as_json: bool
    ) -> None:
        self._submit = submit
        self._config = config
        self._keys = keys
        self._timeout_s = timeout_s
        self._client: Client | None = None
        self.as_json = as_json

    def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """The answer's document; a field that is None is left out."""
        with self.connected() as client:
            return client.request(op, **fields)

    def ask_many(self, op: str, requests: Iterable[dict[str, Any]]) -> Iterator[tuple[int, Error | None]]:
        """The number of each request, from 0, and its error, as the answers come."""
        with self.connected() as client:
            yield from client.pipelined(op, requests)

    def show(self, answer: dict[str, Any], for_people: Callable[[dict[str, Any]], str]) -> None:
        """One JSON object where that was asked for, else what ``for_people`` makes of it."""
        from dispatcher.terminal import json_text

        click.echo(json_text(answer) if self.as_json else for_people(answer))

    @functools.cached_property
    def settings(self) -> Settings:
        return loaded_settings(self._config, ("dispatcher", "curve"), curve=self._keys)

    @contextmanager
    def connected(self) -> Iterator[Client]:
        """The connection itself; what it raises ends the program."""
        import zmq

        from dispatcher.api.errors import DispatcherError, NoAnswerError
        from dispatcher.client import Client
        from dispatcher.curve import KeyFileError, client_keys

        settings = self.settings
        endpoint = self._submit or settings.dispatcher.submit
        try:
            if self._client is None:
                self._client = Client(endpoint, self._timeout_s, client_keys(settings.curve))
            yield self._client
        except zmq.ZMQError as error:
            reason = zmq.strerror(error.errno or 0)
            fail(f"--submit {endpoint!r}: {reason}; an endpoint is like tcp://127.0.0.1:7712", WRONG_USAGE)
        except KeyFileError as error:
            fail(str(error), WRONG_USAGE)
        except NoAnswerError as error:
            fail(f"{error} ({START})")
        except DispatcherError as error:
            fail(str(error))
        except UnicodeEncodeError:
            fail("an argument is not UTF-8, and all text of the dispatcher is", WRONG_USAGE)

    def close(self) -> None:
        """What is asked afterwards is asked over a new connection."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def asks(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that name a running dispatcher, and that dispatcher as its first argument."""

    @functools.wraps(command)
    def asking(
        submit: str | None,
        config: Path | None,
        secret_key: str | None,
        server_key: str | None,
        timeout: float,
        as_json: bool,
        **options: Any,
    ) -> None:
        keys = {"secret_key": secret_key, "server_key": server_key}
        with Service(submit, config, keys, timeout, as_json) as service:
            command(service, **options)

    for option in (
        json_option,
        config_option,
        click.option("--timeout", metavar="DURATION", callback=duration, default="10s", help="Wait so long."),
        click.option("--server-key", help="File of its public key, if it has CURVE.  [default: as configured]"),
        click.option("--secret-key", help="File of your own secret key, if it has CURVE.  [default: as configured]"),
        click.option("--submit", help="The submit endpoint of a running dispatcher.  [default: as configured]"),
    ):
        asking = option(asking)
    return asking
