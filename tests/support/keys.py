"""Keys in files, as ``dispatcher keys new`` makes them, for tests of CURVE."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from dispatcher.cli import main
from tests.support.client import Keys

SERVER = "server"


class KeyRing:
    """A directory of key pairs with the server's among them, and the allow-list of that server."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.allow = directory / "allow"
        self.new(SERVER)
        self.allow.mkdir(mode=0o700)

    @property
    def config(self) -> str:
        return f'[curve]\nsecret_key = "{self.secret(SERVER)}"\nallow = "{self.allow}"\n'

    def secret(self, name: str) -> Path:
        return self.directory / f"{name}.secret"

    def public(self, name: str) -> Path:
        return self.directory / f"{name}.public"

    def new(self, name: str, *, server: str = SERVER) -> Keys:
        """A new pair, as a client uses it with the server of that name."""
        made = CliRunner().invoke(main, ["keys", "new", name, "--dir", str(self.directory)])
        assert made.exit_code == 0, made.output
        paths = (self.public(server), self.public(name), self.secret(name))
        return Keys(*(path.read_bytes().strip() for path in paths))

    def admit(self, name: str) -> None:
        (self.allow / f"{name}.public").write_bytes(self.public(name).read_bytes())

    def dismiss(self, name: str) -> None:
        (self.allow / f"{name}.public").unlink()
