"""docs/webhooks.md: what receivers are told to do accepts what is sent, and nothing else."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable

import pytest

from shards.channels.guard import PORTS
from shards.channels.webhook import WebhookChannel, signed
from tests.support.needs import needs
from tests.support.service import ROOT

GUIDE = (ROOT / "docs" / "webhooks.md").read_text()
NEW, OLD, OTHER = (f"whsec_{base64.b64encode(bytes([n]) * 24).decode()}" for n in range(3))
BODY = '{"a": "é"}'.encode()
Verify = Callable[[str, dict[str, str], bytes], bool]


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?verify\(.*?)```", GUIDE, re.DOTALL)
    assert found
    return found[1]


def in_python() -> Verify:
    scope: dict[str, Verify] = {}
    exec(block("python"), scope)
    return scope["verify"]


def in_node() -> Verify:
    needs(shutil.which("node"), "node is not installed")

    def verify(secret: str, headers: dict[str, str], body: bytes) -> bool:
        call = f"verify({json.dumps(secret)}, {json.dumps(headers)}, Buffer.from({json.dumps(body.decode())}))"
        program = f"{block('js')}\nprocess.stdout.write(String({call}))"
        done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True, timeout=60)
        return {"true": True, "false": False}[done.stdout]

    return verify


@pytest.mark.parametrize("made", [in_python, in_node])
def test_the_code_for_receivers(made: Callable[[], Verify]) -> None:
    verify = made()
    now = int(time.time())
    headers = signed("Ab-c_1", now, BODY, [NEW, OLD])
    assert verify(NEW, headers, BODY)
    assert verify(OLD, headers, BODY)
    assert not verify(OTHER, headers, BODY)
    assert not verify(NEW, headers, BODY + b" ")
    assert not verify(NEW, headers | {"webhook-id": "Ab-c_2"}, BODY)
    assert not verify(NEW, signed("Ab-c_1", now - 600, BODY, [NEW]), BODY)
    assert not verify(NEW, signed("Ab-c_1", now + 600, BODY, [NEW]), BODY)


def test_every_setting_is_there_with_its_default() -> None:
    rows = dict(re.findall(r"(?m)^\| `(\w+)` \|([^|]*)\|", GUIDE))
    defaults = WebhookChannel.Settings()
    shown = {
        "secret": "",
        "previous_secret": "",
        "headers": "`{}`",
        "user_agent": f"`{defaults.user_agent}`",
        "allow_private": "`[]`",
        "ports": f"`{list(PORTS)}`",
        "ca_file": "",
        "body_bytes": f"{defaults.body_bytes:,}",
        "answer_bytes": f"{defaults.answer_bytes:,}",
    }
    assert set(shown) == set(WebhookChannel.Settings.__struct_fields__)
    assert {name: rows[name].strip() for name in shown} == shown
