"""Notices that the reactor stood still: code that hogs it, or a machine that was asleep."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from threading import Event, Thread, get_ident
from traceback import format_stack

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

#: How often it is looked, and what counts as standing still, in seconds.
PERIOD = 0.5
TOO_LONG = 1.0
#: How many of the innermost calls are told.
DEPTH = 8

_log = Logger(namespace="wsserver.pulse")


class Witness:
    """A thread that sees what the reactor's thread does while it is not heard of."""

    def __init__(self, period: float = PERIOD, too_long: float = TOO_LONG) -> None:
        self._period = period
        self._too_long = too_long
        self._ended = Event()
        self._reactor_thread = get_ident()
        self._seen = ""
        self.hear()
        Thread(target=self._watch, name="pulse", daemon=True).start()

    def hear(self) -> str:
        """Note that the reactor goes on; return in which calls it was seen standing still."""
        self._heard = time.monotonic()
        seen, self._seen = self._seen, ""
        return seen

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(self._period):
            if not self._seen and time.monotonic() - self._heard > self._too_long:
                frame = sys._current_frames().get(self._reactor_thread)
                self._seen = "".join(format_stack(frame)[-DEPTH:])


class Pulse(Service):
    """Looks at the clock; ``cpu`` is the time that this process has computed, in seconds.

    ``longest`` is the longest time that the reactor stood still.
    """

    def __init__(
        self,
        clock: IReactorTime,
        cpu: Callable[[], float] = time.process_time,
        witness: Callable[[], Witness] = Witness,
    ) -> None:
        self.longest = 0.0
        self._clock = clock
        self._cpu = cpu
        self._make_witness = witness
        self._witness: Witness | None = None
        self._timer: IDelayedCall | None = None

    def startService(self) -> None:
        """Begin to look."""
        super().startService()
        self._witness = self._make_witness()
        self._wait()

    def stopService(self) -> None:
        """Look no more."""
        super().stopService()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._witness is not None:
            self._witness.stop()

    def _wait(self) -> None:
        self._due, self._computed = self._clock.seconds() + PERIOD, self._cpu()
        self._timer = self._clock.callLater(PERIOD, self._look)

    def _look(self) -> None:
        assert self._witness is not None
        seen = self._witness.hear()
        late = self._clock.seconds() - self._due
        self.longest = max(self.longest, late)
        if late >= TOO_LONG:
            _log.warn(
                "the server stood still for {late:.1f} s, {computed:.1f} s of which it computed,"
                " in\n{output}",
                late=late,
                computed=self._cpu() - self._computed,
                output=seen or "calls that nobody saw",
            )
        self._wait()
