"""Both directions of a joined tunnel, on every path, against Autobahn alone."""

from __future__ import annotations

import gc
import os
import struct
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import TestResult

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.python.failure import Failure
from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from tests.test_tls import make as certificate
from tests.test_tunnel import Direct, TunnelCase
from tests.wires import SecureWire, SocketWire, Wire, close, frame, readable, writable
from wsserver import relay, stall, tunnel
from wsserver.outlets import Buffers, socket_below
from wsserver.peer import Peer
from wsserver.relay import HEAD, NIBBLE, READ_SIZE, DirectRelay, Relay, TLSRelay
from wsserver.tls import Certificate


class AutobahnAlone:
    """A relay that leaves all frames to Autobahn."""

    up = down = True

    def __init__(self, websocket: Any, service: Any, scanner: object) -> None:
        self._websocket = websocket
        self._service = service
        service.resumeProducing()

    def to_service(self, payload: bytes) -> None:
        if self.up:
            self._service.write(payload)

    def from_browser(self, data: bytes) -> None:
        self._websocket.other_frames(data)

    def from_service(self, data: bytes) -> None:
        self._websocket.sendMessage(data, isBinary=True)

    def up_waits(self) -> bool:
        return False

    down_waits = up_waits

    def browser_lost(self) -> None:
        """Nothing is kept."""

    def service_lost(self) -> None:
        """Nothing is kept."""


def heard(stream: bytes) -> tuple[bytes, list[tuple[Opcode, bytes]]]:
    """Return the data and the other frames that an independent client understands."""
    client = ClientProtocol(parse_uri("ws://localhost/"), state=State.OPEN, max_size=None)
    client.receive_data(stream)
    data, others = b"", []
    for one in client.events_received():
        if one.opcode is Opcode.BINARY:
            data += one.data
        else:
            others.append((one.opcode, bytes(one.data)))
    assert client.parser_exc is None, client.parser_exc
    return data, others


SIZES = st.sampled_from([0, 1, 6, 8, 8, 8, 125, 126, 300, 4000, 65535, 65536, 100_000])
FRAMES = st.one_of(
    SIZES.map(lambda size: frame(os.urandom(size))),
    st.integers(2, 600).map(lambda count: b"".join(frame(os.urandom(6)) for _ in range(count))),
    st.integers(0, 125).map(lambda size: frame(b"p" * size, 9)),
    SIZES.map(lambda size: frame(b"a" * size, 2, fin=False)),
    SIZES.map(lambda size: frame(b"b" * size, 0, fin=False)),
    SIZES.map(lambda size: frame(b"c" * size, 0)),
)
#: Each of these ends the websocket, most of them with a code of their own.
ENDS = st.sampled_from(
    [
        close(),
        close(3999),
        close(1005),
        frame(b"", 8),
        frame(b"text", 1),
        frame(b"x", 3),
        frame(b"x", 11),
        frame(b"x" * 126, 9),
        b"\xc2" + frame(b"x")[1:],
        b"\x82\x01x",
        b"\x82\xfe\x00\x01\0\0\0\0x",
        frame(b"x" * 200_001),
    ]
)
FRAME_LISTS = st.lists(FRAMES, max_size=8)


class EveryPath:
    """One script of a browser and a service, played on each path."""

    limit = 200_000
    script: Any = ()
    outcome: Any = ()

    def runTest(self) -> None:
        """Play the script, for somebody else to compare."""
        self.outcome = self.play(*self.script)

    def play(self, early: bytes, pieces: list[bytes], words: list[bytes]) -> tuple[Any, ...]:
        """Return what service and browser have got in the end."""
        self.factory = self.make(max_message_size=self.limit)
        self.upgrade()
        self.browser_sends(early)
        if self.tunnel.state != self.tunnel.STATE_OPEN:
            return heard(self.browser.take())
        self.session.start()
        self.service, self.wire = self.plug.succeed()
        up, down = self.wire.take(), b""
        for word in words:
            self.service_sends(word)
            down += self.browser.take()
        for piece in pieces:
            if self.reads():
                self.browser_sends(piece)
            up, down = up + self.wire.take(), down + self.browser.take()
        self.assertFalse(self.wire.paused and not self.wire.disconnecting)
        return (up, heard(down), bool(self.wire.disconnecting), self.session.failures)

    def reads(self) -> bool:
        """Whether the tunnel still listens to the browser."""
        ended = self.browser.disconnecting or self.browser.aborted
        # Nobody tells it here that the service's connection, which it has closed, is gone.
        return not ended and not (self.wire.disconnecting and self.browser.paused)


class TransportPath(EveryPath, TunnelCase):
    """Through transports."""


class DirectPath(EveryPath, Direct, TunnelCase):
    """From socket to socket."""


class AutobahnPath(TransportPath):
    """Through Autobahn alone."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(tunnel, "join", AutobahnAlone)


class SameTests(TunnelCase):
    """A relay behaves exactly like Autobahn."""

    def played(self, kind: type[Any], *script: Any) -> tuple[Any, ...]:
        case, result = kind(), TestResult()
        case.script = script
        case.run(result)
        self.assertEqual(result.errors + result.failures, [])
        return case.outcome

    def compare(
        self,
        stream: bytes,
        early: int,
        places: list[int],
        words: list[bytes],
    ) -> None:
        # No piece is more than a socket takes at once, so none must wait for its reader.
        places = [*places, *range(0, len(stream), 50_000)]
        bounds = sorted({early, len(stream), *(place % (len(stream) + 1) for place in places)})
        pieces = [stream[a:b] for a, b in pairwise(b for b in bounds if b >= early)]
        alone, transport, direct = (
            self.played(kind, stream[:early], pieces, words)
            for kind in (AutobahnPath, TransportPath, DirectPath)
        )
        self.assertEqual(transport, alone)
        self.assertEqual(direct, alone)

    @given(
        FRAME_LISTS,
        ENDS,
        FRAME_LISTS,
        st.integers(0, 2000),
        st.lists(st.integers(0, 10**7), max_size=10),
        st.lists(SIZES.map(os.urandom), max_size=5),
    )
    @settings(deadline=None, max_examples=200)
    def test_same(
        self,
        before: list[bytes],
        end: bytes,
        after: list[bytes],
        early: int,
        places: list[int],
        words: list[bytes],
    ) -> None:
        """Whatever a browser sends, in whatever pieces, before the join or after it: bytes,
        pongs, close codes are the same on every path, and an independent client agrees."""
        stream = b"".join([*before, end, *after])
        # Autobahn refuses some frames by two bytes, while the scanner lets it see whole
        # headers: what a service says in between may come or not, so it speaks first.
        self.compare(stream, 0 if words else min(early, len(stream)), places, words)

    def test_joined_amid_a_frame(self) -> None:
        """The join may come at any byte of header or payload, of a message in fragments too."""
        fragments = frame(b"a" * 130, fin=False) + frame(b"p", 9) + frame(b"b" * 3, 0)
        stream = frame(b"x" * 130) + fragments + frame(b"y" * 8) * 3 + close()
        for early in range(0, len(stream), 3):
            self.compare(stream, early, [], [])


class DirectRelayTests(Direct, TunnelCase):
    """Flow control and the end, from socket to socket."""

    #: How many buffers a browser costs that does not read.
    kept = 1

    def setUp(self) -> None:
        super().setUp()
        self.buffers = Buffers(HEAD + READ_SIZE)
        self.patch(relay, "_buffers", self.buffers)
        self.lent = 0
        take, give = self.buffers.take, self.buffers.give

        def taken() -> bytearray:
            self.lent += 1
            return take()

        def given(buffer: object) -> None:
            self.lent -= type(buffer) is bytearray
            give(buffer)

        self.buffers.take, self.buffers.give = taken, given  # type: ignore[method-assign]

    def stall_browser(self) -> bytes:
        """The service sends until the browser's socket is full."""
        sent = b""
        while not self.wire.paused:
            data = os.urandom(50_000)
            self.wire.feed(data)
            sent += data
        return sent

    def stall_service(self) -> bytes:
        """The browser sends until the service's socket is full."""
        sent = b""
        while not self.browser.paused:
            data = os.urandom(50_000)
            self.browser.feed(frame(data))
            sent += data
        return sent

    def test_fragments_to_a_stalled_service(self) -> None:
        """A message in fragments waits like any other where the service does not read."""
        self.open()
        sent = b""
        self.browser.feed(frame(b"", fin=False))
        while not self.browser.paused and len(sent) < 20_000_000:
            data = os.urandom(50_000)
            self.browser.feed(frame(data, 0, fin=False))
            sent += data
        self.assertTrue(self.browser.paused)
        self.assertEqual(self.lent, 0)
        got = b""
        while len(got) < len(sent):
            got += self.wire.take()
            self.browser.read()
        self.assertEqual(got, sent)
        self.assertFalse(self.browser.paused)

    def test_pings_of_a_stalled_browser(self) -> None:
        """To who takes no pongs they do not pile up."""
        self.open()
        self.stall_browser()
        for _ in range(10):
            self.clock.advance(1)
            self.browser.feed(frame(b"p" * 125, 9) * 150)
        self.assertLess(self.browser._tempDataLen, 2 * self.browser.bufferSize)
        self.assertEqual(self.tunnel.state, self.tunnel.STATE_OPEN)

    def turns(self, payloads: list[bytes]) -> list[int]:
        """Return how many bytes get to the service in each turn of the reactor."""
        stream = self.browser.encrypted(b"".join(map(frame, payloads)))
        turns = []
        while stream or readable(self.browser.socket):
            if stream and writable(self.browser.far):
                stream = stream[self.browser.far.send(stream[:100_000]) :]
            self.browser.doRead()
            turns.append(len(self.wire.take()))
        self.assertEqual(sum(turns), sum(map(len, payloads)))
        return turns

    def test_tiny_frames(self) -> None:
        """Of tiny frames few are taken in one turn, so that others have theirs; of others many."""
        self.open()
        tiny = [b"a", b"bb"] * 6000
        self.turns(tiny)
        self.assertLess(max(self.turns(tiny)), NIBBLE)
        self.assertGreater(max(self.turns([b"c" * 30_000] * 3)), NIBBLE)

    def test_stalled_browser(self) -> None:
        """A browser that stops costs one buffer, and its input goes on."""
        self.open()
        sent = self.stall_browser()
        self.assertEqual(self.lent, self.kept)
        self.browser.feed(frame(b"input") + frame(b"more" * 50))
        self.assertEqual(self.wire.take(), b"input" + b"more" * 50)
        self.assertEqual(self.lent, self.kept)
        self.assertEqual(heard(self.browser.take())[0], sent)
        self.assertEqual((self.lent, self.wire.paused), (0, False))

    def test_stalled_service(self) -> None:
        """A service that stops costs one buffer, and its output goes on."""
        self.open()
        sent = self.stall_service()
        self.assertEqual(self.lent, 1)
        self.wire.feed(b"output")
        self.assertEqual(heard(self.browser.take())[0], b"output")
        self.assertEqual(self.wire.take(), sent)
        self.assertEqual((self.lent, self.browser.paused), (0, False))

    def test_service_takes_nothing(self) -> None:
        """A service that takes nothing of what waits for it has failed, after its time."""
        self.patch(stall, "peer_of", lambda transport: Peer(0, 0, 0))
        self.open()
        self.stall_service()
        self.clock.pump([30.0] * 10)
        self.assertEqual(self.session.failures, [])
        self.clock.advance(30.0)
        opcode, payload = heard(self.browser.take())[1][-1]
        self.assertEqual(opcode, Opcode.CLOSE)
        self.assertEqual(payload, struct.pack(">H", 4502) + b"the service reads nothing")
        self.assertEqual(self.session.failures, ["the service reads nothing"])
        self.clock.pump([10.0] * 2)
        self.assertTrue(self.wire.aborted)

    def test_browser_takes_nothing(self) -> None:
        """So is a browser cut off, though it still sends."""
        self.patch(stall, "peer_of", lambda transport: Peer(0, 0, 0))
        self.open()
        self.stall_browser()
        for _ in range(11):
            self.browser.feed(frame(b"input"))
            self.clock.advance(30.0)
        self.assertTrue(self.browser.aborted)
        self.assertEqual(self.wire.take(), 11 * b"input")

    def test_both_stalled(self) -> None:
        """Both may stop at one time, at one buffer each, and nothing is lost."""
        self.open()
        down, up = self.stall_browser(), self.stall_service()
        self.assertEqual(self.lent, self.kept + 1)
        self.assertEqual(heard(self.browser.take())[0], down)
        self.assertEqual(self.wire.take(), up)
        self.assertEqual(self.lent, 0)

    def test_pong_in_between(self) -> None:
        """A pong comes after the rest of a frame that is half sent."""
        self.open()
        sent = self.stall_browser()
        self.browser.feed(frame(b"ping", 9))
        data, others = heard(self.browser.take())
        self.assertEqual((data, others), (sent, [(Opcode.PONG, b"ping")]))
        self.assertFalse(self.wire.paused)

    def test_service_ends_while_stalled(self) -> None:
        """All that the service had sent arrives before the end, whoever reads slowly."""
        self.open()
        sent = self.stall_browser()
        self.wire.far.send(b"last words")
        self.wire.far.shutdown(1)
        whole = self.browser.take()
        self.wire.read()
        self.assertIs(self.wire.ended, CONNECTION_DONE)
        self.service.readConnectionLost()
        data, others = heard(whole + self.browser.take())
        self.assertEqual(data, sent + b"last words")
        self.assertEqual([opcode for opcode, _ in others], [Opcode.CLOSE])

    def test_browser_ends_while_stalled(self) -> None:
        """All that the browser had sent reaches the service before its connection closes."""
        self.open()
        sent = self.stall_service()
        self.browser.far.send(self.browser.encrypted(close()))
        got = self.wire.take()
        self.browser.read()
        self.assertEqual(got + self.wire.take(), sent)
        self.assertIs(self.wire.ended, CONNECTION_DONE)
        self.assertEqual(self.lent, 0)

    def test_lost_while_stalled(self) -> None:
        """Whoever is lost, no buffer is, and nothing keeps the tunnel in memory."""
        for loses_browser_first in (True, False):
            self.open()
            self.stall_browser()
            self.stall_service()
            lost = [self.lose_browser, self.lose_service]
            for lose in lost if loses_browser_first else reversed(lost):
                lose()
            self.assertEqual((self.lent, self.factory.tunnels), (0, set()))
            gone = [weakref.ref(self.tunnel), weakref.ref(self.tunnel._relay)]
            for wire in (self.browser, self.wire):
                self.assertFalse({"doRead", "doWrite"} & set(vars(wire)))
            self.clock.advance(1000)
            del self.tunnel, self.service, self.browser, self.wire, wire
            self.session.wanted.clear()
            gc.collect()
            self.assertEqual([ref() for ref in gone], [None, None])

    def lose_browser(self) -> None:
        self.browser.connectionLost(Failure(CONNECTION_LOST))

    def lose_service(self) -> None:
        self.wire.connectionLost(Failure(CONNECTION_LOST))

    def test_reset(self) -> None:
        """A connection that breaks is told to the reactor by the read that finds it."""
        self.open()

        def broken(view: memoryview) -> int:
            raise ConnectionResetError

        self.tunnel._relay._receive_service = broken
        self.tunnel._relay._receive_browser = broken
        self.assertIs(self.wire.doRead(), CONNECTION_LOST)
        self.assertIs(self.browser.doRead(), CONNECTION_LOST)
        self.assertEqual(self.lent, 0)

    def test_nothing_there(self) -> None:
        """A socket that has nothing after all is read again later."""
        self.open()
        self.assertIsNone(self.wire.doRead())
        self.browser.feed(frame(b"x" * 10)[:3])
        self.assertIsNone(self.browser.doRead())
        self.assertEqual((self.lent, self.sent()), (0, []))

    def test_after_the_close(self) -> None:
        """What a service sends after our close is read, and goes nowhere."""
        self.open()
        self.tunnel.service_finished()
        self.wire.feed(b"late")
        self.assertEqual(len(self.sent()), 1)
        self.assertEqual(self.lent, 0)

    def test_chosen_at_the_join(self) -> None:
        """Only where both ends are sockets does the relay use them."""
        kinds = {(SocketWire, SocketWire): DirectRelay}
        for browser in (Wire, SocketWire):
            for service in (Wire, SocketWire):
                self.wired = lambda here, there, kind=browser: kind(here, there)
                self.browser_sends = lambda data: self.tunnel.dataReceived(data)
                self.upgrade()
                self.session.start()
                self.plug.succeed(service(3, 4))
                expected = kinds.get((browser, service), Relay)
                self.assertIs(type(self.tunnel._relay), expected)
                for wire in (self.browser, self.tunnel._service.transport):
                    getattr(wire, "close", lambda: None)()


class TLSRelayTests(DirectRelayTests):
    """All of that, and more, where the browser's socket carries TLS."""

    #: What is encrypted has left its buffer.
    kept = 0

    def setUp(self) -> None:
        super().setUp()
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "both.pem").write_bytes(b"".join(certificate("server")))
        self.context = Certificate(str(folder / "both.pem"))

    def dial(self, head: bytes) -> None:
        """A browser connects with TLS and sends its request."""
        self.tunnel = self.factory.buildProtocol(None)
        self.browser = SecureWire(self.context, self.tunnel)
        self.addCleanup(self.browser.close)
        self.browser.feed(head)

    def test_kind(self) -> None:
        """TLS has a relay of its own."""
        self.open()
        self.assertIs(type(self.tunnel._relay), TLSRelay)

    def test_much(self) -> None:
        """Much goes both ways unchanged, in records of TLS."""
        self.open()
        down, up = os.urandom(300_000), os.urandom(300_000)
        got_down = got_up = b""
        for start in range(0, 300_000, 30_000):
            self.wire.feed(down[start : start + 30_000])
            self.browser.feed(frame(up[start : start + 30_000]))
            got_down, got_up = got_down + self.browser.take(), got_up + self.wire.take()
        self.assertEqual((heard(got_down)[0], got_up), (down, up))

    def test_cut_records(self) -> None:
        """Records may come in any pieces, and cut frames anywhere."""
        self.open()
        stream = b"".join(frame(os.urandom(1)) + frame(b"x" * 9) for _ in range(20))
        records = b"".join(
            self.browser.encrypted(stream[i : i + 3]) for i in range(0, len(stream), 3)
        )
        for start in range(0, len(records), 101):
            self.browser.feed_raw(records[start : start + 101])
        self.assertEqual(len(self.wire.take()), 20 * 10)

    def test_end_of_tls(self) -> None:
        """What comes with the end of TLS still goes to the service, and then it is the end."""
        self.open()
        last = self.browser.encrypted(frame(b"last words"))
        self.browser.feed_raw(last + self.browser.end())
        self.assertEqual(self.wire.take(), b"last words")
        self.assertTrue(self.browser.disconnecting)

    def test_broken_tls(self) -> None:
        """A record that cannot be decrypted ends the connection, and nothing of it gets on."""
        self.open()
        good = self.browser.encrypted(frame(b"good"))
        self.browser.feed_raw(good + b"\x17\x03\x03\x00\x20" + bytes(32))
        self.assertEqual(self.wire.take(), b"good")
        self.assertTrue(self.browser.disconnecting)

    def test_twisted_in_charge(self) -> None:
        """Where Twisted writes, as TLS must read first, it reads as well."""
        self.open()
        self.tunnel._relay._outlet.usual = True
        self.browser.feed(frame(b"up"))
        self.wire.feed(b"down")
        self.assertEqual(self.wire.take(), b"up")
        self.assertEqual(heard(self.browser.take())[0], b"down")

    def test_join_with_data(self) -> None:
        """What Twisted decrypts besides a read of the relay goes the same way."""
        self.open()
        self.tunnel.dataReceived(frame(b"besides"))
        self.assertEqual(self.wire.take(), b"besides")

    def test_chosen_at_the_join(self) -> None:
        """TLS over anything but a socket is relayed through its transport."""
        self.open()
        self.assertIs(socket_below(self.browser.secure), self.browser)
