"""Secrets: where they may be, and that none is left in a text."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path

import pytest

from shards.hidden import Secret, disguised, redact


def test_a_file_is_named_by_its_whole_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("open sesame\n")
    (tmp_path / "key").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    assert Secret.parse(f"file:{tmp_path}/key").reveal() == "open sesame"
    with pytest.raises(ValueError, match=r"^file:key is relative; give the whole path"):
        Secret.parse("file:key")


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("open sesame")
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(ValueError, match=f"run: chmod 600 {tmp_path}/key$"):
        Secret.parse(f"file:{tmp_path}/key")


@pytest.mark.parametrize("secret", ["open sesame", "ÿþý~~~???>>>", "four", "x" * 100])
@pytest.mark.parametrize("before", ["", "u", "us", "use", "user"])
@pytest.mark.parametrize("after", ["", ":", "::", ":::"])
def test_within_base64_a_secret_is_found_wherever_it_stands(secret: str, before: str, after: str) -> None:
    text = b64encode(f"{before}{secret}{after}".encode()).decode()
    left = redact(text, disguised([secret]))
    assert "***" in left
    assert len(left.replace("***", "").rstrip("=")) <= len(before + after) * 4 / 3 + 4


@pytest.mark.parametrize("left", range(4, 12))
def test_the_beginning_of_one_is_none_where_a_text_was_cut(left: int) -> None:
    assert redact(f"it opens by open ses{'open sesame!'[:left]}", ["open sesame!"]) == "it opens by open ses***"
    assert redact("it opens by open ses", ["open ses opens"]) == "it opens by ***"


def test_a_token_is_hidden_without_its_scheme_as_well() -> None:
    hidden = disguised(["Bearer 0a1b2c3d4e"])
    assert redact("Bearer 0a1b2c3d4e: the token 0a1b2c3d4e has expired", hidden) == "***: the token *** has expired"


def test_what_holds_no_secret_stays_as_it_is() -> None:
    assert (
        redact("250 2.0.0 Ok: queued as 4F3A", disguised(["open sesame", "", "abc"])) == "250 2.0.0 Ok: queued as 4F3A"
    )
