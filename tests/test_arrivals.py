"""Whoever comes in is known and counted, and the connection stays as it is."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.wires import DONE, SocketWire
from wsserver.addresses import is_loopback
from wsserver.admission import EXHAUSTED, SCARCE, Admission
from wsserver.arrivals import Arrivals, refusal_of
from wsserver.errors import AtCapacity, TooMany
from wsserver.forwarded import Proxies

HEADER = b"PROXY TCP4 203.0.113.7 127.0.0.1 4711 443\r\n"
HERE = IPv4Address("TCP", "127.0.0.1", 2)


class Kept(Protocol):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.data = b""
        self.closed = False

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: object = None) -> None:
        self.closed = True


class Behind(Factory):
    """What is behind the door."""

    def __init__(self) -> None:
        self.made: list[Kept] = []
        self.addresses: list[Any] = []
        self.started = 0
        self.full = False

    def doStart(self) -> None:
        self.started += 1

    def doStop(self) -> None:
        self.started -= 1

    def buildProtocol(self, addr: Any) -> Any:
        if self.full:
            return None
        protocol = Kept()
        self.made.append(protocol)
        self.addresses.append(addr)
        return protocol


class Wire(SocketWire):
    """A socket whose loss reaches the protocol it has by then."""

    def lose(self) -> None:
        self.connectionLost(DONE)


class DoorCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.behind = Behind()
        self.used = 0.0
        self.admission = Admission(2, lambda more: self.used + more / 100)

    def door(self, *proxies: str, speaking: bool = False) -> Arrivals:
        return Arrivals(
            self.behind, self.clock, self.admission, Proxies(proxies), speaking, head_timeout=10.0
        )

    def come(self, door: Arrivals) -> Any:
        """Let somebody come in; return the transport, None where it was closed at once."""
        protocol: Any = door.buildProtocol(HERE)
        if protocol is None:
            return None
        wire: Any = Wire()
        self.addCleanup(wire.close)
        wire.protocol = protocol
        protocol.makeConnection(wire)
        return wire


class CountingTests(DoorCase):
    def test_listening(self) -> None:
        """The factory behind is told when listening begins and ends."""
        door = self.door()
        door.doStart()
        self.assertEqual(self.behind.started, 1)
        door.doStop()
        self.assertEqual(self.behind.started, 0)

    def test_handed_on(self) -> None:
        """A connection is handed on with the very transport that came in."""
        wire = self.come(self.door())
        (protocol,) = self.behind.made
        self.assertIs(wire.protocol, protocol)
        self.assertIs(protocol.transport, wire)
        self.assertEqual(self.behind.addresses, [HERE])
        wire.feed(b"hello")
        self.assertEqual(protocol.data, b"hello")

    def test_counted(self) -> None:
        """A connection counts until it is lost, whoever the protocol is by then."""
        door = self.door()
        first, second, third = (self.come(door) for _ in range(3))
        self.assertIsNone(refusal_of(second))
        self.assertIsInstance(refusal_of(third), TooMany)
        second.protocol = Protocol()
        for wire in (third, second, first):
            wire.lose()
            self.assertNotIn("connectionLost", vars(wire))
        self.assertTrue(self.behind.made[0].closed)
        self.assertEqual(self.admission.visits(), 0)
        self.assertIsNone(refusal_of(self.come(door)))

    def test_lost_twice(self) -> None:
        """A transport that is lost twice, as Twisted's can be, is uncounted once."""
        wire, other = self.come(self.door()), self.come(self.door())
        lost = wire.connectionLost
        wire.lose()
        lost(DONE)
        self.assertEqual(self.admission.visits(), 1)
        other.lose()

    def test_overrun(self) -> None:
        """Of whom twice as many come as are served, the rest is closed unheard."""
        door = self.door()
        came = [self.come(door) for _ in range(6)]
        self.assertEqual([wire is None for wire in came], 4 * [False] + 2 * [True])

    def test_files(self) -> None:
        """Where open files get scarce, who comes is refused; before they are used up, unheard."""
        self.used = SCARCE
        self.assertIsInstance(refusal_of(self.come(self.door("127.0.0.1"))), AtCapacity)
        self.used = EXHAUSTED
        self.assertIsNone(self.come(self.door()))
        self.used = 0.0
        self.assertIsNone(refusal_of(self.come(self.door())))

    def test_nobody_behind(self) -> None:
        """Where nobody takes the connection it ends, and counts no more."""
        self.behind.full = True
        wire = self.come(self.door())
        self.assertTrue(wire.aborted)
        wire.protocol = Protocol()
        wire.lose()
        self.assertEqual(self.admission.visits(), 0)

    def test_proxies_are_not_counted(self) -> None:
        """A listed proxy may have any number of connections: it speaks for many."""
        door = self.door("127.0.0.1")
        for _ in range(10):
            self.assertIsNone(refusal_of(self.come(door)))
        self.assertEqual(self.admission.visits(), 0)


class ProxyHeaderTests(DoorCase):
    def test_header(self) -> None:
        """A listed proxy tells whose the connection is; what follows is handed on."""
        wire = self.come(self.door("127.0.0.1", speaking=True))
        self.assertEqual(self.behind.made, [])
        for end in range(len(HEADER)):
            wire.feed(HEADER[end : end + 1])
        wire.feed(b"hello")
        self.assertEqual(self.behind.made[0].data, b"hello")
        self.assertEqual((wire.getPeer().host, wire.getPeer().port), ("203.0.113.7", 4711))
        self.assertEqual(self.behind.addresses, [wire.getPeer()])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_with_the_first_bytes(self) -> None:
        """The header and what follows may come in one piece."""
        wire = self.come(self.door("127.0.0.1", speaking=True))
        wire.feed(HEADER + b"hello")
        self.assertEqual(self.behind.made[0].data, b"hello")

    def test_counts_for_the_client(self) -> None:
        """The limit is that of the client, and not of the proxy."""
        door = self.door("127.0.0.1", speaking=True)
        wires = [self.come(door) for _ in range(4)]
        for wire in wires[:3]:
            wire.feed(HEADER)
        wires[3].feed(HEADER.replace(b".7 ", b".8 "))
        refused = [refusal_of(wire) is not None for wire in wires]
        self.assertEqual(refused, [False, False, True, False])
        for wire in wires:
            wire.lose()
        self.assertEqual(self.admission.visits(), 0)

    def test_from_anybody(self) -> None:
        """From whom is no listed proxy, or where they are not to speak so, it is no header."""
        for door in (self.door("10.0.0.1", speaking=True), self.door("127.0.0.1")):
            wire = self.come(door)
            wire.feed(HEADER)
            self.assertEqual(self.behind.made[-1].data, HEADER)
            self.assertEqual(wire.getPeer().host, "127.0.0.1")

    def test_not_to_be_trusted(self) -> None:
        """Who is named with the address of a proxy, or of this machine, is neither."""
        for named in (b"127.0.0.1", b"127.0.0.9", b"10.0.0.1"):
            proxies = Proxies(["127.0.0.1", "10.0.0.0/8"])
            wire = self.come(self.door("127.0.0.1", "10.0.0.0/8", speaking=True))
            wire.feed(HEADER.replace(b"203.0.113.7", named))
            host = wire.getPeer().host
            self.assertEqual(host, f"{named.decode()}@127.0.0.1")
            self.assertFalse(proxies.trusts(host) or is_loopback(host))
            self.assertEqual(proxies.client(host, "192.0.2.1"), host)
            self.assertEqual(self.admission.visits(), 1)
            wire.lose()

    def test_own_connection(self) -> None:
        """A connection of the proxy's own is the proxy's."""
        wire = self.come(self.door("127.0.0.1", speaking=True))
        wire.feed(b"PROXY UNKNOWN \r\nhello")
        self.assertEqual(wire.getPeer().host, "127.0.0.1")
        self.assertEqual(self.behind.made[0].data, b"hello")

    def test_required(self) -> None:
        """A listed proxy that does not speak so is cut off, and the log tells why."""
        wire = self.come(self.door("127.0.0.1", speaking=True))
        with capturedLogs() as events:
            wire.feed(b"GET / HTTP/1.1\r\n\r\n")
        self.assertTrue(wire.aborted)
        self.assertEqual(self.behind.made, [])
        self.assertIn("127.0.0.1 sent no PROXY header", str(formatEvent(events[0])))
        wire.lose()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_late(self) -> None:
        """The header must come in time."""
        wire = self.come(self.door("127.0.0.1", speaking=True))
        wire.feed(HEADER[:-1])
        self.clock.advance(9.9)
        self.assertFalse(wire.aborted)
        self.clock.advance(0.1)
        self.assertTrue(wire.aborted)
        self.assertEqual(self.admission.visits(), 0)
