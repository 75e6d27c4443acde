"""What the kernel knows of the other end of a connection (Linux: tcp(7), ``TCP_INFO``)."""

from __future__ import annotations

import socket
from struct import Struct
from typing import Any, NamedTuple

from wsserver.outlets import socket_below

#: So many requests of our kernel that nobody has answered mean that nobody is there.
UNANSWERED = 3


class Peer(NamedTuple):
    """How far the other end's host has come."""

    #: How often it was asked in vain, one after the other, for data or for room.
    unanswered: int
    #: How many bytes it has acknowledged, and sent.
    acknowledged: int
    sent: int


#: ``tcpi_retransmits``, ``tcpi_probes``, ``tcpi_bytes_acked`` and ``tcpi_bytes_received``.
_INFO = Struct("@2xBB116xQQ")


def peer_of(transport: Any) -> Peer | None:
    """Return what is known, None where nothing is."""
    below = socket_below(transport)
    try:
        info = below.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
        retransmits, probes, acknowledged, sent = _INFO.unpack(info)
    except (AttributeError, OSError, ValueError):
        return None
    return Peer(retransmits + probes, acknowledged, sent)
