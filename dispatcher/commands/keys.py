"""``dispatcher keys``: the pairs of keys that CURVE needs, for a server or a client alike, and that of Web Push."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click

NEXT_STEPS = """\
public key: {public}
  {secret_file}  secret: it stays on this machine, for this user alone
  {public_file}  public: give it to whoever talks to this key's owner

As a server's key, in the configuration, with a directory (0700) for the public keys of its clients:
  [curve]
  secret_key = "{secret_file}"
  allow = "{allow}"
As a client's key: copy the public file into the server's `allow` directory, and here
  dispatcher stats --submit tcp://SERVER:7712 --secret-key {secret_file} --server-key SERVER.public"""

VAPID_STEPS = """\
public key: {public}
  {path}  private: it stays on this machine, for this user alone

In the page, with the public key:
  registration.pushManager.subscribe({{userVisibleOnly: true, applicationServerKey: "{public}"}})
In the configuration:
  [channels.push.webpush]
  private_key = "file:{path}"
  subject = "mailto:you@example.org"
"""


@click.group()
def keys() -> None:
    """Make keys: for CURVE, which encrypts and authenticates, and for Web Push."""


@keys.command()
@click.argument("name")
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default="keys",
    help="Made for this user alone, if it is not there.",
)
@click.option("--force", is_flag=True, help="Replace a pair of the same name: its old key is gone.")
def new(name: str, directory: Path, force: bool) -> None:
    """Write NAME.secret and NAME.public, a new pair of keys."""
    import zmq

    if not re.fullmatch(r"\w[\w.-]*", name):
        raise click.BadParameter("letters, digits and the characters -._ only, not beginning with . or -")
    secret_file, public_file = (directory.absolute() / f"{name}.{half}" for half in ("secret", "public"))
    before = os.umask(0o077)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (secret_file, public_file):
            if force:
                path.unlink(missing_ok=True)
            elif path.exists():
                raise click.UsageError(f"{path} exists; choose another name, or replace the key with --force")
        public, secret = zmq.curve_keypair()
        _write(secret_file, secret)
        _write(public_file, public)
    except OSError as error:
        raise click.UsageError(f"{error.filename}: {error.strerror}; name another place with --dir") from None
    finally:
        os.umask(before)
    click.echo(
        NEXT_STEPS.format(
            public=public.decode(),
            secret_file=secret_file,
            public_file=public_file,
            allow=directory.absolute() / "allow",
        )
    )


@keys.command()
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
def vapid(path: Path) -> None:
    """Write a new private key for Web Push to PATH.

    It prints the public one, with which browsers subscribe.
    """
    try:
        from shards.channels import jwt, webpush
    except ImportError as error:
        raise click.UsageError(str(error)) from None
    pem = jwt.new_elliptic_key()
    try:
        _write(path, pem.strip().encode())
    except FileExistsError:
        raise click.UsageError(
            f"{path} exists; choose another name: browsers that subscribed with a key are reached by it alone"
        ) from None
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}; name another place") from None
    click.echo(VAPID_STEPS.format(public=webpush.public_key(webpush.vapid_key(pem)), path=path.absolute()))


def _write(path: Path, key: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key + b"\n")
