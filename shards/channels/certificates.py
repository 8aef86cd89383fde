"""Certificates of authorities that an operator trusts beside the system's."""

from __future__ import annotations

import ssl
from pathlib import Path


def check_ca_file(path: str) -> None:
    """``ValueError`` where the setting ``ca_file`` is no file of certificates; empty is none, and right."""
    if not path:
        return
    if not Path(path).is_absolute():  # not every process of the service stands in the same directory
        raise ValueError(f"ca_file is {path!r}, which is relative; give the whole path, as in /etc/dispatcher/ca.pem")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except OSError as error:
        raise ValueError(f"ca_file is {path!r}, which has no certificates in PEM: {error}") from None
