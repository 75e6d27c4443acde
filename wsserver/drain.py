"""The end of a connection: what is under way arrives first, however long that takes.

Only where nothing moves any more are bytes given up.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from struct import Struct
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from wsserver.outlets import socket_below

#: After so long without progress the next step is taken, in seconds.
PATIENCE = 10.0

#: ``tcpi_bytes_acked`` of Linux's ``struct tcp_info``.
_ACKED = Struct("@120xQ")


class Drain:
    """Takes steps, each when nothing has been delivered for ``PATIENCE`` seconds."""

    def __init__(
        self, clock: IReactorTime, transports: Iterable[Any], steps: Iterable[Callable[[], object]]
    ) -> None:
        self._clock = clock
        self._transports = list(transports)
        self._steps = list(steps)
        self._delivered = self._count()
        self._timer: IDelayedCall = clock.callLater(PATIENCE, self._look)

    def cancel(self) -> None:
        """Take no further step."""
        self._steps.clear()
        if self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        before, self._delivered = self._delivered, self._count()
        if self._delivered == before:
            self._steps.pop(0)()
        if self._steps:
            self._timer = self._clock.callLater(PATIENCE, self._look)

    def _count(self) -> int:
        return sum(delivered(transport) for transport in self._transports)


def delivered(transport: Any) -> int:
    """Return how many bytes the peer's host has acknowledged, 0 where that is not known."""
    below = socket_below(transport)
    try:
        info = below.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED.size)
        return int(_ACKED.unpack(info)[0])
    except (AttributeError, OSError, ValueError):
        return 0
