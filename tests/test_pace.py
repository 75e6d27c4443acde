"""A client may send few frames that carry nothing."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.test_tunnel import Direct, TunnelCase
from tests.wires import frame, frames
from wsserver.pace import MOST, SECOND, Pace


class PaceTests(SynchronousTestCase):
    def test_second(self) -> None:
        """Each second has room for so many."""
        clock = Clock()
        pace = Pace(clock)
        for _ in range(3):
            self.assertEqual([pace.decent() for _ in range(MOST + 2)], [True] * MOST + [False] * 2)
            clock.advance(SECOND / 2)
            self.assertFalse(pace.decent())
            clock.advance(SECOND / 2)


class FloodTests(TunnelCase):
    """Before the join, through Autobahn alone."""

    def begin(self) -> None:
        self.upgrade()

    def flood(self, one: bytes, first: bytes = b"") -> None:
        """Send one frame too many; the websocket is closed, and the rest is not even looked at."""
        self.begin()
        self.browser_sends(first + one * (MOST + 10))
        answers = frames(self.browser.take())
        self.assertLessEqual(len(answers), MOST + 1)
        self.assertEqual(answers[-1], (8, b"\x03\xf0too many empty frames"))
        self.assertTrue(self.browser.disconnecting)

    def test_pings(self) -> None:
        """Pings, which must all be answered."""
        self.flood(frame(b"p", 9))

    def test_pongs(self) -> None:
        """Pongs, for which nobody asked."""
        self.flood(frame(b"", 10))

    def test_fragments(self) -> None:
        """Fragments without a byte, which never make a message too long."""
        self.flood(frame(b"", 0, fin=False), first=frame(b"", 2, fin=False))

    def test_empty_messages(self) -> None:
        """A message may be empty, however often; as a tunnel carries bytes, that is nothing."""
        self.begin()
        self.browser_sends(frame(b"", 2) * (3 * MOST))
        self.assertEqual(self.browser.take(), b"")
        self.assertFalse(self.browser.disconnecting)

    def test_usual(self) -> None:
        """Who pings now and then goes on for ever."""
        self.begin()
        for _ in range(3 * MOST):
            self.browser_sends(frame(b"p", 9))
            self.assertEqual(frames(self.browser.take()), [(10, b"p")])
            self.clock.advance(SECOND / 100)


class JoinedFloodTests(Direct, FloodTests):
    """The same through the relay."""

    def begin(self) -> None:
        self.open()
