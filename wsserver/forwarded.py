"""Who asks, where a front proxy stands between: believed from listed proxies alone.

A header that anybody may write says nothing.  So ``X-Forwarded-*`` counts only where the
other end of the connection is a proxy of ours, and of a list only what such proxies wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_network

from wsserver.addresses import address_of

#: How many hops of ``X-Forwarded-For`` are followed at most.
MAX_HOPS = 32
#: No address is longer, in characters, with its port and all.
LONGEST = 80

# An address as proxies write it: with or without a port, IPv6 with or without brackets.
_HOP = re.compile(r'"?(?:\[(?P<v6>[^\]]+)\](?::\d+)?|(?P<v4>[\d.]+)(?::\d+)?|(?P<bare>[^"]+))"?')
_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?")


class Proxies:
    """The front proxies of ours, by address or network, such as ``10.0.0.0/8``.

    Raises ValueError for what is neither.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = [ip_network(network) for network in networks]

    def trusts(self, peer: str) -> bool:
        """Tell whether the other end of a connection is one of them."""
        if not self._networks:
            return False
        address = _address(peer)
        return address is not None and any(address in network for network in self._networks)

    def client(self, peer: str, forwarded_for: str | None) -> str:
        """Return the address of who asks: the right-most hop that is no proxy of ours.

        ``peer`` is the other end of the connection, ``forwarded_for`` the value of
        ``X-Forwarded-For``, of all of them with commas where it stands several times.
        Where a hop is no address, the proxy that named it is all that is known.
        """
        client = str(_address(peer) or peer)
        rest = forwarded_for or ""
        for _ in range(MAX_HOPS):
            if not rest or not self.trusts(client):
                break
            rest, _, hop = rest.rpartition(",")
            named = _address(hop.strip()[:LONGEST])
            if named is None:
                break
            client = str(named)
        return client

    def host(self, peer: str, forwarded_host: str | None) -> str | None:
        """Return the host, with its port if any, that the client asked for; None if untold."""
        told = self._told(peer, forwarded_host)
        return told if _HOST.fullmatch(told) else None

    def asked_host(self, peer: str, host: str | None, forwarded_host: str | None) -> str | None:
        """Return the host that was asked for, as it stands there; None if it is untold.

        What a proxy of ours writes into its own request is its business.
        """
        return (self._told(peer, forwarded_host) or None) if self.trusts(peer) else host

    def proto(self, peer: str, forwarded_proto: str | None) -> str | None:
        """Return ``http`` or ``https``, whichever the client speaks; None if untold."""
        told = self._told(peer, forwarded_proto).lower()
        told = {"ws": "http", "wss": "https"}.get(told, told)
        return told if told in ("http", "https") else None

    def _told(self, peer: str, value: str | None) -> str:
        """Return what the proxy next to us wrote: the last of a list."""
        if not value or not self.trusts(peer):
            return ""
        return value.rpartition(",")[2].strip()


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address, without its port; None where it is none."""
    found = _HOP.fullmatch(text)
    if found is None:
        return None
    return address_of(found["v6"] or found["v4"] or found["bare"])
