"""Finds out that a client has vanished, and never drops one that is only slow.

A client that closes is noticed by itself; one whose host or network is gone is not.  So
it is pinged (RFC 6455, section 5.5.2), which also keeps proxies from closing an idle
tunnel, and the kernels tell whether anything came of it: that holds while we read
nothing, and behind any amount of data that the client has not read yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from wsserver.config import Deadlines
from wsserver.peer import UNANSWERED, Peer, peer_of

#: What a ping takes at most, with TLS, in bytes: more than that is data that was read.
PING_SIZE = 256


class Keepalive:
    """Pings a client; calls ``lost`` once where it has vanished, or stalls for too long.

    Who has vanished is noticed within ``ping_interval + ping_timeout``.  A client that
    lives on a host that lives, and yet answers nothing at all, has ``stall_timeout``.
    """

    def __init__(
        self,
        clock: IReactorTime,
        transport: Any,
        deadlines: Deadlines,
        ping: Callable[[], object],
        lost: Callable[[str], object],
    ) -> None:
        self._clock = clock
        self._transport = transport
        self._deadlines = deadlines
        self._send = ping
        self._lost = lost
        self._asked: Peer | None = None
        self._heard = clock.seconds()
        self._timer: IDelayedCall = clock.callLater(deadlines.ping_interval, self._ping)

    def cancel(self) -> None:
        """Ping no more."""
        if self._timer.active():
            self._timer.cancel()

    def _ping(self) -> None:
        self._asked = peer_of(self._transport)
        self._send()
        self._due = self._clock.seconds() + self._deadlines.ping_timeout
        self._timer = self._clock.callLater(self._deadlines.ping_timeout, self._look)

    def _look(self) -> None:
        pause = self._deadlines.ping_interval - self._deadlines.ping_timeout
        self._timer = self._clock.callLater(max(0.0, pause), self._ping)
        before, now = self._asked, peer_of(self._transport)
        if before is None or now is None:
            return
        # While the reactor stood still, nobody could answer us.
        self._heard += self._clock.seconds() - self._due
        taken = now.acknowledged - before.acknowledged
        if now.sent > before.sent or taken > PING_SIZE:
            self._heard = self._clock.seconds()
        elif not taken and now.unanswered >= UNANSWERED:
            self._give_up("the client has vanished")
        elif self._clock.seconds() - self._heard >= self._deadlines.stall_timeout:
            self._give_up("the client answers nothing")

    def _give_up(self, why: str) -> None:
        self.cancel()
        self._lost(why)
