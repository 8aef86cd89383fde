"""The addresses that URLs of users may lead to."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.channels.guard import DENIED, PORTS, DeniedError, Guard

GUARD = Guard(ports=())
ADDRESSES = st.ip_addresses()
INSIDE = ["10.1.2.3", "127.0.0.1", "169.254.169.254", "192.168.1.1", "::1", "fc00::1", "fe80::1%eth0", "fd00:ec2::254"]


def denied(address: str, guard: Guard = GUARD, port: int = 443) -> bool:
    try:
        guard.check("hook.example.org", [address], port)
    except DeniedError:
        return True
    return False


@pytest.mark.parametrize(
    "address",
    [
        *INSIDE,
        *("0.0.0.0", "::", "100.64.0.1", "192.0.0.8", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        "168.63.129.16",
        # ways to write an IPv4 address as one of IPv6, which `is_global` partly lets through
        *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::"),
        *("2001:0:4136:e378:8000:63bf:3fff:fdd2", "::ffff:0:127.0.0.1", "100::1", "ff02::1", "5f00::1", "4000::1"),
    ],
)
def test_what_is_not_public_is_denied(address: str) -> None:
    assert denied(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450::8a"])
def test_what_is_public_is_allowed(address: str) -> None:
    assert not denied(address)


@given(st.sampled_from(list(DENIED)).flatmap(lambda network: st.ip_addresses(network=network)))
def test_every_address_of_a_denied_network_is_denied(address: object) -> None:
    assert denied(str(address))


@given(ADDRESSES)
def test_what_is_allowed_is_global_for_others_as_well(address: object) -> None:
    ip = ip_address(str(address))
    if not denied(str(ip)):
        assert ip.is_global
        assert not ip.is_multicast
        if isinstance(ip, IPv6Address):
            assert (ip.ipv4_mapped, ip.sixtofour, ip.teredo) == (None, None, None)


@given(st.ip_addresses(v=4))
def test_an_address_of_ipv4_is_denied_however_ipv6_has_it(address: object) -> None:
    four = int(ip_address(str(address)))
    for prefix, shift in ((0, 0), (0xFFFF, 0), (0xFFFF0000, 0), (0x64FF9B << 64, 0), (0x2002 << 80, 80)):
        assert denied(str(IPv6Address((prefix << 32) | (four << shift))))


@given(ADDRESSES, st.integers(0, 32))
def test_a_network_that_is_allowed_opens_itself_and_nothing_else(address: object, bits: int) -> None:
    network = ip_network(f"{address}/{bits}", strict=False)
    guard = Guard([str(network)], ports=())
    assert not denied(str(address), guard)
    for other in INSIDE:
        ip = ip_address(other)
        assert denied(other, guard) == (ip.version != network.version or ip not in network)


@given(st.lists(st.sampled_from(["1.1.1.1", "2606:4700:4700::1111"]), max_size=3), st.sampled_from(INSIDE), st.data())
def test_one_denied_address_denies_the_name(public: list[str], inside: str, data: st.DataObject) -> None:
    public.insert(data.draw(st.integers(0, len(public))), inside)
    with pytest.raises(DeniedError, match=r"hook\.example\.org is at .* is denied .*`allow_private`"):
        GUARD.check("hook.example.org", public, 443)


def test_ports() -> None:
    assert [port for port in range(1, 10_000) if not denied("1.1.1.1", Guard(), port)] == sorted(PORTS)
    assert not denied("1.1.1.1", Guard(ports=[2222]), 2222)
    assert not denied("1.1.1.1", Guard(ports=[]), 22)
    with pytest.raises(DeniedError, match=r"port 22 .* is denied; allowed are 80, 443, 8080, 8443: add it to `ports`"):
        Guard().check("hook.example.org", ["1.1.1.1"], 22)


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "10.0.0.0/33", "localhost"])
def test_what_is_no_network_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Guard([text])
