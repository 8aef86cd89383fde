"""docs/sms.md, chat.md and desktop.md: they have every setting, and every code of the table."""

from __future__ import annotations

import re

import pytest

from shards.answers import TABLES
from shards.channels import registry
from tests.support.service import ROOT

PROVIDERS = {"sms": ("twilio", "sms-http"), "chat": ("apprise",), "desktop": ("desktop",)}
TEXTS = {name: (ROOT / "docs" / f"{name}.md").read_text() for name in PROVIDERS}


@pytest.mark.parametrize(("name", "provider"), [(name, one) for name, all_ in PROVIDERS.items() for one in all_])
def test_every_setting_is_there(name: str, provider: str) -> None:
    fields = registry.find(provider).Settings.__struct_fields__
    told = {word for row in re.findall(r"(?m)^\| (`.*?) \|", TEXTS[name]) for word in re.findall(r"`(\w+)`", row)}
    assert set(fields) <= told


@pytest.mark.parametrize("word", ["twilio", "apprise", "dbus"])
def test_the_codes_of_the_guides_are_those_of_the_table(word: str) -> None:
    guide = TEXTS[{"twilio": "sms", "apprise": "chat", "dbus": "desktop"}[word]]
    for key in TABLES[word]:
        assert key.split(" ")[-1] in guide or key.split(" ")[0] in guide, key
