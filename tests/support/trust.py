"""Whom the channels trust in the tests of a package: to read the certificates of the system takes 25 ms, each time
that a client is made, and no server of a test has one of them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def nobody_is_trusted() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", os.devnull)
        yield
