"""Frames that carry no byte of the stream: a client needs few, and each costs as much as much data.

Pings are to be answered (RFC 6455, section 5.5.2), read or not, so a flood of them would
cost memory as well.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

#: How many of them a client may send within a second.
MOST = 200
SECOND = 1.0


class Pace:
    """Counts them, second by second."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._began = clock.seconds()
        self._count = 0

    def decent(self) -> bool:
        """Count one; tell whether there are not too many."""
        now = self._clock.seconds()
        if now - self._began >= SECOND:
            self._began, self._count = now, 0
        self._count += 1
        return self._count <= MOST
