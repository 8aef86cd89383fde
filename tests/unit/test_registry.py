"""What is wrong with the class of a plug-in is said before anything starts, with its place and what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dispatcher.settings import SettingsError, load
from shards.channels.registry import find

MODULE = "tests.support.plugins.mistaken"


@pytest.mark.parametrize("kind", ["Fine", "AtOnce"])
def test_a_class_that_can_be_called_is_found(kind: str) -> None:
    assert find("", f"{MODULE}:{kind}").__name__ == kind


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("mistaken:WithoutSend", "it has no send; see docs/plugins.md"),
        ("mistaken:WithoutContext", "WithoutContext.__init__ cannot be called as __init__(settings, context): "),
        ("mistaken:WithMore", "WithMore.send cannot be called as send(delivery): missing a required argument: "),
        ("mistaken:ForNobody", "ForNobody.supports_recipient cannot be called as supports_recipient(recipient): "),
        ("mistaken:AsksFirst", "AsksFirst.supports_recipient is async; make it a plain def, which only looks"),
        ("mistaken:ByDataclass", "ByDataclass has Settings that are no msgspec.Struct; see docs/plugins.md"),
        ("mistaken:Leaves", "Leaves.Settings raises SystemExit: no licence"),
        ("mistaken:Stumbles", "Stumbles.Settings raises KeyError: 'licence'"),
        ("leaving_module:Any", "leaving_module cannot be imported: SystemExit: no licence"),
    ],
)
def test_a_mistake_is_named_with_the_key_that_names_the_class(path: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'[channels.pager]\nclass = "tests.support.plugins.{path}"\n')
    with pytest.raises(SettingsError, match=r"line \d: channels\.pager") as caught:
        load(file, {}, {})
    assert says in str(caught.value)
    if "cannot be called" in says or "async" in says:
        assert re.search(r"/mistaken\.py:\d+: ", str(caught.value))
