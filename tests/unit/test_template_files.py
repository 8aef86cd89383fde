"""The directory of templates: what is read, and what is said of what cannot be."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from dispatcher import templates
from dispatcher.settings import Settings, SettingsError, load
from shards.digests import DigestSettings
from shards.settings import TemplateSettings


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "templates"
    write(directory, "order/email.html", "<p>{{ order }}</p>\n")
    write(directory, "order/fr/email.html", "<p>{{ order }}</p>\n")
    write(directory, "layouts/mail.html", "x")
    return directory


def write(root: Path, name: str, content: str | bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def settings_for(root: Path, **others: object) -> Settings:
    return msgspec.structs.replace(Settings(), templates=TemplateSettings(directory=str(root)), **others)


def refusal(root: Path) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        templates.load(settings_for(root), None)
    return str(caught.value).splitlines()


def test_a_folder_per_template_and_a_file_per_part(root: Path) -> None:
    assert templates.load(settings_for(root), None).sources == {
        "layouts": {"mail.html": "x"},
        "order": {"email.html": "<p>{{ order }}</p>\n", "fr/email.html": "<p>{{ order }}</p>\n"},
    }


def test_no_directory_is_no_templates(tmp_path: Path) -> None:
    assert templates.load(Settings(), tmp_path).sources == {}


def test_hidden_files_and_backups_are_left_out(root: Path) -> None:
    expected = templates.load(settings_for(root), None)
    for name in (".git/config", "order/.email.html.swp", "order/email.html~", "order/.fr/x"):
        write(root, name, "{{")
    write(root, "order/bom.text", "\ufeffx")
    assert templates.load(settings_for(root), None).sources["order"].pop("bom.text") == "x"
    (root / "order/bom.text").unlink()
    assert templates.load(settings_for(root), None) == expected


def test_all_problems_are_told_with_file_and_line(root: Path, tmp_path: Path) -> None:
    write(root, "a/text", "\n\n{% if %}")
    write(root, "b/email.subjekt/x/y", "")
    write(root, "c/text", b"\nabc\xff")
    write(root, "stray.html", "")
    (root / "d").mkdir()
    (root / "d/text").symlink_to(write(tmp_path, "secret", "s"))
    (root / "e").mkdir()
    (root / "e/text").symlink_to("nowhere")
    (root / "f").mkdir()
    os.mkfifo(root / "f/text")
    write(root, "g/subject", "x")
    write(root, "h/text", "x" * 300_000)
    told = "\n".join(refusal(root))
    for line in (
        f"{root}/a/text, line 3: Expected an expression, got 'end of statement block'",
        f"{root}/b/email.subjekt/x/y: a part is a file such as NAME/email.html or NAME/fr/email.html",
        f"{root}/c/text, line 2: it is not UTF-8",
        f"{root}/stray.html: a part is a file such as",
        f"{root}/d/text: it is a link out of {root}; put the file itself there",
        f"{root}/e/text: cannot be read: No such file or directory",
        f"{root}/f/text: it is no file",
        f"{root}/g/subject: of every channel there are title, text, html",
        f"{root}/h/text: it has 262145 bytes; at most 262144",
    ):
        assert line in told


def test_links_within_the_directory_are_followed(root: Path) -> None:
    (root / "order/text").symlink_to("email.html")
    assert templates.load(settings_for(root), None).sources["order"]["text"] == "<p>{{ order }}</p>\n"


def test_a_missing_directory_is_told_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^here: templates.directory: .*none is no directory; make it"):
        templates.load(settings_for(tmp_path / "none"), None, lambda _keys: "here")


def test_there_is_a_limit(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "PARTS_MAX", 2)
    assert refusal(root) == [f"{root}: at most 2 parts with {templates.BYTES_MAX} characters altogether"]


def test_a_digest_names_a_template_that_there_is(root: Path) -> None:
    wrong = settings_for(root, digests={"d": DigestSettings(template="ordr")})
    with pytest.raises(SettingsError) as caught:
        templates.load(wrong, None, ".".join)
    assert str(caught.value) == ("digests.d.template: digests.d.template: unknown template 'ordr'; did you mean order?")
    templates.load(settings_for(root, digests={"d": DigestSettings(template="order")}), None)
    templates.load(Settings(digests={"d": DigestSettings(template="anything")}), None)  # where there are none at all


def test_the_directory_is_beside_the_configuration(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = root.parent / "mine.toml"
    file.write_text('[templates]\ndirectory = "templates"\n')
    monkeypatch.chdir("/")
    assert load(file, {}, {}).templates.directory == str(root)
    monkeypatch.chdir(root.parent)
    assert load(Path("mine.toml"), {}, {}).templates.directory == str(root)
    assert load(None, {"DISPATCHER_TEMPLATES__DIRECTORY": "templates"}, {}).templates.directory == "templates"


def test_what_was_put_wins_as_a_whole(root: Path, tmp_path: Path) -> None:
    (tmp_path / "templates.json").write_bytes(msgspec.json.encode({"order": {"text": "put"}, "new": {"text": "put"}}))
    library = templates.load(settings_for(root), tmp_path)
    assert library.sources == {"layouts": {"mail.html": "x"}, "new": {"text": "put"}, "order": {"text": "put"}}
    assert library.put.keys() == {"order", "new"}


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a": {"b": 1}}', b"\xff", b""])
def test_a_damaged_store_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "templates.json").write_bytes(content)
    with pytest.raises(SettingsError, match=r"templates.json: damaged .*restore it from a backup, or delete it"):
        templates.load(Settings(), tmp_path)
