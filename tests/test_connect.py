"""Connecting to a service, with patience."""

from __future__ import annotations

from itertools import pairwise

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint
from twisted.internet.error import ConnectionRefusedError, TimeoutError
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.wires import DONE, Plug, Wire
from wsserver import connect
from wsserver.connect import EAGER
from wsserver.errors import ConnectFailed


class ConnectTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.dial(2.0)

    def dial(self, timeout: float) -> None:
        self.plug = Plug()
        self.patch(connect, "endpoint", self.plug)
        dialling = connect.connect(self.clock, self, ("127.0.0.1", 5900), timeout)
        self.result = Deferred.fromCoroutine(dialling)

    def service_lost(self, reason: object) -> None:
        """A browser that has not been joined yet does not care."""

    def test_at_once(self) -> None:
        """A service that listens is connected to at the first try."""
        protocol, wire = self.plug.succeed()
        self.assertIs(self.successResultOf(self.result), protocol)
        self.assertTrue(wire.no_delay)

    def test_soon_then_rarely(self) -> None:
        """A late service is met within 20 ms at first, and 100 ms later on."""
        self.dial(60.0)
        times = [0.0]
        while self.clock.seconds() < EAGER + 1:
            self.plug.refuse(ConnectionRefusedError())
            while not self.plug._waiting:
                self.clock.advance(0.005)
            times.append(self.clock.seconds())
        self.assertLessEqual(times[1] - times[0], 0.02)
        eager = [b - a for a, b in pairwise(times) if b < EAGER]
        self.assertLessEqual(max(eager), 0.02)
        self.assertLessEqual(max(b - a for a, b in pairwise(times)), 0.11)
        self.assertLess(len(times) - len(eager), 15)
        self.plug.succeed()
        self.successResultOf(self.result)

    def test_gives_up(self) -> None:
        """After connect_timeout it is over; each try has only the time that is left."""
        while self.clock.seconds() < 2:
            if self.plug._waiting:
                self.plug.refuse(ConnectionRefusedError())
            self.clock.advance(0.01)
        self.failureResultOf(self.result, ConnectFailed)
        self.assertLess(self.plug.attempts[-1][2], 0.5)

    def test_not_itself(self) -> None:
        """A port without listener can be connected to itself, which is no service."""
        own = Wire(7, 7)
        self.plug.succeed(own)
        self.assertTrue(own.aborted)
        self.clock.advance(0.1)
        protocol, wire = self.plug.succeed()
        self.assertIs(self.successResultOf(self.result), protocol)
        self.assertTrue(wire.no_delay)

    def test_cancel(self) -> None:
        """Cancelling stops the attempt, and there is no other one."""
        self.result.cancel()
        self.failureResultOf(self.result, CancelledError)
        self.assertEqual(self.plug.cancelled, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_refused_for_good(self) -> None:
        """Where no time is left for another try, the last refusal ends it at once."""
        self.clock.advance(1.99)
        self.plug.refuse(ConnectionRefusedError())
        self.failureResultOf(self.result, ConnectFailed)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancel_between_attempts(self) -> None:
        """Cancelling while it waits for the next attempt leaves no timer."""
        self.plug.refuse(ConnectionRefusedError())
        self.result.cancel()
        self.failureResultOf(self.result, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(len(self.plug.attempts), 1)


class EndpointTests(SynchronousTestCase):
    """Against the endpoint of Twisted, and the reactor in memory."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        dialling = connect.connect(self.reactor, self, ("127.0.0.1", 5900), 2.0)
        self.result = Deferred.fromCoroutine(dialling)

    def from_service(self, data: bytes) -> None:
        self.heard = data

    def service_lost(self, reason: object) -> None:
        self.lost = reason

    def test_address(self) -> None:
        """The host and port of the script are dialled, and what comes is the browser's."""
        host, port, factory, *_ = self.reactor.tcpClients[0]
        self.assertEqual((host, port), ("127.0.0.1", 5900))
        protocol, wire = factory.buildProtocol(None), Wire(3, 4)
        protocol.makeConnection(wire)
        service = self.successResultOf(self.result)
        self.assertFalse(service.met_itself)
        protocol.dataReceived(b"hello")
        protocol.connectionLost(DONE)
        self.assertEqual((self.heard, self.lost), (b"hello", DONE))

    def test_silence(self) -> None:
        """An address that answers nothing at all is given up after connect_timeout."""
        *_, factory, timeout, _ = self.reactor.tcpClients[0]
        self.assertEqual(timeout, 2.0)
        self.reactor.advance(timeout)
        factory.clientConnectionFailed(None, Failure(TimeoutError()))
        self.failureResultOf(self.result, ConnectFailed)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_cancel(self) -> None:
        """Cancelling is no failure after which it is tried again."""
        self.result.cancel()
        self.failureResultOf(self.result, CancelledError)
        self.reactor.advance(1)
        self.assertEqual(len(self.reactor.tcpClients), 1)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_names(self) -> None:
        """Only what may be a name, or has another family, is looked up."""
        for host, kind in (
            ("127.0.0.1", TCP4ClientEndpoint),
            ("::1", HostnameEndpoint),
            ("localhost", HostnameEndpoint),
        ):
            self.assertIsInstance(connect.endpoint(self.reactor, host, 1, 2.0), kind)
