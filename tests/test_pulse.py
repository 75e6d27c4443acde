"""A reactor that stood still is told, once each time, with a measure and a place."""

from __future__ import annotations

from time import monotonic

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from wsserver.pulse import DEPTH, Pulse, Witness


class FakeWitness:
    """Has seen what the test says."""

    stopped = False
    seen = ""

    def hear(self) -> str:
        return self.seen

    def stop(self) -> None:
        self.stopped = True


class PulseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.computed = 0.0
        self.witness = FakeWitness()
        self.pulse = Pulse(self.clock, lambda: self.computed, lambda: self.witness)
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
        """It is told how long it was, how much of it was our own doing, and where."""
        self.witness.seen = "a.py, line 1"
        self.assertEqual(
            self.stand_still(2.0, 1.9),
            ["the server stood still for 2.0 s, 1.9 s of which it computed, in\na.py, line 1"],
        )
        self.witness.seen = ""
        self.assertEqual(
            self.stand_still(120.0),
            [
                "the server stood still for 120.0 s, 0.0 s of which it computed,"
                " in\ncalls that nobody saw"
            ],
        )
        self.assertEqual(self.pulse.longest, 120.0)

    def test_stop(self) -> None:
        """It ends with the server, started or not."""
        self.pulse.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(self.witness.stopped)
        Pulse(self.clock).stopService()


class WitnessTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.witness = Witness(period=0.005, too_long=0.05)
        self.addCleanup(self.witness.stop)

    def hog(self) -> None:
        """Compute until somebody has seen it."""
        end = monotonic() + 20
        while not self.witness._seen and monotonic() < end:
            pass

    def test_seen(self) -> None:
        """The innermost calls of a thread that is not heard of are seen, once."""
        self.hog()
        seen = self.witness.hear()
        self.assertIn(", in hog", seen.splitlines()[-2])
        self.assertEqual(seen.count('  File "'), DEPTH)
        self.assertEqual(self.witness.hear(), "")

    def test_again(self) -> None:
        """The next time is seen as well."""
        for _ in range(2):
            self.hog()
            self.assertIn(", in hog", self.witness.hear())
