"""The events door: what becomes of a reservation, told as it happens, to who has its token.

``GET /wsserver/events/TOKEN`` answers with server-sent events (HTML standard, section
9.2), unless the token is bound to somebody else.  Each message is a whole snapshot, so
that a slow or a late reader misses nothing that still counts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from wsserver.desk import Desk
from wsserver.doorkeeper import Doorkeeper
from wsserver.errors import WSServerError
from wsserver.lifecycle import Reservation
from wsserver.provenance import shown_by
from wsserver.replies import error_body, refusal

#: The most streams of one token.
MAX_STREAMS = 8
#: How often a silent stream says that it lives, in seconds: below the 60 s of nginx.
KEEP_ALIVE = 20.0

_log = Logger(namespace="wsserver.events")


class Events(Resource):
    """The streams of all tokens."""

    isLeaf = True

    def __init__(self, desk: Desk, doorkeeper: Doorkeeper, clock: IReactorTime) -> None:
        super().__init__()
        self._desk = desk
        self._doorkeeper = doorkeeper
        self._clock = clock
        self._streams: dict[str, list[Stream]] = {}
        desk.watch(self._changed)

    def render_GET(self, request: Any) -> int:
        """Begin a stream with the present state of the reservation."""
        begun = Deferred.fromCoroutine(self._begin(request))
        request.notifyFinish().addErrback(lambda _: begun.cancel())
        begun.addErrback(self._refused, request)
        return NOT_DONE_YET

    async def _begin(self, request: Any) -> None:
        token = b"/".join(request.postpath or []).decode("utf-8", "replace")
        await self._doorkeeper.check_holder(token, shown_by(request))
        reservation = self._desk.find(token)
        if len(self._streams.get(token, [])) >= MAX_STREAMS:
            _end(request, error_body(request, 429, "TooManyStreams", "too many streams of a token"))
            return
        request.setHeader("Content-Type", "text/event-stream")
        request.setHeader("Cache-Control", "no-store")
        # nginx would keep the events back to send more of them at once.
        request.setHeader("X-Accel-Buffering", "no")
        if request.method == b"HEAD":
            request.finish()
            return
        stream = Stream(request, self._clock, lambda: self._forget(token, stream))
        self._streams.setdefault(token, []).append(stream)
        stream.tell(_snapshot(reservation))

    def _refused(self, failure: Failure, request: Any) -> None:
        if failure.check(CancelledError):
            return
        error = failure.value
        if not isinstance(error, WSServerError):
            _log.failure("a stream could not begin", failure=failure)
            error = WSServerError("internal error")
        _end(request, refusal(request, error, self._doorkeeper.identity.challenges))

    def close(self) -> None:
        """End every stream."""
        for streams in list(self._streams.values()):
            for stream in list(streams):
                stream.finish()

    def _changed(self, reservation: Reservation) -> None:
        for stream in list(self._streams.get(reservation.token, [])):
            stream.tell(_snapshot(reservation))
            if not reservation.live:
                stream.finish()

    def _forget(self, token: str, stream: Stream) -> None:
        streams = self._streams[token]
        streams.remove(stream)
        if not streams:
            del self._streams[token]


@implementer(IPushProducer)
class Stream:
    """One reader; ``on_end`` is called when it has gone, or was sent away."""

    def __init__(self, request: Request, clock: IReactorTime, on_end: Callable[[], None]) -> None:
        self._request = request
        self._on_end = on_end
        self._paused = False
        self._unsent = b""
        self._finished = False
        self._alive = LoopingCall(self._send, b":\n\n")
        self._alive.clock = clock
        self._alive.start(KEEP_ALIVE, now=False)
        request.notifyFinish().addBoth(lambda _: self._ended())
        request.registerProducer(self, True)

    def tell(self, snapshot: bytes) -> None:
        """Send a snapshot; a slow reader gets the newest one once it has caught up."""
        self._unsent = snapshot
        if not self._paused:
            self.resumeProducing()

    def finish(self) -> None:
        """End the stream after what was told."""
        if self._finished:
            return
        self._finished = True
        self._request.unregisterProducer()
        self._request.write(self._unsent)
        self._request.finish()

    def pauseProducing(self) -> None:
        """The reader is slow."""
        self._paused = True

    def resumeProducing(self) -> None:
        """The reader has caught up."""
        self._paused = False
        unsent, self._unsent = self._unsent, b""
        if unsent:
            self._send(unsent)

    def stopProducing(self) -> None:
        """The reader has gone."""

    def _send(self, text: bytes) -> None:
        if not self._paused and not self._finished:
            self._request.write(text)

    def _ended(self) -> None:
        self._finished = True
        if self._alive.running:
            self._alive.stop()
        self._on_end()


def _end(request: Request, body: bytes) -> None:
    request.setHeader("Content-Length", str(len(body)))
    if request.method != b"HEAD":
        request.write(body)
    request.finish()


def _snapshot(reservation: Reservation) -> bytes:
    shown = {
        "service": reservation.service,
        "index": reservation.index,
        "state": reservation.phase.value,
        "steps": list(reservation.steps),
        "reason": reservation.reason,
        "credentials": dict(reservation.credentials),
    }
    return b"data: " + json.dumps(shown).encode() + b"\n\n"
