"""A connection of the HTTP port: what it says has its size and its time, and is logged."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import IResource
from twisted.web.server import Site

from wsserver.admission import Admission
from wsserver.config import Deadlines
from wsserver.drain import Drain
from wsserver.forwarded import Proxies
from wsserver.logs import log_request
from wsserver.outlets import holds
from wsserver.policy import Policy
from wsserver.request import Request
from wsserver.stall import Stall


class Channel(HTTPChannel):
    """A connection: head, body, answer and close have their time, however they trickle.

    Where the reactor was late, what has arrived meanwhile is heard before time is up.
    """

    site: HTTPSite
    #: Who has taken the connection over.
    heir: IProtocol | None = None

    _late: IDelayedCall | None = None
    _closing: Drain | None = None
    _answered = False

    def connectionMade(self) -> None:
        """The site knows its connections."""
        super().connectionMade()
        self.site.channels.add(self)

    def finish(self) -> None:
        """Close; where something is asked already, after the answer."""
        if self.requests:
            self.persistent = False
        elif self.heir is None:
            self.loseConnection()

    def checkPersistence(self, request: HTTPRequest, version: bytes) -> bool:  # noqa: N802
        """Tell whether more may be asked after this."""
        return super().checkPersistence(request, version) and not self.site.closed

    def dataReceived(self, data: bytes) -> None:
        """Take bytes; unlike in twisted.web they buy no time."""
        LineReceiver.dataReceived(self, data)

    def hand_on(self, heir: Any) -> None:
        """Let somebody else have the connection, who tells nobody here when it is gone."""
        self.heir = heir
        self.site.channels.discard(self)

    def rawDataReceived(self, data: bytes) -> None:
        """Take a body, or what belongs to who has taken over."""
        if self.heir is not None:
            self.heir.dataReceived(data)
        else:
            super().rawDataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """Refuse a folded header (RFC 9112, section 5.2): others read it as two."""
        if line[:1] in (b" ", b"\t"):
            self.refuse(400, "Bad Request")
        else:
            super().lineReceived(line)

    def allHeadersReceived(self) -> None:
        """The head was in time; the body has a time of its own."""
        self._in_time()
        self.setTimeout(self.site.deadlines.body_timeout)
        super().allHeadersReceived()

    def allContentReceived(self) -> None:
        """The request was in time; the head of the next has its usual time."""
        self._in_time()
        self.timeOut = self.site.deadlines.head_timeout  # type: ignore[assignment]
        super().allContentReceived()

    def requestDone(self, request: HTTPRequest) -> None:  # noqa: N802
        """The answer is written."""
        self._answered = True
        super().requestDone(request)

    def timeoutConnection(self) -> None:  # noqa: N802
        """A request is not complete in time."""
        self._late = self.site.clock.callLater(0, self._give_up)

    def loseConnection(self) -> None:  # noqa: N802
        """Close after what is under way, or where nothing moves any more."""
        super().loseConnection()
        if self._closing is None:
            transport: Any = self.transport
            patience = self.site.deadlines.close_timeout
            steps = [transport.abortConnection]
            self._closing = Drain(self.site.clock, patience, [transport], steps)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self.site.channels.discard(self)
        self._in_time()
        if self._closing is not None:
            self._closing.cancel()
        super().connectionLost(reason)

    def stall(self) -> Stall:
        """Cut the connection off where the client takes nothing of an answer that waits."""
        transport: Any = self.transport
        patience, waits = self.site.deadlines.stall_timeout, partial(holds, transport)
        return Stall(self.site.clock, patience, transport, waits, transport.abortConnection)

    def refuse(self, status: int, phrase: str) -> None:
        """Answer what cannot be a request of ours, and close."""
        headers = [("Server", "wsserver"), *self.site.headers]
        headers += [("Content-Length", "0"), ("Connection", "close")]
        lines = [f"HTTP/1.1 {status} {phrase}", *(f"{k}: {v}" for k, v in headers), "", ""]
        transport: Any = self.transport
        transport.write("\r\n".join(lines).encode())
        log_request(transport.getPeer().host, "-", "-", status, 0)
        self.loseConnection()

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: N802
        """Twisted would close without a word."""
        self.refuse(431, "Request Header Fields Too Large")

    def _respondToBadRequestAndDisconnect(self) -> None:  # noqa: N802
        self.refuse(400, "Bad Request")

    def _give_up(self) -> None:
        if self._answered:
            self.loseConnection()
        else:
            # Nothing is under way, not even the end of TLS.
            self.transport.abortConnection()  # type: ignore[union-attr]

    def _in_time(self) -> None:
        if self._late is not None and self._late.active():
            self._late.cancel()


class HTTPSite(Site):
    """The site; ``headers`` go with every answer, ``proxies`` know who asks.

    A request head, its TLS handshake included, must be complete within ``head_timeout``
    seconds from the connection, or from the last answer; its body within ``body_timeout``
    from there.
    """

    requestFactory = Request
    # Not the default, which could speak HTTP/2 as well.
    protocol = Channel  # type: ignore[assignment]
    noisy = False

    def __init__(
        self,
        root: IResource,
        headers: Sequence[tuple[str, str]] = Policy().headers,
        reactor: IReactorTime | None = None,
        deadlines: Deadlines = Deadlines(),  # noqa: B008  (frozen)
        proxies: Proxies = Proxies(),  # noqa: B008  (never changed)
        admission: Admission | None = None,
    ) -> None:
        super().__init__(root, timeout=deadlines.head_timeout, reactor=reactor)
        self.clock: Any = self.reactor
        self.headers = headers
        self.deadlines = deadlines
        self.proxies = proxies
        self.admission = admission or Admission()
        self.channels: set[Channel] = set()
        self.closed = False

    def close(self) -> None:
        """Let every connection end, with the answer that is under way."""
        self.closed = True
        for channel in list(self.channels):
            channel.finish()

    def log(self, request: HTTPRequest) -> None:
        """Note an answered request; the log keeps the tokens out."""
        client = request.getClientAddress().host
        log_request(client, request.method, request.uri, request.code, request.sentLength)
