"""Who can reach an endpoint."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a socket that is bound to ``host``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_local(endpoint: str) -> bool:
    """Whether other machines cannot reach a valid endpoint."""
    scheme, _, address = endpoint.partition("://")
    return scheme != "tcp" or is_loopback(address.rpartition(":")[0].strip("[]"))
