"""The websocket door, in memory: no socket, no thread, no real time."""

from __future__ import annotations

import struct
from typing import Any

import txaio
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import Slow, make_desk, make_doorkeeper
from tests.wires import DONE, FakeSession, Plug, SocketWire, Wire, close, frame, frames, request
from wsserver import connect, keepalive
from wsserver.access import Caller
from wsserver.admission import Admission
from wsserver.config import Deadlines
from wsserver.errors import (
    AtCapacity,
    NoSuchToken,
    Released,
    ServiceFailed,
    ShuttingDown,
    StartTimeout,
    TokenInUse,
    WSServerError,
)
from wsserver.forwarded import Proxies
from wsserver.handshake import HEAD_BYTES
from wsserver.hosts import Hosts
from wsserver.identity import Credentials
from wsserver.keepalive import UNANSWERED
from wsserver.origins import Origins
from wsserver.peer import Peer
from wsserver.relay import DirectRelay
from wsserver.tunnel import EARLY_BYTES, SESSION_FILES, Tunnel, TunnelFactory

LIMITS = Deadlines()


class TunnelCase(SynchronousTestCase):
    """A factory whose sessions and connections obey."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.patch(txaio.config, "loop", self.clock)
        self.plug = Plug(self.wired)
        self.patch(connect, "endpoint", self.plug)
        self.session = FakeSession()
        self.refusal: WSServerError | None = None
        self.joins: list[str] = []
        self.factory = self.make()

    def wired(self, here: int, there: int) -> Any:
        """Return a transport in memory."""
        return Wire(here, there)

    def browser_sends(self, data: bytes) -> None:
        self.tunnel.dataReceived(data)

    def service_sends(self, data: bytes) -> None:
        self.service.dataReceived(data)

    def make(self, **options: Any) -> TunnelFactory:
        return TunnelFactory(self.clock, self.join, **options)

    def join(self, token: str, seat: Tunnel) -> FakeSession:
        self.joins.append(token)
        if self.refusal is not None:
            raise self.refusal
        return self.session

    def dial(self, head: bytes) -> None:
        """A browser connects and sends its request."""
        self.tunnel = self.factory.buildProtocol(None)
        self.browser = self.wired(1, 2)
        self.browser.protocol = self.tunnel
        self.tunnel.makeConnection(self.browser)
        self.browser_sends(head)

    def upgrade(self, query: str = "?token=T", **headers: str) -> str:
        """The same, and the handshake succeeds; return the answer's head."""
        self.dial(request(query, **headers))
        answer = self.browser.take().decode()
        self.assertTrue(answer.startswith("HTTP/1.1 101 "), answer)
        return answer

    def open(self) -> None:
        """A tunnel that is joined to its service."""
        self.upgrade()
        self.session.start()
        self.service, self.wire = self.plug.succeed()

    def refused(self, query: str) -> tuple[int, str]:
        self.dial(request(query))
        answer = self.browser.take().decode()
        self.assertTrue(self.browser.disconnecting)
        return int(answer.split()[1]), answer

    def sent(self) -> list[tuple[int, bytes]]:
        return frames(self.browser.take())

    def closed(self) -> tuple[int, str]:
        """Return code and reason of the close frame, which is the last that was sent."""
        opcode, payload = self.sent()[-1]
        self.assertEqual(opcode, 8)
        return struct.unpack(">H", payload[:2])[0], payload[2:].decode()

    def hang_up(self, reason: Failure = DONE) -> None:
        self.browser.connected = False
        self.tunnel.connectionLost(reason)


class HandshakeTests(TunnelCase):
    def test_refusals(self) -> None:
        """Each failure of a claim is a plain HTTP status with readable words."""
        for error, status in (
            (NoSuchToken(), 404),
            (TokenInUse(), 409),
            (ShuttingDown(), 503),
            (AtCapacity("all in use", 7), 503),
        ):
            self.refusal = error
            got, answer = self.refused("?token=T")
            self.assertEqual(got, status)
            self.assertIn(str(error), answer)
            body = answer.partition("\r\n\r\n")[2]
            self.assertIn(f"Content-Length: {len(body)}\r\n", answer)
            self.assertIn("Connection: close\r\n", answer)
            self.assertEqual("Retry-After" in answer, error.retry_after is not None)
            self.hang_up()
        self.assertEqual(self.session.left, 0)

    def test_foreign_pages(self) -> None:
        """A page of another host is refused before anything else, whatever its token."""
        for token in ("?token=T", ""):
            self.dial(request(token, Origin="http://evil.example"))
            answer = self.browser.take().decode()
            self.assertIn("HTTP/1.1 403 ", answer)
            self.assertIn("allowed_origins", answer)
        twice = request("?token=T", Origin="http://localhost\r\nOrigin: http://localhost")
        for head in (twice, request("?token=T", Origin="null"), request("?token=T", Origin="")):
            self.dial(head)
            self.assertRegex(self.browser.take().decode(), "^HTTP/1.1 40[03] ")
        self.assertEqual(self.joins, [])

    def test_pages_of_our_own(self) -> None:
        """A page of this host, or of a listed origin, may connect."""
        self.upgrade(Origin="https://LOCALHOST:8443")
        self.factory = self.make(origins=Origins(["https://app.example"]))
        self.upgrade(Origin="https://app.example")

    def test_host(self) -> None:
        """A name that is not ours is refused before anything is claimed, also without a token."""
        self.factory = self.make(hosts=Hosts(["desks.example"]), basic=("127.0.0.1", 1))
        for query in ("?token=T", ""):
            self.dial(request(query, Host="evil.example", Origin="http://evil.example"))
            answer = self.browser.take().decode()
            self.assertIn("HTTP/1.1 421 ", answer)
            self.assertIn("allowed_hosts", answer)
        self.assertEqual((self.joins, len(self.factory.tunnels)), ([], 0))
        for host in ("desks.example", "localhost:9", "127.0.0.1"):
            self.upgrade(Host=host)

    def test_host_behind_a_proxy(self) -> None:
        """A listed proxy tells what was asked for; where it does not, it answers for that."""
        named = {"Host": "inner", "X_Forwarded_Host": "desks.example"}
        self.factory = self.make(hosts=Hosts(["desks.example"]))
        self.dial(request("?token=T", **named))
        self.assertIn(b"HTTP/1.1 421 ", self.browser.take())
        self.factory = self.make(hosts=Hosts(["desks.example"]), proxies=Proxies(["127.0.0.1"]))
        self.upgrade(**named)
        self.upgrade(Host="inner")
        self.dial(request("?token=T", Host="inner", X_Forwarded_Host="evil.example"))
        self.assertIn(b"HTTP/1.1 421 ", self.browser.take())

    def test_page_behind_a_proxy(self) -> None:
        """The host that the browser asked for is told by a listed proxy, not by just anybody."""
        fields = {"Origin": "https://site.example", "X_Forwarded_Host": "site.example"}
        self.dial(request("?token=T", **fields))
        self.assertIn(b"HTTP/1.1 403 ", self.browser.take())
        self.factory = self.make(proxies=Proxies(["127.0.0.1"]))
        self.upgrade(**fields)
        self.dial(request("?token=T", Origin="http://localhost", X_Forwarded_Host="site.example"))
        self.assertIn(b"HTTP/1.1 403 ", self.browser.take())

    def test_client(self) -> None:
        """Who uses a session is told by a listed proxy, and by nobody else."""
        self.upgrade(X_Forwarded_For="203.0.113.7")
        self.assertEqual(self.tunnel.client, "127.0.0.1")
        self.factory = self.make(proxies=Proxies(["127.0.0.1"]))
        self.upgrade(X_Forwarded_For="198.51.100.1, 203.0.113.7")
        self.assertEqual(self.tunnel.client, "203.0.113.7")

    def test_access_log(self) -> None:
        """Each handshake is a line like that of any request, accepted or not."""
        with capturedLogs() as events:
            self.upgrade("?token=T&x=%0a\x1b[2J")
            self.refusal = NoSuchToken()
            self.dial(request("?token=U"))
            self.dial(b"nonsense\r\n\r\n")
        lines = [formatEvent(e) for e in events if e["log_namespace"] == "wsserver.access"]
        self.assertEqual(
            lines,
            [
                "127.0.0.1 GET /websockify?token=T&x=%0a\\x1b[2J 101 0",
                "127.0.0.1 GET /websockify?token=U 404 25",
                lines[2],
            ],
        )
        self.assertRegex(str(lines[2]), r"^127\.0\.0\.1 GET - 400 \d+$")

    def test_too_many_of_a_proxy(self) -> None:
        """Behind a listed proxy each client has its number of websockets, until they are lost."""
        admission = Admission(1)
        self.factory = self.make(proxies=Proxies(["127.0.0.1"]), admission=admission)
        self.upgrade(X_Forwarded_For="203.0.113.7")
        first = self.tunnel
        self.dial(request("?token=T", X_Forwarded_For="203.0.113.7"))
        answer = self.browser.take().decode()
        self.assertRegex(answer, "^HTTP/1.1 429 ")
        self.assertIn("Retry-After: 10\r\n", answer)
        self.assertEqual(self.joins, ["T"])
        self.hang_up()
        self.upgrade(X_Forwarded_For="203.0.113.8")
        self.hang_up()
        first.connectionLost(DONE)
        self.assertEqual(admission.visits(), 0)

    def test_no_room(self) -> None:
        """Where open files get scarce, those of sessions that are to begin count as well."""
        used = 0.79
        admission = Admission(0, lambda more: used + more / (200 * SESSION_FILES))
        self.factory = self.make(admission=admission)
        self.upgrade()
        self.assertEqual(self.refused("?token=T")[0], 503)
        self.assertEqual(self.joins, ["T"])
        self.session.start()
        self.tunnel = next(iter(self.factory.tunnels))
        self.plug.succeed()
        self.upgrade()

    def test_refusal_that_nobody_takes(self) -> None:
        """A refused client that does not close, or read, is cut off in time."""
        self.assertEqual(self.refused("")[0], 400)
        self.clock.advance(9.9)
        self.assertFalse(self.browser.aborted)
        self.clock.advance(0.2)
        self.assertTrue(self.browser.aborted)
        self.hang_up()
        self.refused("")
        self.hang_up()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_late_reactor(self) -> None:
        """A request that arrived while the reactor was late is heard before time is up."""
        self.dial(b"")
        self.tunnel.onOpenHandshakeTimeout()
        self.browser_sends(request("?token=T"))
        self.clock.advance(0)
        self.assertFalse(self.browser.disconnecting)
        self.dial(b"")
        self.tunnel.onOpenHandshakeTimeout()
        self.clock.advance(0)
        self.assertTrue(self.browser.aborted)

    def test_no_echo(self) -> None:
        """A refusal that quotes the request leaves its token out; no client is told of 5xx."""
        self.dial(request("?a token=canary"))
        self.assertNotIn(b"canary", self.browser.take())
        self.dial(request("?token=T").replace(b"HTTP/1.1", b"HTTP/1.0"))
        self.assertIn(b"HTTP/1.1 400 ", self.browser.take())

    def test_no_token(self) -> None:
        """Without a token and without a fixed host there is nowhere to go."""
        self.assertEqual(self.refused("")[0], 400)
        self.assertEqual(self.refused("?session_name=x")[0], 400)
        self.assertEqual(self.joins, [])

    def test_empty_token_is_a_token(self) -> None:
        """An empty token is unknown, and never means the fixed host."""
        self.factory = self.make(basic=("127.0.0.1", 1))
        self.refusal = NoSuchToken()
        self.assertEqual(self.refused("?token=")[0], 404)
        self.assertEqual(self.joins, [""])

    def test_token_twice(self) -> None:
        """Two tokens are a mistake."""
        self.assertEqual(self.refused("?token=a&token=b")[0], 400)

    def test_query_beyond_reason(self) -> None:
        """Bytes that are no UTF-8, or far too many fields, are refused."""
        self.assertEqual(self.refused("?token=%ff")[0], 400)
        self.assertEqual(self.refused("?" + "a=1&" * 1001 + "token=T")[0], 400)

    def test_refusal_of_a_long_request(self) -> None:
        """A refusal that quotes the request is short, however long the request."""
        status, answer = self.refused("#" + "?%" * 7000)
        self.assertEqual(status, 400)
        self.assertLess(len(answer), 5000)

    def test_added_headers(self) -> None:
        """The headers of --add_header stand on refusals, too."""
        self.factory = self.make(http_headers=[("X-One", "1")])
        self.assertIn("X-One: 1\r\n", self.refused("")[1])

    def test_subprotocol(self) -> None:
        """ "binary" is echoed where it is offered, and nothing else ever."""
        for offered, expected in (("binary", True), ("x, binary", True), ("x", False)):
            answer = self.upgrade(Sec_WebSocket_Protocol=offered)
            self.assertEqual("Sec-WebSocket-Protocol: binary\r\n" in answer, expected)
        self.assertNotIn("Sec-WebSocket-Protocol", self.upgrade())

    def test_any_path(self) -> None:
        """Only the token counts, not the path; other fields are tolerated."""
        self.dial(request("?instance_name=x&token=T", path="/some/where"))
        self.assertEqual(self.joins, ["T"])

    def test_large_head(self) -> None:
        """A request head has a limit, whether it comes at once or in pieces."""
        for size in (HEAD_BYTES, 10 * HEAD_BYTES):
            self.dial(request("?token=T", X_Long="x" * size))
            self.assertIn(b" 431 ", self.browser.take())
        self.dial(b"GET / HTTP/1.1\r\n")
        for _ in range(20):
            self.browser_sends(b"X-A: " + b"a" * 1000 + b"\r\n")
        self.assertIn(b" 431 ", self.browser.take())
        self.assertEqual(self.joins, [])

    def test_other_http(self) -> None:
        """What is no GET of HTTP/1.1 is the client's mistake."""
        whole = request("?token=T")
        lines = [b"GET / HTTP/1.0", b"GET / HTTP/2.0", b"POST / HTTP/1.1", b"GET /"]
        lines += [
            b"GET\xa0/ HTTP/1.1",
            b"GET  / HTTP/1.1",
            b"GET /\x1c HTTP/1.1",
            b" GET / HTTP/1.1",
        ]
        for line in lines:
            self.dial(line + whole[whole.index(b"\r\n") :])
            self.assertRegex(self.browser.take(), b"^HTTP/1.1 4")
        self.assertEqual(self.joins, [])

    def test_slow_head(self) -> None:
        """A request head must be complete within HEAD_TIMEOUT."""
        self.dial(request()[:20])
        self.clock.advance(int(LIMITS.head_timeout) + 6)
        self.assertTrue(self.browser.aborted)

    def test_one_service_for_a_socket(self) -> None:
        """A second request on the same socket starts no second service."""
        self.dial(request("?token=a") + request("?token=b"))
        self.assertEqual(self.joins, ["a"])

    def test_in_pieces(self) -> None:
        """A request head may come byte by byte."""
        head = request("?token=T")
        self.dial(head[:1])
        for number in range(1, len(head)):
            self.browser_sends(head[number : number + 1])
        self.assertIn(b" 101 ", self.browser.take())
        self.assertEqual(self.joins, ["T"])

    def test_bug_in_the_claim(self) -> None:
        """A bug of ours is logged, and told without details."""
        self.refusal = ZeroDivisionError("canary")  # type: ignore[assignment]
        status, answer = self.refused("?token=T")
        self.assertEqual(status, 500)
        self.assertNotIn("canary", answer)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_no_header_from_outside(self) -> None:
        """Nothing that a client sends breaks a line of a refusal."""
        self.refusal = ServiceFailed("a\r\nSet-Cookie: b")
        head = self.refused("?token=T")[1].partition("\r\n\r\n")[0]
        self.assertNotIn("\r\nSet-Cookie", head)
        self.assertIn(" 500 a  Set-Cookie: b\r\n", head)

    def test_not_a_websocket(self) -> None:
        """Other versions, a key that is missing, and noise are refused before the claim."""
        for head in (
            request("?token=T", Sec_WebSocket_Version="8"),
            request("?token=T").replace(b"Sec-WebSocket-Key", b"X-Key"),
            request("?token=T").replace(b"GET", b"POST"),
            b"\x16\x03\x01\x02\x00\r\n\r\n",
        ):
            self.dial(head)
            self.assertRegex(self.browser.take(), rb"^HTTP/1\.1 4\d\d ")
            self.assertTrue(self.browser.disconnecting)
        self.assertEqual(self.joins, [])

    def test_plain_request(self) -> None:
        """A request without upgrade is told so, and redirected nowhere."""
        self.dial(b"GET /?redirect=http://evil.example/ HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertIn(b" 426 ", self.browser.take())


class OpenTests(TunnelCase):
    def test_first_bytes_wait(self) -> None:
        """What a client sends before its service listens arrives, in order."""
        self.dial(request("?token=T") + frame(b"one"))
        self.browser_sends(frame(b"two"))
        self.session.start()
        _, wire = self.plug.succeed()
        self.browser_sends(frame(b"three"))
        self.assertEqual(wire.take(), b"onetwothree")
        self.assertEqual(self.session.joined, 1)

    def test_too_much_too_early(self) -> None:
        """No more than EARLY_BYTES are kept."""
        self.upgrade()
        self.browser_sends(frame(b"x" * EARLY_BYTES))
        self.assertEqual(self.sent(), [])
        self.browser_sends(frame(b"x"))
        self.assertEqual(self.closed()[0], 4413)
        self.assertEqual(self.session.left, 1)

    def test_named_socket(self) -> None:
        """&socket=NAME picks a socket; without it the first counts."""
        for query, port in (("", 1), ("&socket=sound", 2)):
            self.upgrade("?token=T" + query)
            self.session.start(screen=("h", 1), sound=("h", 2))
            self.assertEqual(self.plug.attempts[-1][:2], ("h", port))

    def test_unknown_socket(self) -> None:
        """A socket that the service does not have is the client's mistake."""
        self.upgrade("?token=T&socket=nose")
        self.session.start()
        self.assertEqual(self.closed(), (4400, "the service has no socket 'nose'"))

    def test_failures_of_the_start(self) -> None:
        """The client gets the close code and the words of the failure."""
        for error, code in ((ServiceFailed("no licence"), 4500), (StartTimeout("late"), 4504)):
            self.upgrade()
            self.session.fail(error)
            self.assertEqual(self.closed(), (code, str(error)))

    def test_bug(self) -> None:
        """A bug of ours is logged, and told without details."""
        self.upgrade()
        self.session.wanted.pop().errback(ZeroDivisionError("secret"))
        self.assertEqual(self.closed(), (4500, "internal error"))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_nobody_listens(self) -> None:
        """Where nobody listens within connect_timeout the client is told."""
        self.upgrade()
        self.session.start()
        self.plug.refuse(ConnectionRefusedError())
        while self.clock.seconds() < self.session.connect_timeout:
            self.clock.advance(0.3)
            if self.plug._waiting:
                self.plug.refuse(ConnectionRefusedError())
        self.assertEqual(self.closed(), (4502, "the service does not answer"))
        self.assertEqual(self.session.failures, ["the service does not answer"])
        self.assertEqual(self.session.left, 1)

    def test_basic_mode(self) -> None:
        """Without a token the tunnel goes to the fixed host."""
        self.factory = self.make(basic=("vnc", 5901))
        self.upgrade("")
        self.assertEqual(self.plug.attempts, [("vnc", 5901, LIMITS.connect_timeout)])
        _, wire = self.plug.succeed()
        self.browser_sends(frame(b"up"))
        self.assertEqual(wire.take(), b"up")
        self.hang_up()
        self.assertTrue(wire.disconnecting)

    def test_met_itself(self) -> None:
        """A connection that met itself does not end the tunnel: the next attempt counts."""
        self.upgrade()
        self.session.start()
        protocol, own = self.plug.succeed(self.wired(7, 7))
        self.assertTrue(own.aborted)
        protocol.connectionLost(Failure(ConnectionLost()))
        self.assertEqual((self.sent(), self.session.left), ([], 0))
        self.clock.advance(0.1)
        self.plug.succeed()
        self.assertEqual(self.session.joined, 1)

    def test_hang_up_while_starting(self) -> None:
        """Hanging up reaches the start, and the seat is given up."""
        self.upgrade()
        self.hang_up()
        self.assertEqual((self.session.cancelled, self.session.left), (1, 1))
        self.assertEqual(self.factory.tunnels, set())

    def test_hang_up_while_connecting(self) -> None:
        """Hanging up reaches the connection attempt, and no other follows."""
        self.upgrade()
        self.session.start()
        self.hang_up()
        self.clock.advance(1)
        self.assertEqual((self.plug.cancelled, self.session.left), (1, 1))
        self.assertEqual(len(self.plug.attempts), 1)

    def test_open_after_close(self) -> None:
        """A tunnel that has ended is not opened any more, and goes nowhere."""
        self.upgrade()
        self.hang_up()
        self.tunnel.onOpen()
        self.assertEqual(self.plug.attempts, [])
        self.assertEqual(len(self.session.wanted), 1)

    def test_close_while_starting(self) -> None:
        """A close frame is as good as hanging up."""
        self.upgrade()
        self.browser_sends(close())
        self.assertEqual(self.closed()[0], 1000)
        self.assertEqual((self.session.cancelled, self.session.left), (1, 1))


class BytesTests(TunnelCase):
    def test_both_ways(self) -> None:
        """Bytes go both ways, in order and unchanged."""
        self.open()
        self.browser_sends(frame(b"up") + frame(b"x" * 70_000))
        self.assertEqual(self.wire.take(), b"up" + b"x" * 70_000)
        self.service_sends(b"down")
        self.service_sends(b"y" * 70_000)
        self.assertEqual(self.sent(), [(2, b"down"), (2, b"y" * 70_000)])
        self.assertEqual(self.session.touched, 3)

    def test_byte_by_byte(self) -> None:
        """Frames may arrive in any pieces, and messages in any fragments."""
        self.open()
        stream = frame(b"abc", fin=False) + frame(b"ping", opcode=9) + frame(b"def", opcode=0)
        for number in range(len(stream)):
            self.browser_sends(stream[number : number + 1])
        self.assertEqual(self.wire.take(), b"abcdef")
        self.assertEqual(self.sent(), [(10, b"ping")])

    def test_text(self) -> None:
        """Text is no byte stream."""
        self.open()
        self.browser_sends(frame(b"text", opcode=1) + frame(b"more"))
        self.assertEqual(self.closed()[0], 1003)
        self.assertEqual(self.wire.take(), b"")
        self.assertTrue(self.wire.disconnecting)

    def test_large_message(self) -> None:
        """A message above the limit is refused before its bytes come."""
        self.factory = self.make(max_message_size=1000)
        self.open()
        self.browser_sends(frame(b"x" * 1001))
        self.assertEqual(self.closed()[0], 1009)
        self.open()
        self.browser_sends(frame(b"x" * 1000))
        self.assertEqual(self.wire.take(), b"x" * 1000)

    def test_large_in_fragments(self) -> None:
        """Fragments count together: a message cannot grow past the limit by pieces."""
        self.factory = self.make(max_message_size=1000)
        self.open()
        self.browser_sends(frame(b"x" * 600, fin=False) + frame(b"y" * 600, opcode=0))
        self.assertEqual(self.closed()[0], 1009)
        self.assertEqual(self.wire.take(), b"x" * 600)

    def test_against_the_protocol(self) -> None:
        """Frames without mask, or with reserved bits, are refused and go nowhere."""
        for wrong in (b"\x82\x02ab", b"\xf2\x82\0\0\0\0ab", b"\x83\x80\0\0\0\0"):
            self.open()
            self.browser_sends(wrong)
            self.assertEqual(self.closed()[0], 1002)
            self.assertEqual(self.wire.take(), b"")
            self.assertTrue(self.wire.disconnecting)

    def test_empty_message(self) -> None:
        """A message without bytes is no end of anything."""
        self.open()
        self.browser_sends(frame(b"") + frame(b"x"))
        self.assertEqual((self.wire.take(), self.sent()), (b"x", []))

    def test_flow_control_of_transports(self) -> None:
        """Each side that is slow pauses the other one."""
        self.open()
        self.assertFalse(self.wire.paused)
        self.browser.producer.pauseProducing()
        self.assertTrue(self.wire.paused)
        self.browser.producer.resumeProducing()
        self.assertFalse(self.wire.paused)
        self.wire.producer.pauseProducing()
        self.assertTrue(self.browser.paused)
        self.wire.producer.resumeProducing()
        self.assertFalse(self.browser.paused)

    def test_nothing_is_read_before_the_join(self) -> None:
        """A service that speaks first is not heard before the browser can be told."""
        self.upgrade()
        self.session.start()
        factory, _ = self.plug._waiting[0]
        protocol, wire = factory.buildProtocol(None), self.wired(1, 2)
        protocol.makeConnection(wire)
        self.assertTrue(wire.paused)

    def test_ping(self) -> None:
        """A quiet client is pinged, so that no proxy drops the tunnel."""
        self.open()
        self.clock.pump([1.0] * (int(LIMITS.ping_interval) + 2))
        self.assertEqual([opcode for opcode, _ in self.sent()], [9])

    def test_vanished(self) -> None:
        """A client whose host answers nothing is dropped, which ends the tunnel."""
        self.open()
        self.patch(keepalive, "peer_of", lambda transport: Peer(UNANSWERED, 1, 1))
        self.clock.advance(LIMITS.ping_interval)
        self.clock.advance(LIMITS.ping_timeout)
        self.assertTrue(self.browser.aborted)
        self.hang_up()
        self.assertTrue(self.wire.disconnecting)
        self.service.connectionLost(DONE)
        self.assertEqual((self.session.left, self.clock.getDelayedCalls()), (1, []))


class EndTests(TunnelCase):
    def test_service_ends(self) -> None:
        """The end of the service is an orderly end, after all that it has sent."""
        self.open()
        self.service_sends(b"last words")
        self.service.readConnectionLost()
        (words, (opcode, reason)) = self.sent()
        self.assertEqual((words, opcode), ((2, b"last words"), 8))
        self.assertEqual(reason, struct.pack(">H", 1000) + b"the service has ended")
        # What the browser had sent before it knew still goes to the service.
        self.browser_sends(frame(b"under way") + close())
        self.assertEqual(self.wire.take(), b"under way")
        self.assertTrue(self.browser.disconnecting)
        self.assertFalse(self.browser.aborted)
        self.hang_up()
        self.assertTrue(self.wire.disconnecting)
        self.assertEqual(self.session.left, 0)
        self.service.connectionLost(DONE)
        self.assertEqual((self.session.left, self.session.failures), (1, []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_service_ends_unanswered(self) -> None:
        """A browser that does not answer the end keeps neither service nor connection."""
        self.open()
        self.service.readConnectionLost()
        self.assertFalse(self.wire.disconnecting)
        self.clock.advance(LIMITS.close_timeout)
        self.assertTrue(self.wire.disconnecting)
        self.service.connectionLost(DONE)
        self.assertEqual(self.session.left, 1)
        self.clock.advance(LIMITS.close_timeout)
        self.assertTrue(self.browser.disconnecting)
        self.clock.advance(LIMITS.close_timeout)
        self.assertTrue(self.browser.aborted)

    def test_service_ends_and_breaks(self) -> None:
        """A service that ends and then refuses what is still sent has ended all the same."""
        self.open()
        self.service.readConnectionLost()
        self.service.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.closed()[0], 1000)
        self.assertEqual((self.session.failures, self.session.left), ([], 1))

    def test_service_closes(self) -> None:
        """A service that closes both ways at once ends in good order, too."""
        self.open()
        self.browser.pauseProducing()
        self.service.connectionLost(DONE)
        self.assertEqual(self.closed(), (1000, "the service has ended"))
        self.assertEqual((self.session.left, self.session.finishes), (1, 1))
        self.assertEqual(self.session.failures, [])
        # Or the answer to our close would never be read.
        self.assertFalse(self.browser.paused)

    def test_service_breaks(self) -> None:
        """A connection that breaks is no orderly end."""
        self.open()
        self.service_sends(b"half a")
        self.service.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.closed(), (4502, "the service broke the connection"))
        self.assertEqual(self.session.failures, ["the service broke the connection"])
        self.assertEqual((self.session.left, self.session.finishes), (1, 0))

    def test_service_that_never_ends(self) -> None:
        """A service that takes nothing more is cut off in the end."""
        self.open()
        self.hang_up()
        self.assertTrue(self.wire.disconnecting)
        self.assertFalse(self.wire.aborted)
        self.clock.advance(LIMITS.close_timeout)
        self.assertTrue(self.wire.aborted)
        self.service.connectionLost(Failure(ConnectionLost()))
        self.assertEqual(self.session.left, 1)

    def test_browser_closes(self) -> None:
        """A browser that closes is answered; what it sent still reaches the service."""
        self.open()
        self.browser_sends(frame(b"bye") + close(1000))
        self.assertEqual(self.wire.take(), b"bye")
        self.assertTrue(self.wire.disconnecting)
        self.assertEqual(self.closed()[0], 1000)
        self.service.connectionLost(DONE)
        self.assertEqual(self.session.left, 1)
        self.hang_up()
        self.assertEqual(self.session.left, 1)

    def test_dismissed(self) -> None:
        """Whoever ends a session gives the code and the words."""
        for error, code in ((Released("released"), 1000), (ShuttingDown(), 1001)):
            self.open()
            self.tunnel.dismiss(error)
            self.assertEqual(self.closed(), (code, str(error)))
            self.tunnel.dismiss(error)
            self.assertEqual(self.sent(), [])

    def test_hang_up_twice(self) -> None:
        """A browser that goes while its close is under way leaves once, and no timer."""
        self.open()
        self.tunnel.dismiss(Released("released"))
        self.hang_up()
        self.service.connectionLost(DONE)
        self.assertEqual(self.session.left, 1)
        self.assertEqual((self.factory.tunnels, self.clock.getDelayedCalls()), (set(), []))

    def test_closed_twice(self) -> None:
        """A second close of ours, by Autobahn, neither says more nor waits longer."""
        self.open()
        self.tunnel.dismiss(Released("released"))
        self.clock.advance(LIMITS.close_timeout - 1)
        self.tunnel.sendClose(1000)
        self.assertEqual(len(self.sent()), 1)
        self.clock.advance(1)
        self.assertTrue(self.browser.disconnecting)
        self.hang_up()
        self.service.connectionLost(DONE)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_bytes_after_the_close(self) -> None:
        """What a service sends after our close goes nowhere."""
        self.open()
        self.tunnel.dismiss(Released("released"))
        self.sent()
        self.service_sends(b"late")
        self.assertEqual(self.sent(), [])

    def test_data_after_the_close(self) -> None:
        """What a browser sends after our close goes nowhere."""
        self.open()
        self.tunnel.dismiss(Released("released"))
        self.browser_sends(frame(b"late"))
        self.assertEqual(self.wire.take(), b"")

    def test_long_reason(self) -> None:
        """A reason is cut to what a close frame can hold, between letters."""
        self.open()
        self.tunnel.dismiss(ServiceFailed("ä" * 100))
        self.assertEqual(self.closed(), (4500, "ä" * 61))

    def test_no_answer(self) -> None:
        """A browser that does not answer is closed after what is under way, then cut off."""
        self.open()
        self.tunnel.dismiss(Released("released"))
        self.clock.advance(LIMITS.close_timeout)
        self.assertTrue(self.browser.disconnecting)
        self.assertFalse(self.browser.aborted)
        self.assertIsNone(self.browser.producer)
        self.clock.advance(LIMITS.close_timeout)
        self.assertTrue(self.browser.aborted)

    def test_all_dismissed(self) -> None:
        """On shutdown every tunnel gets 1001, and nobody new comes in."""
        self.open()
        self.factory.dismiss_all(ShuttingDown())
        self.assertEqual(self.closed()[0], 1001)
        self.assertEqual(self.refused("?token=T")[0], 503)

    def test_transport_stops_producing(self) -> None:
        """A browser's transport that goes tells the service's side at once."""
        self.open()
        self.browser.producer.stopProducing()
        self.assertTrue(self.wire.disconnecting)
        self.service.writeConnectionLost()


class Direct:
    """The same from socket to socket."""

    def wired(self, here: int, there: int) -> Any:
        """Return a transport with a socket."""
        wire = SocketWire(here, there)
        self.addCleanup(wire.close)
        return wire

    def browser_sends(self, data: bytes) -> None:
        self.browser.feed(data)

    def service_sends(self, data: bytes) -> None:
        self.wire.feed(data)


class DirectHandshakeTests(Direct, HandshakeTests):
    """The handshake."""


class DirectOpenTests(Direct, OpenTests):
    """From the handshake to the joined tunnel."""


class DirectBytesTests(Direct, BytesTests):
    """Bytes."""

    def test_flow_control_of_transports(self) -> None:
        """The relay itself pauses who is too fast: see test_relay.py."""
        self.open()
        self.assertIsInstance(self.tunnel._relay, DirectRelay)
        self.assertEqual((self.wire.producer, self.browser.producer), (None, None))


class DirectEndTests(Direct, EndTests):
    """The end."""

    def test_transport_stops_producing(self) -> None:
        """Where there is no producer, the end of the browser is the end of the tunnel."""
        self.open()
        self.hang_up()
        self.assertTrue(self.wire.disconnecting)


class BoundTests(TunnelCase):
    """A token that is bound to its user."""

    def make(self, **options: Any) -> TunnelFactory:
        self.source = Slow()
        self.desk = make_desk(self.clock)
        keeper = make_doorkeeper(self.desk, self.source, bind_user=True)
        return super().make(doorkeeper=keeper, **options)

    def ask(self, user: str | None = "alice") -> None:
        """A browser asks for a bound token, and it is not known at once who that is."""
        self.token = self.desk.reserve("Demo", {}, user=user).token
        self.dial(request(f"?token={self.token}"))

    def test_own(self) -> None:
        """Its user is let in."""
        self.ask()
        self.assertEqual((self.browser.take(), self.joins), (b"", []))
        self.source.answer(Caller(user="alice"))
        self.assertTrue(self.browser.take().startswith(b"HTTP/1.1 101 "))
        self.assertEqual(self.joins, [self.token])
        self.assertEqual(self.factory.tunnels, {self.tunnel})

    def test_others(self) -> None:
        """To another user it is unknown, in the same words as a token that never was."""
        self.ask()
        self.source.answer(Caller(user="bob"))
        answer = self.browser.take()
        self.assertTrue(answer.startswith(b"HTTP/1.1 404 "), answer)
        self.dial(request("?token=never"))
        self.assertEqual(self.browser.take(), answer)
        self.assertEqual(self.joins, [])

    def test_nobody(self) -> None:
        """Who shows nothing is asked who they are, in a way that browsers understand."""
        self.ask()
        self.source.answer(None)
        answer = self.browser.take().decode()
        self.assertTrue(answer.startswith("HTTP/1.1 401 "), answer)
        self.assertIn("\r\nWWW-Authenticate: Test\r\n", answer)
        self.assertEqual(self.joins, [])

    def test_fixed_host(self) -> None:
        """Where users show who they are, they do so for the fixed host as well."""
        for caller, status in ((None, b"401"), (Caller(user="alice"), b"101")):
            self.factory = self.make(basic=("vnc", 5901))
            self.dial(request())
            self.assertEqual((self.browser.take(), self.factory.tunnels), (b"", set()))
            self.source.answer(caller)
            self.assertTrue(self.browser.take().startswith(b"HTTP/1.1 " + status))

    def test_no_fixed_host(self) -> None:
        """Where there is no such host nobody is asked: a token is needed."""
        self.dial(request())
        self.assertTrue(self.browser.take().startswith(b"HTTP/1.1 400 "))
        self.assertEqual(self.source.asked, [])

    def test_of_nobody(self) -> None:
        """A token that is nobody's opens at once."""
        self.ask(user=None)
        self.assertTrue(self.browser.take().startswith(b"HTTP/1.1 101 "))

    def test_hang_up(self) -> None:
        """Who leaves before it is known who they are has claimed nothing."""
        self.ask()
        self.hang_up()
        self.source.answer(Caller(user="alice"))
        self.assertEqual((self.joins, self.factory.tunnels), ([], set()))

    def test_too_late(self) -> None:
        """The request is answered in its time, however long it takes to know who that is."""
        self.ask()
        self.clock.advance(int(LIMITS.head_timeout) + 6)
        self.assertTrue(self.browser.aborted)
        self.hang_up()
        self.source.answer(Caller(user="alice"))
        self.assertEqual(self.joins, [])

    def test_second_request(self) -> None:
        """A second request meanwhile is not one: no second service starts (T6)."""
        self.ask()
        self.browser_sends(request(f"?token={self.desk.reserve('Demo', {}).token}"))
        self.source.answer(Caller(user="alice"))
        self.assertEqual(self.joins, [self.token])
        self.assertEqual(self.browser.take().count(b"HTTP/1.1 "), 1)

    def test_early_frames(self) -> None:
        """What comes right behind the request is not lost."""
        self.ask()
        self.browser_sends(frame(b"hello"))
        self.source.answer(Caller(user="alice"))
        self.session.start()
        _, wire = self.plug.succeed()
        self.assertEqual(wire.take(), b"hello")

    def test_too_much_meanwhile(self) -> None:
        """What is kept meanwhile is bounded."""
        self.ask()
        self.browser_sends(frame(b"x" * 1000))
        self.assertFalse(self.browser.aborted)
        self.browser_sends(frame(b"x" * HEAD_BYTES))
        self.assertTrue(self.browser.aborted)
        self.source.answer(Caller(user="alice"))
        self.assertEqual(self.joins, [])

    def test_credentials(self) -> None:
        """What the request shows reaches the sources; a name that stands twice is nobody's."""
        seen: list[Credentials] = []

        async def identify(shown: Credentials) -> Caller:
            seen.append(shown)
            return Caller(user=shown.header("X-User"))

        self.patch(self.source, "identify", identify)
        self.token = self.desk.reserve("Demo", {}, user="jürgen").token
        head = request(f"?token={self.token}", X_User="j\xc3\xbcrgen")
        self.dial(head)
        self.assertTrue(self.browser.take().startswith(b"HTTP/1.1 101 "))
        self.assertEqual((seen[0].peer, seen[0].client), ("127.0.0.1", "127.0.0.1"))
        self.dial(head.replace(b"X-User:", b"X-User: bob\r\nX-User:"))
        self.assertTrue(self.browser.take().startswith(b"HTTP/1.1 404 "))
