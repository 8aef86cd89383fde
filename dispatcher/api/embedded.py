"""A dispatcher of one's own: ``python -m dispatcher serve`` as a child, which ends with this process.

In the data directory it has ``embedded.toml``, the configuration that the child reads; ``embedded.log``, what it says;
and ``embedded-channels.json``, the channels that were registered while it ran.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import os
import re
import shutil
import tempfile
import time
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import tomli_w

from dispatcher.api.keeper import Keeper
from dispatcher.api.remote import ABANDONED_S, SUBMIT, connect
from dispatcher.errors import StartError

if TYPE_CHECKING:
    from dispatcher.curve import ClientKeys

PUBLIC = ("ingest", "submit", "stream")
IPC_BYTES_MAX = 107
FREED_S = 3.0  # what held the data directory may be about to end
DATA_DIR = ".dispatcher"


class Embedded:
    """Raises ``StartError`` with the dispatcher's own words where it cannot run."""

    def __init__(
        self,
        data_dir: str | os.PathLike[str] | None,
        config: str | os.PathLike[str] | Mapping[str, Any] | None,
        shards: int | None,
        durability: str | None,
        timeout_s: float,
        max_pending: int,
    ) -> None:
        # whatever becomes of the mapping, and of the current directory
        self._config = _read(config) if config is None or isinstance(config, Mapping) else Path(config).absolute()
        self._owner = os.getpid()
        self.is_shut_down = False
        document = _read(self._config)
        self.directory = Path(data_dir or document.get("dispatcher", {}).get("data_dir", DATA_DIR)).absolute()
        self._file = self.directory / "embedded.toml"
        self._channels_file = self.directory / "embedded-channels.json"
        with _explained(self.directory):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _one_at_a_time(self.directory):
            with _explained(self.directory):
                _check_free(self.directory)
                self._sockets, self._are_elsewhere = _sockets(self.directory)
                self._write_config()
            options = ["--config", str(self._file), "--data-dir", str(self.directory)]
            options += ["--shards", str(shards)] if shards is not None else []
            options += ["--durability", durability] if durability is not None else []
            self._keeper = Keeper(options, self.directory / "embedded.log")
            try:
                self._start()
                _, self.submit, self.stream = self._keeper.endpoints
                self.engine = connect(self.submit, timeout_s, max_pending, _keys(document))
            except BaseException as error:
                self._keeper.stop(ABANDONED_S)
                self._remove_sockets()
                if isinstance(error, ValueError):
                    raise StartError(f"{error}; it is where this process is to connect to") from None
                raise

    def _start(self) -> None:
        try:
            self._keeper.start()
        except StartError as error:
            if not isinstance(self._config, Mapping):
                raise
            # its lines are of a file that the caller has not written
            told = re.sub(rf"{re.escape(str(self._file))}(, line \d+)?: ", "config: ", str(error))
            raise StartError(told) from None

    # --- the configuration -------------------------------------------------------------------------------------

    @property
    def own_channels(self) -> Collection[str]:
        """Those of the configuration that was given."""
        return frozenset(_read(self._config).get("channels", {}))

    @property
    def kept_channels(self) -> dict[str, dict[str, Any]]:
        """Those that were registered, by name: the tables of their configuration."""
        try:
            found = msgspec.json.decode(self._channels_file.read_bytes(), type=dict[str, dict[str, Any]])
        except FileNotFoundError:
            return {}
        except msgspec.MsgspecError as error:
            raise StartError(
                f"{self._channels_file}: {error}; delete it, and have the program register its channels again"
            ) from None
        return found

    def keep_channels(self, channels: dict[str, dict[str, Any]]) -> None:
        """For later runs as well; ``config.reload`` has the dispatcher go by them."""
        _write_private(self._channels_file, msgspec.json.encode(channels))
        self._write_config()

    def _write_config(self) -> None:
        document = _read(self._config)
        service = document.setdefault("dispatcher", {})
        for name in PUBLIC:
            service.setdefault(name, f"ipc://{self._sockets / name}")
        document.setdefault("templates", {}).setdefault("allow_template_put", True)
        document["channels"] = {**self.kept_channels, **document.get("channels", {})}
        try:
            text = tomli_w.dumps(document)
        except TypeError as error:
            raise StartError(
                f"config: {_unwritable(document)}: {error}; leave it out, or give what TOML can say"
            ) from None
        _write_private(self._file, text.encode())

    # --- the end -----------------------------------------------------------------------------------------------

    def shutdown(self, timeout_s: float) -> None:
        end = time.monotonic() + timeout_s
        self.is_shut_down = True
        self.engine.close(timeout_s)
        if os.getpid() == self._owner:
            self._keeper.stop(max(1.0, end - time.monotonic()))
            self._remove_sockets()

    def abandon(self) -> None:
        self.is_shut_down = True
        self.engine.close(0.0, join=False)
        if os.getpid() == self._owner:
            self._keeper.stop(0.0, join=False)

    def _remove_sockets(self) -> None:
        if self._are_elsewhere:
            shutil.rmtree(self._sockets, ignore_errors=True)


def _read(config: str | os.PathLike[str] | Mapping[str, Any] | None) -> dict[str, Any]:
    """The configuration as a document of its own. Raises ``StartError``."""
    if config is None:
        return {}
    if isinstance(config, Mapping):
        document = copy.deepcopy(dict(config))
        beside = Path.cwd()
    else:
        from dispatcher.settings import SettingsError, environment, load  # noqa: PLC0415 - heavy, and not always needed

        path = Path(config)
        try:
            load(path, environment(), {})  # what is wrong with it is told by its own lines
        except SettingsError as error:
            raise StartError(str(error)) from None
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        beside = path.absolute().parent
    for name in ("dispatcher", "templates", "channels"):
        if not isinstance(document.get(name, {}), dict):
            raise StartError(f"config: {name} must be a table, and not {type(document[name]).__name__}")
    templates = document.get("templates", {})
    if isinstance(templates.get("directory"), str) and templates["directory"]:
        templates["directory"] = str(beside / templates["directory"])
    return document


def _unwritable(table: Mapping[str, Any]) -> str:
    """The key of what TOML cannot say."""
    for key, value in table.items():
        try:
            tomli_w.dumps({key: value})
        except TypeError:
            return f"{key}.{_unwritable(value)}" if isinstance(value, Mapping) else str(key)
    return ""


def _keys(document: Mapping[str, Any]) -> ClientKeys | None:
    from dispatcher.curve import CurveSettings, client_keys  # noqa: PLC0415 - as above

    return client_keys(msgspec.convert(document.get("curve", {}), CurveSettings))


@contextlib.contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    """Who starts here meanwhile waits: else who gets the directory might read the configuration of the other."""
    with _explained(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _check_free(directory: Path) -> None:
    """Another instance must not find its configuration changed."""
    with contextlib.suppress(FileNotFoundError), (directory / "lock").open("rb") as lock:
        end = time.monotonic() + FREED_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > end:
                    break
            time.sleep(0.05)
        where = f"submit={SUBMIT!r}"
        with contextlib.suppress(OSError, tomllib.TOMLDecodeError, KeyError):
            table = tomllib.loads((directory / "embedded.toml").read_text())["dispatcher"]
            where = f"submit={table['submit']!r}, stream={table['stream']!r}"
        raise StartError(
            f"{directory} is in use by another instance; connect to that with NotificationService({where}), stop it, "
            "or use another data_dir"
        )


def _sockets(directory: Path) -> tuple[Path, bool]:
    """A directory for the public sockets, and whether it had to be made elsewhere: their paths must not be long."""
    if len(os.fsencode(directory / "run" / max(PUBLIC, key=len))) <= IPC_BYTES_MAX:
        return directory / "run", False
    return Path(tempfile.mkdtemp(prefix="dispatcher-")), True


def _write_private(path: Path, content: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # two may start at the same time
    temporary = Path(name)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@contextlib.contextmanager
def _explained(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StartError(
            f"{directory}: {error.strerror}; data_dir must be a directory of this user, who can write to it"
        ) from None
