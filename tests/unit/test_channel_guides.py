"""docs/sms.md, chat.md and desktop.md: what they show is accepted, and they have every setting."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher.channel_options import COMMON
from shards import hidden, options
from shards.answers import TABLES
from shards.channels import registry
from tests.support.service import ROOT

PROVIDERS = {"sms": ("twilio", "sms-http"), "chat": ("apprise",), "desktop": ("desktop",)}
TEXTS = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in (*PROVIDERS, "plugins")}
BLOCKS = [
    pytest.param(tomllib.loads(block), id=f"{name}-{number}")
    for name, text in TEXTS.items()
    for number, block in enumerate(re.findall(r"(?s)```toml\n(.*?)```", text))
]


def providers(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for channel, table in document.get("channels", {}).items():
        for one in table.get("providers", [table]):
            yield {"provider": registry.BY_DEFAULT.get(channel), **one}


@pytest.mark.parametrize("document", BLOCKS)
def test_what_is_shown_is_accepted(document: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SMS_KEY", "CHAT_URL", "PAGER_TOKEN"):
        monkeypatch.setenv(name, "slack://secret")
    monkeypatch.setattr(hidden, "_read", lambda path: "slack://secret")
    monkeypatch.syspath_prepend(ROOT / "examples" / "plugins" / "pager")
    for one in providers(document):
        path = one.get("class", "dispatcher_pager:PagerChannel" if one["provider"] == "pager" else "")
        given = {key: value for key, value in one.items() if key not in {"provider", "class", *COMMON}}
        options.read(registry.find(one["provider"], path), given)
    assert document.get("errors", {}).keys() <= TABLES.keys()


@pytest.mark.parametrize(("name", "provider"), [(name, one) for name, all_ in PROVIDERS.items() for one in all_])
def test_every_setting_is_there(name: str, provider: str) -> None:
    fields = registry.find(provider).Settings.__struct_fields__
    told = {word for row in re.findall(r"(?m)^\| (`.*?) \|", TEXTS[name]) for word in re.findall(r"`(\w+)`", row)}
    assert set(fields) <= told


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", TEXTS[name]):
        file, _, heading = link.partition("#")
        if "://" in link:
            continue
        text = TEXTS[name] if not file else (ROOT / "docs" / file).read_text()
        found = re.findall(r"(?m)^#+ (.*)$", text)
        assert not heading or heading in {re.sub(r"[^\w -]", "", one).replace(" ", "-").lower() for one in found}


@pytest.mark.parametrize("word", ["twilio", "apprise", "dbus"])
def test_the_codes_of_the_guides_are_those_of_the_table(word: str) -> None:
    guide = TEXTS[{"twilio": "sms", "apprise": "chat", "dbus": "desktop"}[word]]
    for key in TABLES[word]:
        assert key.split(" ")[-1] in guide or key.split(" ")[0] in guide, key
