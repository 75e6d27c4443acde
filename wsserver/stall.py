"""A direction of a tunnel in which bytes wait, and whose reader takes none of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from wsserver.peer import peer_of

#: How often a reader is looked at while its patience lasts.
LOOKS = 5


class Stall:
    """Calls ``stalled`` once where a reader has taken nothing for ``patience`` seconds.

    ``waits`` tells whether anything waits for it: a reader that has nothing to read is
    never late.  Time in which the reactor stood still does not count.
    """

    def __init__(
        self,
        clock: IReactorTime,
        patience: float,
        transport: Any,
        waits: Callable[[], bool],
        stalled: Callable[[], object],
    ) -> None:
        self._clock = clock
        self._period = patience / LOOKS
        self._transport = transport
        self._waits = waits
        self._stalled = stalled
        self._taken: int | None = None
        self._looks = 0
        self._timer: IDelayedCall = clock.callLater(self._period, self._look)

    def cancel(self) -> None:
        """Look no more."""
        if self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        peer = peer_of(self._transport)
        before, self._taken = self._taken, peer.acknowledged if peer is not None else None
        if self._taken is None or self._taken != before or not self._waits():
            self._looks = 0
        else:
            self._looks += 1
        if self._looks < LOOKS:
            self._timer = self._clock.callLater(self._period, self._look)
        else:
            self._stalled()
