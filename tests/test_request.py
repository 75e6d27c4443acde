"""A request of the HTTP port has a bounded body; who asks is known, and counted."""

from __future__ import annotations

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import TestCase

from tests.test_channel import ConnectionCase, make_site
from tests.wires import DONE, Reply, SocketWire, ask, ask_raw
from wsserver.admission import Admission
from wsserver.errors import TooMany
from wsserver.forwarded import Proxies
from wsserver.request import MAX_BODY


class BodyTests(TestCase):
    async def test_large_body(self) -> None:
        """A body that says it is too large is refused at once."""
        raw = b"POST /v1/stop HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\nabc"
        reply = await ask_raw(make_site(headers=[("X-One", "1")]), raw % (MAX_BODY + 1))
        self.assertEqual((reply.code, reply.headers["X-One"]), (413, "1"))
        self.assertEqual(reply.headers["Server"], "wsserver")

    async def test_large_body_in_one_piece(self) -> None:
        """The same where all of it is there already: it is answered once."""
        raw = b"POST /v1/stop HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        body = b"x" * (MAX_BODY + 1)
        reply = await ask_raw(make_site(), raw % len(body) + body)
        self.assertEqual((reply.code, reply.body), (413, b""))

    async def test_large_chunks(self) -> None:
        """A body that turns out to be too large is refused as soon as it is."""
        head = b"POST /v1/stop HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
        for end in (b"", b"0\r\n\r\n", b"0\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n"):
            reply = await ask_raw(make_site(), head + 4 * chunk + end)
            self.assertEqual((reply.code, reply.body), (413, b""))

    async def test_small_body(self) -> None:
        """A small body is fine."""
        raw = b"POST /v1/reserve/Demo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        chunked = b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        self.assertEqual((await ask_raw(make_site(), raw + chunked)).code, 200)


class ClientTests(TestCase):
    async def test_client_behind_a_proxy(self) -> None:
        """The log tells who asks as a listed proxy tells it, and nobody else."""
        for proxies, who in (["127.0.0.1"], "203.0.113.7"), ([], "127.0.0.1"):
            site = make_site(proxies=Proxies(proxies))
            with capturedLogs() as events:
                await ask(site, "/", X_Forwarded_For="\xff, 203.0.113.7")
            (line,) = [formatEvent(e) for e in events if e["log_namespace"] == "wsserver.access"]
            self.assertEqual(str(line).split()[0], who)


class AdmissionTests(ConnectionCase):
    def test_connection(self) -> None:
        """A connection that is one too many gets a plain answer, and is closed."""
        wire = SocketWire()
        wire.refusal = TooMany("too many connections from your address", 10)
        self.addCleanup(wire.close)
        self.connect(wire)
        self.get()
        wire.flush()
        reply = Reply(wire.take())
        self.assertEqual((reply.code, reply.json["error"]), (429, "TooMany"))
        self.assertEqual((reply.headers["Retry-After"], reply.reason), ("10", str(wire.refusal)))
        self.assertTrue(wire.disconnecting)

    def test_behind_a_proxy(self) -> None:
        """Of a listed proxy each client counts by what it asks for, until it has its answer."""
        self.connect(admission=Admission(2), proxies=Proxies(["127.0.0.1"]))
        for _ in range(2):
            self.dial()
            self.get("/wsserver/events/TOKEN", X_Forwarded_For="192.0.2.1")
        waiting = [(self.channel, self.wire)]
        self.dial()
        self.get(X_Forwarded_For="192.0.2.1")
        reply = Reply(self.wire.take())
        self.assertEqual((reply.code, reply.headers["Retry-After"]), (429, "10"))
        self.assertTrue(self.wire.disconnecting)
        for address, code in (("192.0.2.2", 404), ("127.0.0.1", 404)):
            self.dial()
            self.get(X_Forwarded_For=address)
            self.assertEqual(Reply(self.wire.take()).code, code)
        self.never.requests[0].finish()
        waiting[0][0].connectionLost(DONE)
        self.assertEqual(self.site.admission.visits(), 0)
