"""Clients that vanish, and those that are only slow."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from wsserver import keepalive
from wsserver.config import Deadlines
from wsserver.keepalive import PING_SIZE, UNANSWERED, Keepalive
from wsserver.peer import Peer

LIMITS = Deadlines(ping_interval=20.0, ping_timeout=15.0, stall_timeout=100.0)


class KeepaliveTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.client: Peer | None = Peer(0, 0, 0)
        self.patch(keepalive, "peer_of", lambda transport: self.client)
        self.pings: list[float] = []
        self.lost: list[tuple[float, str]] = []
        self.keepalive = Keepalive(self.clock, None, LIMITS, self.ping, self.give_up)

    def ping(self) -> None:
        self.pings.append(self.clock.seconds())

    def give_up(self, why: str) -> None:
        self.lost.append((self.clock.seconds(), why))

    def pass_time(self, seconds: float, **each: int) -> None:
        """Let time pass; ``each`` is what the client does every second."""
        for _ in range(int(seconds)):
            if self.client is not None and each:
                changed = {k: getattr(self.client, k) + v for k, v in each.items()}
                self.client = self.client._replace(**changed)
            self.clock.advance(1.0)

    def test_pings(self) -> None:
        """A client is pinged every ping_interval, whatever else moves."""
        self.pass_time(101, sent=1, acknowledged=1)
        self.assertEqual(self.pings, [20.0, 40.0, 60.0, 80.0, 100.0])
        self.keepalive.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_answers(self) -> None:
        """A client that answers stays, however little that is."""
        self.pass_time(1000, sent=1)
        self.assertEqual(self.lost, [])

    def test_slow_reader(self) -> None:
        """So does one that reads data, though its answers wait behind it."""
        self.pass_time(1000, acknowledged=PING_SIZE)
        self.assertEqual(self.lost, [])

    def test_vanished(self) -> None:
        """One whose host answers nothing is noticed within interval and timeout."""
        self.pass_time(21, sent=1, acknowledged=1)
        self.client = self.client._replace(unanswered=UNANSWERED)
        self.pass_time(34)
        # It had just answered a ping; the next went out at 40 s.
        self.assertEqual(self.lost, [(55.0, "the client has vanished")])
        self.pass_time(100)
        self.assertEqual((len(self.lost), self.clock.getDelayedCalls()), (1, []))

    def test_vanished_after_the_look(self) -> None:
        """That holds for every moment."""
        for vanish in range(1, 60):
            self.setUp()
            self.pass_time(vanish, sent=1, acknowledged=1)
            self.client = self.client._replace(unanswered=UNANSWERED)
            self.pass_time(36)
            ((when, _),) = self.lost
            self.assertLessEqual(when - vanish, 35.0)

    def test_busy_host(self) -> None:
        """A host that was asked in vain once or twice is not given up."""
        self.client = Peer(UNANSWERED - 1, 5, 5)
        self.pass_time(90)
        self.assertEqual(self.lost, [])

    def test_full_client(self) -> None:
        """A client that reads nothing is given up after stall_timeout, not before."""
        self.pass_time(300, acknowledged=0)
        ((when, why),) = self.lost
        self.assertEqual(why, "the client answers nothing")
        self.assertTrue(100 <= when <= 100 + 35, when)

    def test_stopped_process(self) -> None:
        """So is one whose host takes the pings and whose program does not answer."""
        self.pass_time(300, acknowledged=2)
        self.assertEqual([why for _, why in self.lost], ["the client answers nothing"])

    def test_late_reactor(self) -> None:
        """A client is not to blame for time in which the reactor stood still."""
        self.pass_time(30, sent=1)
        self.clock.advance(3600.0)
        self.pass_time(90)
        self.assertEqual(self.lost, [])
        # From there on it counts as ever.
        self.pass_time(45)
        self.assertEqual([why for _, why in self.lost], ["the client answers nothing"])

    def test_unknown(self) -> None:
        """Where the kernel tells nothing, pings are all there is."""
        self.client = None
        self.pass_time(1000)
        self.assertEqual((len(self.pings), self.lost), (50, []))

    def test_equal_limits(self) -> None:
        """A timeout as long as the interval works as well."""
        self.keepalive.cancel()
        limits: Any = LIMITS.model_copy(update={"ping_timeout": 20.0})
        self.keepalive = Keepalive(self.clock, None, limits, self.ping, self.give_up)
        self.pass_time(101, sent=1)
        self.assertEqual(self.pings, [20.0, 40.0, 60.0, 80.0, 100.0])
