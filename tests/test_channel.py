"""A connection of the HTTP port is bounded in size and in time, and logged."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock
from twisted.logger import LogEvent, capturedLogs
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tests.fakes import make_desk, make_doorkeeper
from tests.wires import DONE, Reply, SocketWire, Wire, ask, ask_raw
from wsserver import drain, stall
from wsserver.api import Api
from wsserver.channel import HTTPSite
from wsserver.logs import redact
from wsserver.peer import Peer
from wsserver.site import Root


def make_site(**options: Any) -> HTTPSite:
    """Return a site with the REST interface alone."""
    desk = make_desk(Clock())
    api = Api(desk, make_doorkeeper(desk), lambda: None, lambda *_: b"")
    return HTTPSite(Root(api.app.resource(), Resource()), **options)


class SizeTests(TestCase):
    async def test_large_head(self) -> None:
        """A head that is too large is refused in words, however it is too large."""
        for head, status in (
            (b"GET /" + b"x" * 20_000, 431),
            (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * (1 << 20), 431),
            (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000, 400),
            (b"GET / HTTP/1.1\r\n" + b"X: " + b"y" * 9000 + b"\r\nY: " + b"y" * 9000, 400),
            (b"nonsense", 400),
            (b"GET / HTTP/1.1\r\nHost: x\r\n Transfer-Encoding: chunked", 400),
            (b"GET / HTTP/1.1\r\nHost: x\r\nX:\r\n\ty", 400),
        ):
            reply = await ask_raw(make_site(headers=[("X-One", "1")]), head + b"\r\n\r\n")
            self.assertEqual((reply.code, reply.headers["X-One"]), (status, "1"))
            self.assertEqual(reply.headers["Connection"], "close")


class LogTests(TestCase):
    async def test_access_log(self) -> None:
        """A request is one line, without tokens and without what breaks lines."""
        with capturedLogs() as events:
            await ask(make_site(), "/v1/status?security_token=canary1&token=canary2%0a")
        (line,) = [self.line(e) for e in events if e["log_namespace"] == "wsserver.access"]
        self.assertEqual(
            redact(line), "127.0.0.1 GET /v1/status?security_token=***&token=*** 200 "
            + line.rpartition(" ")[2]
        )  # fmt: skip

    async def test_refused_unread(self) -> None:
        """What is no request, or too large for one, is a line as well."""
        raw = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n"
        for said, status in ((b"nonsense\r\n\r\n", 400), (raw, 413)):
            with capturedLogs() as events:
                await ask_raw(make_site(), said)
            (line,) = [self.line(e) for e in events if e["log_namespace"] == "wsserver.access"]
            self.assertEqual(line, f"127.0.0.1 - - {status} 0")

    def line(self, event: LogEvent) -> str:
        return str(event["log_format"]).format(**event)


class Never(Resource):
    """Answers whenever the test wants it to."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def render(self, request: Any) -> int:
        self.requests.append(request)
        return NOT_DONE_YET


class ConnectionCase(TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.never = Never()
        self.acknowledged = 0
        for room in (stall, drain):
            self.patch(room, "peer_of", lambda transport: Peer(0, self.acknowledged, 0))

    def connect(self, wire: Any = None, **options: Any) -> None:
        root = Root(Resource(), self.never)
        self.site = HTTPSite(root, reactor=self.clock, **options)
        self.dial(wire)

    def dial(self, wire: Any = None) -> Any:
        self.channel = self.site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 5000))
        self.wire = wire or Wire(80, 5000)
        self.channel.makeConnection(self.wire)
        self.addCleanup(self.channel.connectionLost, DONE)
        return self.channel

    def send(self, data: bytes) -> None:
        self.channel.dataReceived(data)

    def get(self, path: str = "/none", **headers: str) -> None:
        lines = "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in headers.items())
        self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())


class TimeTests(ConnectionCase):
    """Requests that trickle in, and answers that nobody takes."""

    def trickle(self, seconds: int, data: bytes = b"X-A: b\r\n") -> None:
        for _ in range(seconds):
            self.send(data)
            self.clock.advance(1.0)

    def test_head(self) -> None:
        """A head that is not complete in time is given up, though bytes still come."""
        self.connect()
        self.send(b"GET / HTTP/1.1\r\n")
        self.trickle(9)
        self.assertFalse(self.wire.disconnecting)
        self.trickle(1)
        self.assertTrue(self.wire.aborted)

    def test_body(self) -> None:
        """So is a body, which has a time of its own."""
        self.connect()
        self.send(b"POST / HTTP/1.1\r\nHost: x\r\n")
        self.clock.advance(9.0)
        self.send(b"Content-Length: 99\r\n\r\n")
        self.trickle(29, b"x")
        self.assertFalse(self.wire.disconnecting)
        self.trickle(1, b"x")
        self.assertTrue(self.wire.aborted)

    def test_silence(self) -> None:
        """A connection without any request is closed."""
        self.connect()
        self.clock.advance(10.0)
        self.assertTrue(self.wire.aborted)

    def test_late_reactor(self) -> None:
        """What arrived while the reactor was late is heard before time is up."""
        for raw in (b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\n"
                    b"Content-Length: 3\r\n\r\n"):  # fmt: skip
            self.connect()
            # The turn of the reactor in which it is read comes after the timers.
            self.clock.callLater(10.0, self.send, raw)
            self.clock.advance(10.0)
            self.assertFalse(self.wire.disconnecting)

    def test_answer(self) -> None:
        """An answer may take any time, and buys the next request as much as the first had."""
        self.connect()
        self.clock.advance(9.0)
        self.get()
        self.assertEqual(Reply(self.wire.take()).code, 404)
        self.clock.advance(9.0)
        self.assertFalse(self.wire.disconnecting)
        self.clock.advance(1.0)
        self.assertTrue(self.wire.disconnecting)
        self.assertFalse(self.wire.aborted)

    def test_close(self) -> None:
        """A close that never ends is cut, once nothing has moved for its time."""
        self.connect()
        self.get(Connection="close")
        self.assertTrue(self.wire.disconnecting)
        for _ in range(5):
            self.acknowledged += 1
            self.clock.advance(10.0)
        self.assertFalse(self.wire.aborted)
        self.clock.advance(10.0)
        self.assertTrue(self.wire.aborted)

    def test_stall(self) -> None:
        """A client that takes its answer slowly has it; one that takes nothing is cut off."""
        wire = SocketWire()
        self.addCleanup(wire.close)
        self.connect(wire)
        self.get("/wsserver/events/TOKEN")
        self.clock.pump([60.0] * 10)
        self.assertFalse(wire.aborted)
        self.never.requests[0].write(b"x" * (4 << 20))
        wire.flush()
        for _ in range(20):
            self.acknowledged += 1
            self.clock.advance(60.0)
        self.assertFalse(wire.aborted)
        self.clock.pump([30.0] * 10)
        self.assertTrue(wire.aborted)

    def test_answered_in_time(self) -> None:
        """After the answer nobody watches any more."""
        self.connect()
        self.get("/wsserver/events/TOKEN", Connection="close")
        self.never.requests[0].finish()
        self.channel.connectionLost(DONE)
        self.assertEqual(self.clock.getDelayedCalls(), [])
