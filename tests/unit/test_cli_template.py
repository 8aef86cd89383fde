"""``template list``, ``check`` and ``preview``, and the templates that are shipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from dispatcher.cli import main
from dispatcher.templates import read_directory
from shards.template_parts import PARTS
from shards.templates import TemplateEngine

SHIPPED = Path(__file__).parents[2] / "config" / "templates"
ORDER = {
    "name": "Ada",
    "order": {"number": 17, "items": [{"count": 2, "name": "<Tea>", "price": 3.5}]},
    "address": {"city": "Paris"},
}
ITEMS = [{"title": f"news {number}", "body": None} for number in range(20)]
EXAMPLES: dict[str, dict[str, Any]] = {
    "welcome": {"name": "Ada", "url": "https://example.com/"},
    "password-reset": {"url": "https://example.com/reset"},
    "order-shipped": ORDER,
    "social-digest": {"count": 25, "items": ITEMS},
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with a directory of templates beside it."""
    file = tmp_path / "mine.toml"
    file.write_text(f'[dispatcher]\ndata_dir = "{tmp_path}/data"\n[templates]\ndirectory = "templates"\n')
    for name, text in {
        "order/title": "Order {{ order }}",
        "order/fr/title": "Commande {{ order }}",
        "order/email.html": "<p>\x1b{{ order }}</p>",
        "order/sms.text": "{{ missing }}",
    }.items():
        path = tmp_path / "templates" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/templates.json").write_bytes(msgspec.json.encode({"put": {"text": "x"}}))
    monkeypatch.setenv("COLUMNS", "200")
    return file


def run(config: Path, *args: str) -> Result:
    return CliRunner().invoke(main, ["template", args[0], "--config", str(config), *args[1:]])


def test_who_writes_templates_need_not_have_the_secrets_of_the_channels(config: Path) -> None:
    config.write_text(f'{config.read_text()}[channels.webhook]\nsecret = "env:ONLY_THE_SERVICE_HAS_IT"\n')
    assert (run(config, "list").exit_code, run(config, "check", "put").exit_code) == (0, 0)


def test_list(config: Path) -> None:
    shown = run(config, "list").stdout.splitlines()
    assert shown[0].split() == ["name", "locales", "parts", "source"]
    assert shown[2].split() == ["order", "fr", "email.html,", "fr/title,", "sms.text,", "title", "directory"]
    assert shown[3].split() == ["put", "text", "put"]
    names = [item["name"] for item in json.loads(run(config, "list", "--json").stdout)["items"]]
    assert names == ["order", "put"]


def test_list_without_templates(tmp_path: Path) -> None:
    (tmp_path / "empty.toml").write_text(f'[dispatcher]\ndata_dir = "{tmp_path}"\n')
    done = run(tmp_path / "empty.toml", "list")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "there are no templates; see directory in [templates]" in done.stderr
    assert json.loads(run(tmp_path / "empty.toml", "list", "--json").stdout) == {"items": []}


def test_check(config: Path) -> None:
    done = run(config, "check")
    assert (done.exit_code, done.stdout) == (0, "templates: ok: 5 parts\n")
    directory = config.parent / "templates"
    for name in ("bad/text", "bad/title"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text("\n{{")
    done = run(config, "check")
    assert done.exit_code == 2
    assert [line.partition(": ")[2].partition(": ")[0] for line in done.stderr.splitlines()] == [
        f"{directory}/bad/text, line 2",
        f"{directory}/bad/title, line 2",
    ]
    assert run(config, "check", "bad").exit_code == 2
    assert run(config, "check", "order").stdout == "order: ok: 4 parts\n"
    assert run(config, "check", str(directory)).exit_code == 2
    assert run(config, "check", str(SHIPPED)).exit_code == 0
    done = run(config, "check", "ordr")
    assert (done.exit_code, "did you mean order?" in done.stderr) == (2, True)
    assert CliRunner().invoke(main, ["config", "check", str(config)]).exit_code == 2


def test_check_tells_of_what_was_put(config: Path) -> None:
    (config.parent / "data/templates.json").write_bytes(msgspec.json.encode({"put": {"text": "{{"}}))
    done = run(config, "check")
    assert (done.exit_code, "template 'put', text, line 1: " in done.stderr) == (2, True)


def test_preview(config: Path) -> None:
    given = ("order", "--channel", "email", "--payload", '{"order": 17}')
    done = run(config, "preview", *given)
    assert done.stdout == "--- email.subject, of title\nOrder 17\n\n--- email.html, of email.html\n<p>\\x1b17</p>\n"
    done = run(config, "preview", *given, "--locale", "fr-CA", "--json")
    subject, text = json.loads(done.stdout)["parts"]
    assert subject == {"channel": "email", "part": "subject", "key": "fr/title", "text": "Commande 17"}
    assert text["text"] == "<p>\x1b17</p>"


def test_preview_of_every_channel_that_it_has(config: Path) -> None:
    done = run(config, "preview", "put", "--json")
    found = [(one["channel"], one["part"]) for one in json.loads(done.stdout)["parts"]]
    assert found == [("email", "text"), ("sms", "text"), ("push", "body"), ("inapp", "body"), ("system", "body")]


def test_preview_of_what_can_be_rendered_and_what_cannot(config: Path) -> None:
    for name, text in {"pager.text": "{{ order }} for the pager", "webhook.body": "{}"}.items():
        (config.parent / "templates/order" / name).write_text(text)
    done = CliRunner().invoke(
        main,
        ["template", "preview", "order", "--config", str(config), "--payload", "@-", "--json"],
        input='{"order": 17}',
    )
    channels = dict.fromkeys(one["channel"] for one in json.loads(done.stdout)["parts"])
    assert list(channels) == ["email", "push", "inapp", "webhook", "system", "pager"]
    assert (done.exit_code, done.stderr) == (1, "error: template 'order', sms.text, line 1: 'missing' is undefined\n")


def test_preview_reads_a_file_and_writes_files(config: Path, tmp_path: Path) -> None:
    (tmp_path / "payload.json").write_text('{"order": 17}')
    payload, out = f"@{tmp_path}/payload.json", tmp_path / "out"
    done = run(config, "preview", "order", "--channel", "email", "--payload", payload, "--out", str(out))
    assert done.exit_code == 0
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "order.email.subject.txt": "Order 17",
        "order.email.html": "<p>\x1b17</p>",
    }
    assert str(out / "order.email.html") in done.stdout


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("order", "--channel", "sms"), 1, "template 'order', sms.text, line 1: 'missing' is undefined"),
        (("put", "--channel", "webhook"), 1, "template 'put' has no part for webhook"),
        (("ordr",), 2, "unknown template 'ordr'; did you mean order?"),
        (("put", "--payload", "{"), 2, "--payload is not JSON"),
        (("put", "--payload", "[]"), 2, "--payload: it is an object such as"),
        (("put", "--payload", "@none.json"), 2, "--payload: none.json cannot be read: No such file"),
    ],
)
def test_preview_says_what_is_wrong(config: Path, args: tuple[str, ...], code: int, says: str) -> None:
    done = run(config, "preview", *args)
    assert done.exit_code == code
    assert says in done.stderr


@pytest.mark.parametrize("locale", [None, "fr", "de"])
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_shipped_templates_can_be_rendered_on_every_channel(name: str, locale: str | None) -> None:
    problems: list[str] = []
    engine = TemplateEngine(read_directory(SHIPPED, problems))
    assert not problems
    assert not engine.problems()
    assert set(engine.names) == set(EXAMPLES)
    for channel in PARTS:
        for part, text in engine.render(name, channel, locale, {"locale": locale, **EXAMPLES[name]}).items():
            assert text.strip()
            assert "<Tea>" not in text or part != "html"
