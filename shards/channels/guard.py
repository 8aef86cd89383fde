"""Which addresses a user's URL may lead to: public ones, so that no notification reaches what is inside (SSRF).

A name is resolved once. Every address that it has must be allowed, and the connection goes to one of these very
addresses: a name that has other addresses a moment later (DNS rebinding) changes nothing. The address is looked at
once more when the socket is made, which no way around a resolver escapes, such as a URL that has the address itself.

What is not public is said by the IANA registries of special-purpose addresses. Of IPv6 only 2000::/3 has been given
out, so whatever maps or translates to an IPv4 address is denied with the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

PORTS = (80, 443, 8080, 8443)
GIVEN_OUT = {4: ip_network("0.0.0.0/0"), 6: ip_network("2000::/3")}
DENIED: dict[Network, str] = {
    ip_network(network): what
    for network, what in {
        "0.0.0.0/8": "this network",
        "10.0.0.0/8": "private",
        "100.64.0.0/10": "shared by carriers",
        "127.0.0.0/8": "loopback",
        "168.63.129.16/32": "Azure's platform",
        "169.254.0.0/16": "link-local",
        "172.16.0.0/12": "private",
        "192.0.0.0/24": "reserved for protocols",
        "192.0.2.0/24": "for documentation",
        "192.88.99.0/24": "a relay to 6to4",
        "192.168.0.0/16": "private",
        "198.18.0.0/15": "for benchmarks",
        "198.51.100.0/24": "for documentation",
        "203.0.113.0/24": "for documentation",
        "224.0.0.0/4": "multicast",
        "240.0.0.0/4": "reserved",
        "::/128": "unspecified",
        "::1/128": "loopback",
        "::ffff:0:0/96": "a mapped IPv4 address",
        "64:ff9b::/96": "a translated IPv4 address",
        "2001::/23": "reserved for protocols",
        "2001:db8::/32": "for documentation",
        "2002::/16": "a tunnel to an IPv4 address",
        "3fff::/20": "for documentation",
        "fc00::/7": "private",
        "fe80::/10": "link-local",
        "ff00::/8": "multicast",
    }.items()
}


class DeniedError(OSError):
    """The guard does not let anybody connect there; the message says why, and how to allow it."""


class Guard:
    """What URLs may lead to. ``allow_private`` are networks as "10.0.0.0/8", ``ports`` what else is denied; none: all.

    Raises ``ValueError`` for what is no network.
    """

    def __init__(self, allow_private: Sequence[str] = (), ports: Sequence[int] = PORTS) -> None:
        self._allowed = [ip_network(text) for text in allow_private]
        self._ports = frozenset(ports)

    def check(self, host: str, addresses: Sequence[str], port: int) -> None:
        """Raises ``DeniedError`` if one of the host's addresses, or the port, is not allowed."""
        if self._ports and port not in self._ports:
            known = ", ".join(map(str, sorted(self._ports)))
            raise DeniedError(f"port {port} of {host} is denied; allowed are {known}: add it to `ports` if it is meant")
        for address in addresses:
            if (why := self._denied(address)) is not None:
                at = "" if host == address else f" is at {address}, which"
                raise DeniedError(
                    f"{host}{at} is denied ({why}), so that nothing inside is reached from outside; add its network "
                    "to `allow_private` if it is meant"
                )

    def _denied(self, address: str) -> str | None:
        ip = ip_address(address)
        if any(ip in network for network in self._allowed):
            return None
        for network, what in DENIED.items():
            if ip in network:
                return what
        return None if ip in GIVEN_OUT[ip.version] else "not public"
