"""The events door: snapshots as they happen, to who has the token."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from tests.fakes import Shows, Slow, make_desk, make_doorkeeper
from tests.wires import Reply, Wire
from wsserver.access import Caller
from wsserver.channel import HTTPSite
from wsserver.events import KEEP_ALIVE, MAX_STREAMS, Events
from wsserver.lifecycle import Event
from wsserver.site import Root


class Reader:
    """The request of a browser that may be slow, or leave."""

    def __init__(self, token: str, method: bytes = b"GET") -> None:
        self.postpath = token.encode().split(b"/")
        self.client = IPv4Address("TCP", "192.0.2.1", 5000)
        self.requestHeaders = Headers()
        self.responseHeaders = Headers()
        self.method = method
        self.headers: dict[str, str] = {}
        self.code = 200
        self.sent = b""
        self.over = False
        self.producer: Any = None
        self._finished: list[Deferred[None]] = []

    def getClientAddress(self) -> IPv4Address:
        return self.client

    def setHeader(self, name: str, value: str) -> None:
        self.headers[name] = value

    def setResponseCode(self, code: int, phrase: bytes) -> None:
        self.code = code

    def notifyFinish(self) -> Deferred[None]:
        self._finished.append(Deferred())
        return self._finished[-1]

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def write(self, data: bytes) -> None:
        assert not self.over
        self.sent += data

    def finish(self) -> None:
        self.over = True
        for finished in self._finished:
            finished.callback(None)

    def leave(self) -> None:
        """Hang up."""
        if self.producer is not None:
            self.producer.stopProducing()
        for finished in self._finished:
            finished.errback(Failure(ConnectionDone()))

    def take(self) -> list[Any]:
        """Return the snapshots since the last time."""
        sent, self.sent = self.sent, b""
        parts = [part for part in sent.split(b"\n\n") if part]
        return [json.loads(part.removeprefix(b"data: ")) for part in parts]


class EventsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.desk = make_desk(self.clock)
        self.events = Events(self.desk, make_doorkeeper(self.desk), self.clock)
        self.token = self.desk.reserve("Demo", {}).token

    def read(self, token: str | None = None, method: bytes = b"GET") -> tuple[Reader, Any]:
        reader = Reader(self.token if token is None else token, method)
        return reader, self.events.render_GET(reader)

    def test_from_first_to_last(self) -> None:
        """The present state comes at once, then each change, and after the last the end."""
        reader, answer = self.read()
        self.assertIs(answer, NOT_DONE_YET)
        self.assertEqual(reader.headers["Content-Type"], "text/event-stream")
        self.assertEqual(reader.headers["Cache-Control"], "no-store")
        (first,) = reader.take()
        self.assertEqual(
            first,
            {
                "service": "Demo",
                "index": 0,
                "state": "reserved",
                "steps": [],
                "reason": "",
                "credentials": {},
            },
        )
        self.desk.claim(self.token)
        self.desk.note(self.token, "starting Xvnc")
        self.desk.share(self.token, {"password": "p"})
        states = [(s["state"], s["steps"], s["credentials"]) for s in reader.take()]
        self.assertEqual(
            states,
            [
                ("starting", [], {}),
                ("starting", ["starting Xvnc"], {}),
                ("starting", ["starting Xvnc"], {"password": "p"}),
            ],
        )
        self.desk.report(self.token, Event.FAIL, "no licence")
        self.assertFalse(reader.over)
        self.desk.report(self.token, Event.STOPPED)
        self.assertEqual([s["state"] for s in reader.take()], ["stopping", "failed"])
        self.assertTrue(reader.over)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_late_reader(self) -> None:
        """Who comes later sees all steps so far."""
        self.desk.claim(self.token)
        for step in "ab":
            self.desk.note(self.token, step)
        reader, _ = self.read()
        self.assertEqual(reader.take()[0]["steps"], ["a", "b"])

    def test_unknown_token(self) -> None:
        """A token that is not known, or no text, is refused."""
        for token in ("", "nobody", "a/b"):
            reader, _ = self.read(token)
            self.assertEqual((reader.code, json.loads(reader.sent)["error"]), (404, "NoSuchToken"))
            self.assertTrue(reader.over)
        reader = Reader("x")
        reader.postpath = [b"\xff"]
        self.events.render_GET(reader)
        self.assertEqual(reader.code, 404)

    def test_bound_token(self) -> None:
        """A token that is bound is of use to its user, and unknown to somebody else."""
        callers = {name: Caller(user=name) for name in ("alice", "bob")}
        keeper = make_doorkeeper(self.desk, Shows(**callers), bind_user=True)
        self.events = Events(self.desk, keeper, self.clock)
        self.token = self.desk.reserve("Demo", {}, user="alice").token
        codes = {}
        for name in ("alice", "bob", ""):
            reader = Reader(self.token)
            if name:
                reader.requestHeaders.addRawHeader("X-Caller", name)
            self.events.render_GET(reader)
            codes[name] = reader.code
        self.assertEqual(codes, {"alice": 200, "bob": 404, "": 401})
        self.assertEqual(reader.responseHeaders.getRawHeaders("WWW-Authenticate"), ["Test"])

    def test_refused_head(self) -> None:
        """HEAD is refused as GET is, without a body."""
        reader, _ = self.read("nobody", b"HEAD")
        self.assertEqual((reader.code, reader.sent, reader.over), (404, b"", True))

    def test_gone_while_checked(self) -> None:
        """Who leaves while it is checked who they are gets no stream."""
        source = Slow()
        keeper = make_doorkeeper(self.desk, source, bind_user=True)
        self.events = Events(self.desk, keeper, self.clock)
        self.token = self.desk.reserve("Demo", {}, user="alice").token
        reader, _ = self.read()
        reader.leave()
        source.answer(Caller(user="alice"))
        self.assertEqual((reader.sent, self.clock.getDelayedCalls()), (b"", []))

    def test_bug(self) -> None:
        """A bug of ours is logged, and told without details."""
        self.patch(self.desk, "find", lambda token: 1 / 0)
        reader, _ = self.read()
        self.assertEqual(reader.code, 500)
        self.assertNotIn(b"division", reader.sent)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_head(self) -> None:
        """HEAD has the headers alone."""
        reader, _ = self.read(method=b"HEAD")
        self.assertEqual((reader.sent, reader.headers["Content-Type"]), (b"", "text/event-stream"))
        self.assertTrue(reader.over)
        self.assertIsNone(reader.producer)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_slow_reader(self) -> None:
        """A reader that is slow costs one snapshot, the newest."""
        reader, _ = self.read()
        reader.take()
        reader.producer.pauseProducing()
        self.desk.claim(self.token)
        for step in "abc":
            self.desk.note(self.token, step)
        self.clock.advance(KEEP_ALIVE)
        self.assertEqual(reader.sent, b"")
        reader.producer.resumeProducing()
        (newest,) = reader.take()
        self.assertEqual(newest["steps"], ["a", "b", "c"])
        reader.producer.resumeProducing()
        self.assertEqual(reader.take(), [])

    def test_slow_to_the_end(self) -> None:
        """Also the last snapshot reaches a reader that was slow when it came."""
        reader, _ = self.read()
        reader.take()
        reader.producer.pauseProducing()
        self.desk.release(self.token)
        self.assertEqual([s["state"] for s in reader.take()], ["released"])
        self.assertTrue(reader.over)

    def test_keep_alive(self) -> None:
        """A silent stream shows that it lives, by a comment."""
        reader, _ = self.read()
        reader.take()
        self.clock.advance(KEEP_ALIVE)
        self.assertEqual(reader.sent, b":\n\n")

    def test_reader_leaves(self) -> None:
        """A reader that leaves costs nothing any more."""
        one, _ = self.read()
        two, _ = self.read()
        for reader in (one, two):
            reader.take()
        one.leave()
        self.desk.claim(self.token)
        self.assertEqual((len(one.take()), len(two.take())), (0, 1))
        two.leave()
        self.desk.note(self.token, "a")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_too_many(self) -> None:
        """A token has a bounded number of streams."""
        readers = [self.read()[0] for _ in range(MAX_STREAMS)]
        reader, _ = self.read()
        self.assertEqual((reader.code, json.loads(reader.sent)["error"]), (429, "TooManyStreams"))
        readers[0].leave()
        self.assertIs(self.read()[1], NOT_DONE_YET)

    def test_close(self) -> None:
        """At the end of the server every stream ends."""
        readers = [self.read()[0] for _ in range(2)]
        streams = [reader.producer for reader in readers]
        self.events.close()
        self.assertEqual([reader.over for reader in readers], [True, True])
        for stream in streams:
            stream.finish()
        self.events.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class WireTests(SynchronousTestCase):
    """The same by HTTP itself."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.desk = make_desk(self.clock)
        self.events = Events(self.desk, make_doorkeeper(self.desk), self.clock)
        self.token = self.desk.reserve("Demo", {}).token
        self.site = HTTPSite(Root(Resource(), self.events))

    def ask(self, method: str = "GET") -> None:
        """Ask for the events of the token."""
        self.channel = self.site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 5000))
        self.wire = Wire(80, 5000)
        self.channel.makeConnection(self.wire)
        head = f"{method} /wsserver/events/{self.token} HTTP/1.1\r\nHost: x\r\n\r\n"
        self.channel.dataReceived(head.encode())
        self.addCleanup(self.hang_up)

    def hang_up(self) -> None:
        if self.wire.connected:
            self.wire.connected = False
            self.channel.connectionLost(Failure(ConnectionDone()))

    def test_whole(self) -> None:
        """A stream is one answer in chunks, with one end."""
        self.ask()
        self.desk.release(self.token)
        whole = self.wire.take()
        self.assertTrue(whole.endswith(b"\r\n0\r\n\r\n"))
        reply = Reply(whole)
        states = [
            json.loads(line.removeprefix(b"data: "))["state"]
            for line in reply.body.split(b"\n\n")
            if line
        ]
        self.assertEqual((reply.code, states), (200, ["reserved", "released"]))
        self.assertEqual(reply.headers["X-Accel-Buffering"], "no")
        # The connection is good for another request.
        self.channel.dataReceived(b"GET /wsserver/events/none HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(Reply(self.wire.take()).code, 404)

    def test_slow(self) -> None:
        """A connection that takes no more gets the newest snapshot once it does."""
        self.ask()
        self.wire.take()
        self.wire.producer.pauseProducing()
        self.desk.claim(self.token)
        self.desk.note(self.token, "a")
        self.assertEqual(self.wire.take(), b"")
        self.wire.producer.resumeProducing()
        self.assertEqual(self.wire.take().count(b"data: "), 1)

    def test_hang_up(self) -> None:
        """A browser that hangs up, slow or not, leaves nothing behind."""
        for slow in (False, True):
            self.ask()
            if slow:
                self.wire.producer.pauseProducing()
            self.hang_up()
            self.wire.take()
            self.desk.claim(self.token)
            self.assertEqual(self.wire.take(), b"")
            self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.events._streams, {})

    def test_head(self) -> None:
        """HEAD is answered at once."""
        self.ask("HEAD")
        head, _, body = self.wire.take().partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200 "))
        self.assertEqual((body, self.events._streams), (b"", {}))
