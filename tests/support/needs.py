"""What a test needs from the machine beside Python: left out where it is missing, a failure in CI."""

from __future__ import annotations

import os

import pytest


def needs(condition: object, what: str) -> None:
    """Leave the calling test out unless ``condition``; with ``CI_STRICT=1`` it fails instead."""
    if condition:
        return
    reason = f"left out: {what}"
    if os.environ.get("CI_STRICT") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
