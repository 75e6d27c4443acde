"""A reader that takes nothing of what waits for it is noticed, and no other is."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from wsserver import stall
from wsserver.peer import UNANSWERED, Peer
from wsserver.stall import LOOKS, Stall

PATIENCE = 300.0


class StallTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.reader: Peer | None = Peer(0, 0, 0)
        self.waits = True
        self.stalled: list[float] = []
        self.patch(stall, "peer_of", lambda transport: self.reader)
        self.stall = Stall(self.clock, PATIENCE, None, lambda: self.waits, self.give_up)

    def give_up(self) -> None:
        self.stalled.append(self.clock.seconds())

    def pass_time(self, seconds: float, taken: int = 0) -> None:
        for _ in range(int(seconds)):
            if self.reader is not None:
                taken_by_now = self.reader.acknowledged + taken
                self.reader = self.reader._replace(acknowledged=taken_by_now)
            self.clock.advance(1.0)

    def test_nothing_taken(self) -> None:
        """It is given up, once, when nothing was taken for so long, or a tenth more."""
        for begin in range(1, 120, 7):
            self.setUp()
            self.pass_time(begin, taken=1)
            self.pass_time(2 * PATIENCE)
            (when,) = self.stalled
            self.assertTrue(PATIENCE <= when - begin <= PATIENCE * (1 + 1 / LOOKS), when)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_slow(self) -> None:
        """However slow a reader is, while it takes anything it stays."""
        for _ in range(10):
            self.pass_time(PATIENCE - 60)
            self.pass_time(1, taken=1)
        self.assertEqual(self.stalled, [])

    def test_nothing_waits(self) -> None:
        """Who has nothing to take may be silent for ever."""
        self.waits = False
        self.pass_time(10 * PATIENCE)
        self.assertEqual(self.stalled, [])

    def test_no_answer(self) -> None:
        """A host that answers nothing from one look to the next is gone, little as it was sent."""
        self.waits = False
        self.pass_time(50)
        self.reader = Peer(UNANSWERED, 0, 0)
        self.pass_time(PATIENCE)
        (when,) = self.stalled
        self.assertLessEqual(when - 50, 2 * PATIENCE / LOOKS)

    def test_no_answer_for_a_while(self) -> None:
        """A network that is away for less is none that has gone."""
        self.waits = False
        for _ in range(20):
            self.reader = Peer(UNANSWERED, 0, 0)
            self.pass_time(PATIENCE / LOOKS)
            self.reader = Peer(0, 0, 0)
            self.pass_time(PATIENCE / LOOKS)
        self.assertEqual(self.stalled, [])

    def test_late_reactor(self) -> None:
        """Time in which the reactor stood still does not count."""
        self.pass_time(70)
        self.clock.advance(10 * PATIENCE)
        self.assertEqual(self.stalled, [])

    def test_unknown(self) -> None:
        """Where the kernel tells nothing, nobody is given up."""
        self.reader = None
        self.pass_time(3 * PATIENCE)
        self.assertEqual(self.stalled, [])

    def test_cancel(self) -> None:
        """Once cancelled it looks no more."""
        self.stall.cancel()
        self.stall.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])
