"""One running dispatcher for the whole contract suite. Tests share it, so each uses users of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.support.service import RunningDispatcher
from tests.support.trust import nobody_is_trusted

__all__ = ["nobody_is_trusted"]

# email and system work, webhook always fails, pager has no worker, push and sms are not configured: billing names one
CONFIG = """
[retry]
max_retries = 0
[categories.billing]
channels = ["sms"]
[templates]
allow_template_put = true
[channels.email]
provider = "simulated"
[channels.webhook]
provider = "simulated"
failure_rate = 1.0
[channels.system]
provider = "simulated"
[channels.pager]
provider = "attached"
[rate_limits]
system = "2/hour"
"""

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def service() -> Iterator[RunningDispatcher]:
    with RunningDispatcher(CONFIG, shards=2) as running:
        yield running


@pytest.fixture
def new_user() -> Callable[[], str]:
    """User ids that no other test has."""
    return lambda: f"user-{next(_numbers)}."  # so that one with more digits behind it is nobody else


@pytest.fixture
def user(new_user: Callable[[], str]) -> str:
    return new_user()
