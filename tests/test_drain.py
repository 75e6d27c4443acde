"""The end of a connection: steps that wait for progress."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from wsserver import drain
from wsserver.drain import Drain
from wsserver.peer import Peer


class DrainTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.taken: dict[str, int | None] = {"a": 0, "b": 0}
        self.patch(drain, "peer_of", self.peer)
        self.steps: list[tuple[str, float]] = []
        self.drain = self.make("hang up", "abort")

    def peer(self, transport: str) -> Peer | None:
        taken = self.taken[transport]
        return None if taken is None else Peer(0, taken, 0)

    def make(self, *steps: str) -> Drain:
        calls = [
            lambda step=step: self.steps.append((step, self.clock.seconds())) for step in steps
        ]
        return Drain(self.clock, 10.0, ["a", "b"], calls)

    def test_nothing_moves(self) -> None:
        """Each step is taken when nothing has moved for as long."""
        self.clock.pump([1.0] * 100)
        self.assertEqual(self.steps, [("hang up", 10.0), ("abort", 20.0)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_progress(self) -> None:
        """While either end takes bytes, however few, no step is taken."""
        for second in range(300):
            self.taken["ab"[second % 2]] += 1 if second % 9 == 0 else 0
            self.clock.advance(1.0)
        self.assertEqual(self.steps, [])
        self.clock.pump([1.0] * 40)
        self.assertEqual([step for step, _ in self.steps], ["hang up", "abort"])

    def test_late_reactor(self) -> None:
        """While the reactor stood still nothing could move, so no step is due yet."""
        self.clock.advance(60.0)
        self.assertEqual(self.steps, [])
        self.clock.advance(10.5)
        self.assertEqual(self.steps, [("hang up", 70.5)])

    def test_unknown(self) -> None:
        """Where nothing is known of an end, time alone counts."""
        self.taken = {"a": None, "b": None}
        self.clock.advance(10.0)
        self.assertEqual(len(self.steps), 1)

    def test_cancelled(self) -> None:
        """A drain that is cancelled, by a step as well, takes no further one."""
        self.drain.cancel()
        self.clock.advance(100.0)
        self.assertEqual((self.steps, self.clock.getDelayedCalls()), ([], []))
        own = Drain(self.clock, 10.0, [], [lambda: own.cancel(), self.fail])
        self.clock.pump([10.0] * 5)
        self.assertEqual(self.clock.getDelayedCalls(), [])
