"""Addresses of the Internet as they count here: in their usual form, and for whom.  Pure."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

#: What one site of IPv6 has, as a prefix in bits.
_SITE = 64


@lru_cache(1024)
def address_of(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address in its usual form, None where it is none."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    # A socket that takes both kinds names IPv4 clients so.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def party(text: str) -> str:
    """Return whom an address counts for: one IPv6 client has a whole network of them.

    What is no address counts for itself.
    """
    address = address_of(text)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), _SITE), strict=False))
    return text if address is None else str(address)


def is_loopback(host: str) -> bool:
    """Tell whether a host, by its address or its name, is this machine."""
    address = address_of(host)
    return host == "localhost" if address is None else address.is_loopback
