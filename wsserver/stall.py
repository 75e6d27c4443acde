"""A direction of a tunnel in which bytes wait, and whose reader takes none of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from wsserver.peer import UNANSWERED, peer_of

#: How often a reader is looked at while its patience lasts.
LOOKS = 10


class Stall:
    """Calls ``stalled`` once where a reader has taken nothing for ``patience`` seconds.

    ``waits`` tells whether anything waits for it: a reader that has nothing to read is
    never late.  Time in which the reactor stood still does not count.  Where its host has
    answered nothing from one look to the next, that is enough.
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
        self._silent = False
        self._timer: IDelayedCall = clock.callLater(self._period, self._look)

    def cancel(self) -> None:
        """Look no more."""
        if self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        peer = peer_of(self._transport)
        before, self._taken = self._taken, peer.acknowledged if peer is not None else None
        still = self._taken is not None and self._taken == before
        self._looks = self._looks + 1 if still and self._waits() else 0
        silent = still and peer is not None and peer.unanswered >= UNANSWERED
        was_silent, self._silent = self._silent, silent
        if self._looks < LOOKS and not (was_silent and silent):
            self._timer = self._clock.callLater(self._period, self._look)
        else:
            self._stalled()
