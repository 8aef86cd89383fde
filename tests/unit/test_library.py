"""What ``import dispatcher`` gives: every name that is promised, and nothing before it is used."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dispatcher
from tests.support.service import ROOT

HEAVY = ("asyncio", "jinja2", "aiohttp", "sqlite3", "structlog", "zmq", "dispatcher.api.engine")
TREE = ast.parse((ROOT / "dispatcher" / "__init__.py").read_text())
PROMISED = [
    (alias.name, node.module or "")
    for block in TREE.body
    if isinstance(block, ast.If)
    for node in block.body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
]
PROGRAM = """
from collections.abc import Iterator

from dispatcher import AsyncNotificationService, Delivery, InboxItem, Notification, NotificationService, Recipient, Sent

class Pager:
    name = "pager"

    def supports_recipient(self, recipient: Recipient) -> bool:
        return "pager" in recipient.contacts.other

    async def send(self, delivery: Delivery) -> Sent:
        return Sent(delivery.title)

def source() -> Iterator[Notification]:
    yield Notification(user_id="ada", title="Hello")

def program(service: NotificationService) -> str:
    service.register_channel("pager", Pager())
    receipt = service.batch_notify(source())
    service.batch_notify([{"user_id": "ada", "title": "Hello"}])
    service.on_inapp(lambda item: print(item.title))
    accepted: int = receipt.accepted
    reveal_type(service.submit(user_id="ada"))
    reveal_type(service.status("id").outcomes)
    return service.notify(user_id="ada", title="Hello").id

async def twin(service: AsyncNotificationService) -> InboxItem | None:
    async def show(item: InboxItem) -> None: ...
    await service.on_inapp(show, "ada")
    async for item in service.inapp("ada"):
        return item
    return None
"""


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("name", [name for name, _ in PROMISED])
def test_every_name_is_there(name: str) -> None:
    assert getattr(dispatcher, name).__name__ == name
    assert name in dir(dispatcher)


def test_type_checkers_are_told_the_same_as_the_interpreter() -> None:
    assert dict(PROMISED) == dispatcher._PLACES


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = dispatcher.Nothing


@pytest.mark.parametrize(
    ("imported", "heavy"), [("dispatcher", HEAVY), ("dispatcher.client", HEAVY[:5]), ("dispatcher.service", HEAVY[:5])]
)
def test_nothing_is_loaded_before_it_is_needed(imported: str, heavy: tuple[str, ...]) -> None:
    ended = run("-c", f"import sys, {imported}; print(*(name for name in {heavy} if name in sys.modules))")
    assert (ended.stdout, ended.stderr) == ("\n", "")


def test_a_typed_program_is_checked_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    ended = run("-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", str(file))
    assert ended.returncode == 0, ended.stdout
    assert 'note: Revealed type is "concurrent.futures._base.Future[dispatcher.api.results.Receipt]"' in ended.stdout
    assert "Mapping[" in ended.stdout


def test_the_package_says_that_it_is_typed() -> None:
    for package in ("dispatcher", "shards"):
        assert (ROOT / package / "py.typed").exists()
