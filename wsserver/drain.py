"""The end of a connection: what is under way arrives first, however long that takes.

Only where nothing moves any more are bytes given up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from wsserver.peer import peer_of

#: From how many seconds on a look counts as late.
LATE = 1.0


class Drain:
    """Takes steps, each when nothing has been delivered for ``patience`` seconds.

    Time in which the reactor stood still does not count: nothing could be sent.
    """

    def __init__(
        self,
        clock: IReactorTime,
        patience: float,
        transports: Iterable[Any],
        steps: Iterable[Callable[[], object]],
    ) -> None:
        self._clock = clock
        self._patience = patience
        self._transports = list(transports)
        self._steps = list(steps)
        self._delivered = self._count()
        self._wait()

    def cancel(self) -> None:
        """Take no further step."""
        self._steps.clear()
        if self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        before, self._delivered = self._delivered, self._count()
        late = self._clock.seconds() - self._due >= LATE
        if self._delivered == before and not late:
            self._steps.pop(0)()
        if self._steps:
            self._wait()

    def _wait(self) -> None:
        self._due = self._clock.seconds() + self._patience
        self._timer: IDelayedCall = self._clock.callLater(self._patience, self._look)

    def _count(self) -> int:
        peers = map(peer_of, self._transports)
        return sum(peer.acknowledged for peer in peers if peer is not None)
