"""examples/deploy: what can be said of it without systemd running, and without Docker."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dispatcher.settings import Settings, load
from tests.support.needs import needs
from tests.support.service import ROOT

DEPLOY = ROOT / "examples" / "deploy"
UNIT = (DEPLOY / "dispatcher.service").read_text()
STOP_S = 2 * Settings().dispatcher.drain + 9  # as docs/running.md has it
EXPOSURE_MAX = 2.2  # of 10, as docs/deployment.md has it


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """With programs and a user that this machine has."""
    needs(shutil.which("systemd-analyze"), "systemd is not installed")
    text = re.sub(r"=(?:/opt/dispatcher/bin/python|/bin/kill) ", f"={sys.executable} ", UNIT)
    text = text.replace("User=dispatcher", "User=daemon")
    (tmp_path / "dispatcher.service").write_text(text)
    return tmp_path / "dispatcher.service"


def test_systemd_understands_the_unit(unit: Path) -> None:
    verified = subprocess.run(
        ["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60, check=False
    )
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_the_unit_takes_away_what_is_not_needed(unit: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    judged = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = re.search(r"exposure level for dispatcher.service: ([\d.]+)", judged.stdout)
    assert found, judged.stdout
    assert float(found[1]) <= EXPOSURE_MAX


def test_a_stop_has_the_time_that_it_may_take() -> None:
    found = re.search(r"TimeoutStopSec=(\d+)", UNIT)
    assert found
    assert int(found[1]) > STOP_S
    found = re.search(r"stop_grace_period: (\d+)s", (DEPLOY / "compose.yaml").read_text())
    assert found
    assert int(found[1]) > STOP_S


def test_the_configuration_is_accepted() -> None:
    assert load(DEPLOY / "dispatcher.toml", {}, {}).dispatcher.shards == 4


def test_the_containers_environment_is_one(tmp_path: Path) -> None:
    variables = dict(re.findall(r'(?m)^      (DISPATCHER_\w+): "?([^"\s]+)"?', (DEPLOY / "compose.yaml").read_text()))
    settings = load(DEPLOY / "dispatcher.toml", variables, {}).dispatcher
    assert settings.submit == "tcp://0.0.0.0:7712"
    assert settings.insecure


def test_what_the_image_needs_is_sent_to_docker() -> None:
    """The wheel is built from these, and from nothing else."""
    sent = set(re.findall(r"(?m)^!(\S+)$", (ROOT / ".dockerignore").read_text()))
    assert sent == {"dispatcher", "shards", "config", "pyproject.toml", "README.md"}
    assert all((ROOT / name).exists() for name in sent)
