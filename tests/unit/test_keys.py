"""``dispatcher keys``, and what is read of key files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import zmq
from click.testing import CliRunner, Result

from dispatcher.cli import main
from dispatcher.curve import CurveSettings, KeyFileError, client_keys, read_pair, read_public, server_secret
from shards.channels import webpush
from shards.hidden import Secret
from tests.support.keys import SERVER, KeyRing


def new(*args: str) -> Result:
    return CliRunner().invoke(main, ["keys", "new", *args])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_pair_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = new("ada", "--dir", str(tmp_path / "a" / "b"))
        assert os.umask(0) == 0, "the umask of the caller is as it was"
    finally:
        os.umask(before)
    assert made.exit_code == 0
    secret, public = (tmp_path / "a" / "b" / f"ada.{half}" for half in ("secret", "public"))
    assert [mode(path) for path in (tmp_path / "a", tmp_path / "a" / "b", secret, public)] == [
        0o700,
        0o700,
        0o600,
        0o600,
    ]
    pair = read_pair(secret)
    assert read_public(public) == pair.public == zmq.curve_public(pair.secret)
    assert pair.public.decode() in made.stdout
    assert pair.secret.decode() not in made.stdout + repr(pair)
    for step in ("[curve]", f'secret_key = "{secret}"', "allow = ", str(public)):
        assert step in made.stdout


def test_a_key_is_replaced_only_by_force(tmp_path: Path) -> None:
    where = ("--dir", str(tmp_path))
    new("ada", *where)
    first = read_pair(tmp_path / "ada.secret")
    again = new("ada", *where)
    assert again.exit_code == 2
    assert f"{tmp_path / 'ada.secret'} exists; choose another name, or replace the key with --force" in again.stderr
    assert read_pair(tmp_path / "ada.secret") == first
    (tmp_path / "ada.secret").chmod(0o644)
    assert new("ada", "--force", *where).exit_code == 0
    assert read_pair(tmp_path / "ada.secret") != first  # which it reads only if nobody else can


@pytest.mark.parametrize("name", ["", ".", "../ada", "a/b", "-x", "a b"])
def test_a_name_is_no_path(name: str, tmp_path: Path) -> None:
    assert new("--dir", str(tmp_path), "--", name).exit_code == 2
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = new("ada", "--dir", str(tmp_path / "file" / "keys"))
    assert made.exit_code != 0
    assert f"{tmp_path / 'file' / 'keys'}: Not a directory; name another place with --dir" in made.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a key, which is 40 characters of Z85"),
        ("x" * 39, "not a key"),
        ("x" * 41, "not a key"),
        ("~" * 40, "not a key"),
        ("#" * 40, "not a key"),  # every five characters are more than 32 bits
        ("x" * 100_000, "not a key"),
    ],
)
def test_what_is_no_key_is_named_by_its_file_and_not_shown(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "ada.secret"
    path.touch(0o600)
    path.write_text(text)
    with pytest.raises(KeyFileError) as refused:
        read_pair(path)
    assert str(refused.value).startswith(f"{path}: {says}")
    assert not text or text not in str(refused.value)


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620])
def test_a_secret_that_others_reach_is_refused(bits: int, tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    ring.secret(SERVER).chmod(bits)
    with pytest.raises(KeyFileError, match=rf"server\.secret: is open to other users; chmod 600 {tmp_path}/server"):
        read_pair(ring.secret(SERVER))


def test_the_servers_machine_asks_with_the_servers_key_and_others_name_it(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    ada = ring.new("ada")
    assert client_keys(CurveSettings()) is None
    at_home = client_keys(CurveSettings(secret_key=str(ring.secret(SERVER))))
    assert at_home is not None
    assert at_home.own.public == at_home.server == ada.server
    elsewhere = client_keys(CurveSettings(secret_key=str(ring.secret("ada")), server_key=str(ring.public(SERVER))))
    assert elsewhere is not None
    assert (elsewhere.server, elsewhere.own.public, elsewhere.own.secret) == ada


def test_without_a_secret_key_a_server_is_open(tmp_path: Path) -> None:
    assert server_secret(CurveSettings()) == ""
    ring = KeyRing(tmp_path)
    settings = CurveSettings(secret_key=str(ring.secret(SERVER)), allow=str(ring.allow))
    assert server_secret(settings) == read_pair(ring.secret(SERVER)).secret.decode()


# --- of Web Push ------------------------------------------------------------------------------------------------------


def test_a_vapid_key_is_for_its_owner_alone_and_read_by_the_channel(tmp_path: Path) -> None:
    path = tmp_path / "vapid.pem"
    before = os.umask(0)
    try:
        made = CliRunner().invoke(main, ["keys", "vapid", str(path)])
    finally:
        os.umask(before)
    assert made.exit_code == 0, made.output
    assert mode(path) == 0o600
    settings = webpush.Settings(Secret.parse(f"file:{path}"), "mailto:ops@example.org")
    public = webpush.public_key(webpush.vapid_key(settings.private_key.reveal()))
    assert f"public key: {public}" in made.stdout
    assert f'private_key = "file:{path}"' in made.stdout
    assert "PRIVATE" not in made.stdout


def test_a_vapid_key_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "vapid.pem"
    path.write_text("old")
    again = CliRunner().invoke(main, ["keys", "vapid", str(path)])
    assert again.exit_code == 2
    assert f"{path} exists; choose another name" in again.stderr
    assert path.read_text() == "old"
    nowhere = CliRunner().invoke(main, ["keys", "vapid", str(tmp_path / "no" / "vapid.pem")])
    assert nowhere.exit_code == 2
    assert "No such file or directory; name another place" in nowhere.stderr
