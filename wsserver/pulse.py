"""Notices that the reactor stood still: code that hogs it, or a machine that was asleep."""

from __future__ import annotations

import time
from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

#: How often it is looked, and what counts as standing still, in seconds.
PERIOD = 0.5
TOO_LONG = 1.0

_log = Logger(namespace="wsserver.pulse")


class Pulse(Service):
    """Looks at the clock; ``cpu`` is the time that this process has computed, in seconds.

    ``longest`` is the longest time that the reactor stood still.
    """

    def __init__(self, clock: IReactorTime, cpu: Callable[[], float] = time.process_time) -> None:
        self.longest = 0.0
        self._clock = clock
        self._cpu = cpu
        self._timer: IDelayedCall | None = None

    def startService(self) -> None:
        """Begin to look."""
        super().startService()
        self._wait()

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _wait(self) -> None:
        self._due, self._computed = self._clock.seconds() + PERIOD, self._cpu()
        self._timer = self._clock.callLater(PERIOD, self._look)

    def _look(self) -> None:
        late = self._clock.seconds() - self._due
        self.longest = max(self.longest, late)
        if late >= TOO_LONG:
            computed = self._cpu() - self._computed
            _log.warn(
                "the server stood still for {late:.1f} s, {computed:.1f} s of which it computed",
                late=late,
                computed=computed,
            )
        self._wait()
