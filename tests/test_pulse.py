"""A reactor that stood still is told, once each time, with a measure."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from wsserver.pulse import Pulse


class PulseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.computed = 0.0
        self.pulse = Pulse(self.clock, lambda: self.computed)
        self.pulse.startService()

    def stand_still(self, seconds: float, computed: float = 0.0) -> list[str | None]:
        """Let the reactor be late; return what is logged of it."""
        self.computed += computed
        with capturedLogs() as events:
            self.clock.advance(0.5 + seconds)
            self.clock.pump([0.5] * 100)
        return [formatEvent(event) for event in events]

    def test_regular(self) -> None:
        """Nothing is said of what is usual."""
        self.assertEqual(self.stand_still(0.0), [])
        self.assertEqual(self.stand_still(0.9), [])

    def test_late(self) -> None:
        """It is told how long it was, and how much of it was our own doing."""
        self.assertEqual(
            self.stand_still(2.0, 1.9),
            ["the server stood still for 2.0 s, 1.9 s of which it computed"],
        )
        self.assertEqual(
            self.stand_still(120.0),
            ["the server stood still for 120.0 s, 0.0 s of which it computed"],
        )
        self.assertEqual(self.pulse.longest, 120.0)

    def test_stop(self) -> None:
        """It ends with the server, started or not."""
        self.pulse.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        Pulse(self.clock).stopService()
