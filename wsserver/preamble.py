"""The PROXY protocol, by which a front proxy tells who is behind a connection.

Versions 1 and 2 of HAProxy's proxy-protocol.txt, sections 2.1 and 2.2; Twisted parses them.
"""

from __future__ import annotations

from ipaddress import ip_address
from struct import unpack_from

from twisted.internet.address import IPv4Address, IPv6Address

# They have no public names; what is public there would wrap the transport.
from twisted.protocols.haproxy._exceptions import InvalidProxyHeader
from twisted.protocols.haproxy._v1parser import V1Parser
from twisted.protocols.haproxy._v2parser import V2Parser

#: The longest header of version 1, and of version 2 that we take, in bytes.
MAX_LINE = 107
MAX_BINARY = 4096

Client = IPv4Address | IPv6Address


def preamble(data: bytes) -> tuple[Client | None, bytes] | None:
    """Return who is behind, and what follows the header; None while it is not complete.

    Nobody is behind a connection of the proxy's own, such as a health check.

    Raises:
        ValueError: this is no such header.
    """
    end = _end(data)
    if end is None:
        return None
    binary = data.startswith(V2Parser.PREFIX)
    if not binary and data[: end - 2].split(b" ")[1] == b"UNKNOWN":
        # Whatever else stands there must be ignored, and nothing need.
        return None, data[end:]
    try:
        if binary:
            source = V2Parser.parse(data[:end]).source
        else:
            source = V1Parser.parse(data[: end - 2]).source
        if not isinstance(source, IPv4Address | IPv6Address):
            return None, data[end:]
        host = str(ip_address(source.host))
    except (InvalidProxyHeader, KeyError, ValueError):
        raise ValueError("a PROXY header that makes no sense") from None
    return type(source)("TCP", host, source.port), data[end:]


def _end(data: bytes) -> int | None:
    """Return where the header ends, None while it does not."""
    prefix, line = V2Parser.PREFIX, b"PROXY "
    if data[: len(prefix)] == prefix[: len(data)]:
        if len(data) < 16:
            return None
        size: int = 16 + unpack_from("!H", data, 14)[0]
        if size > MAX_BINARY:
            raise ValueError("a PROXY header that is too long")
        return size if len(data) >= size else None
    if data[: len(line)] != line[: len(data)]:
        raise ValueError("no PROXY header")
    end = data.find(b"\r\n", 0, MAX_LINE)
    if end < 0 and len(data) >= MAX_LINE:
        raise ValueError("a PROXY header that is too long")
    return end + 2 if end >= 0 else None
