"""The websocket door: claim, launch, connect, join, and part again.

Autobahn speaks the protocol (RFC 6455); one cancellable coroutine per connection leads
from the handshake to the joined tunnel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import ClientFactory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from wsserver.errors import (
    BadRequest,
    ConnectFailed,
    ShuttingDown,
    TooMuchTooEarly,
    WSServerError,
)

#: What a client may send while its service starts, in bytes.
EARLY_BYTES = 64 * 1024
#: The largest request head, in bytes, as in twisted.web.
HEAD_BYTES = 16 * 1024
#: How long a request head may take, in seconds.
HEAD_TIMEOUT = 10
#: How long a client may take to answer our close frame, in seconds.
CLOSE_TIMEOUT = 10.0
#: How long what is still under way may take after that, in seconds.
DRAIN_TIMEOUT = 60.0
#: How often a quiet client is pinged, in seconds: below the 60 s of nginx.
PING_INTERVAL = 20
#: How long a basic tunnel tries to connect, in seconds.
CONNECT_TIMEOUT = 15.0

Address = tuple[str, int]


class SessionLike(Protocol):
    """What a tunnel needs of its session."""

    connect_timeout: float

    def addresses(self) -> Deferred[dict[str, Address]]:
        """Return where the service listens, by socket name."""

    def opened(self) -> None:
        """Note that the tunnel is joined."""

    def touch(self) -> None:
        """Note that bytes move."""

    def leave(self, seat: Any) -> None:
        """Take part no more."""


@implementer(IPushProducer, IHalfCloseableProtocol)
class ServiceEnd(TwistedProtocol):
    """The TCP connection to the service."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel

    def connectionMade(self) -> None:
        """Wait for the join before anything is read."""
        self.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        """Pass bytes of the service on to the browser."""
        self._tunnel.from_service(data)

    def readConnectionLost(self) -> None:
        """The service has said all: let it have what is still under way to it."""
        self._tunnel.service_finished()

    def writeConnectionLost(self) -> None:
        """Nothing more can be sent to the service."""

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """The service is gone."""
        self._tunnel.service_lost(reason)

    def pauseProducing(self) -> None:
        """The browser is slow: read no more of the service."""
        self._tcp.pauseProducing()

    def resumeProducing(self) -> None:
        """The browser has caught up."""
        self._tcp.resumeProducing()

    def stopProducing(self) -> None:
        """The browser is gone."""
        self.close()

    def write(self, data: bytes) -> None:
        """Send bytes to the service."""
        self._tcp.write(data)

    def join(self, browser: Any) -> None:
        """Let a slow service pause the browser, and begin to read."""
        self._tcp.registerProducer(browser, True)
        self.resumeProducing()

    def close(self) -> None:
        """Send what is under way, then close."""
        # A paused producer that stays registered would keep the connection open.
        self._tcp.unregisterProducer()
        self._tcp.loseConnection()

    def abort(self) -> None:
        """Close at once."""
        self._tcp.abortConnection()

    @property
    def met_itself(self) -> bool:
        """Whether a port with no listener was connected to itself, as TCP allows."""
        return bool(self._tcp.getHost() == self._tcp.getPeer())

    @property
    def _tcp(self) -> Any:
        return self.transport


class ServiceFactory(ClientFactory):
    """Makes the service's end of one tunnel."""

    noisy = False

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel

    def buildProtocol(self, addr: IAddress) -> ServiceEnd:
        """Return the protocol of a new connection."""
        return ServiceEnd(self._tunnel)


class Tunnel(WebSocketServerProtocol):
    """One websocket, tunnelled to one TCP connection."""

    log = Logger(namespace="wsserver.tunnel")
    factory: TunnelFactory

    _session: SessionLike | None = None
    _opening: Deferred[None] | None = None
    _service: ServiceEnd | None = None
    _socket_name: str | None = None
    _deny: WSServerError | None = None
    _closing: IDelayedCall | None = None
    _joined = False

    # -- the handshake

    def _dataReceived(self, data: bytes) -> None:
        """Bound the request head, which Autobahn does not."""
        waiting = self.state == self.STATE_CONNECTING
        if waiting and len(self.data) + len(data) > HEAD_BYTES and b"\r\n\r\n" not in self.data:
            head = (self.data + data[: HEAD_BYTES + 4]).partition(b"\r\n\r\n")
            if not head[1] or len(head[0]) > HEAD_BYTES:
                self.failHandshake("the request head is too large", 431)
                return
        if self.state != self.STATE_CLOSED:
            super()._dataReceived(data)

    def onConnect(self, request: ConnectionRequest) -> str | None:
        """Claim the token; refuse with a real HTTP status where that fails."""
        # A copy of the connection in debug logs would hold the token.
        try:
            self._claim()
        except WSServerError as error:
            self._deny = error
            raise ConnectionDeny(error.http_status, str(error)) from error
        self.factory.tunnels.add(self)
        return "binary" if "binary" in request.protocols else None

    def _claim(self) -> None:
        query = urlsplit(self.http_request_uri).query
        try:
            fields = parse_qs(query, keep_blank_values=True, max_num_fields=1000, errors="strict")
        except ValueError:
            raise BadRequest("the query cannot be understood") from None
        token, self._socket_name = _single(fields, "token"), _single(fields, "socket")
        if self.factory.closed:
            raise ShuttingDown
        if token is not None:
            self._session = self.factory.join(token, self)
        elif self.factory.basic is None:
            raise BadRequest("a token is needed")

    def sendHttpErrorResponse(
        self, code: int, reason: str, responseHeaders: Any = None  # noqa: N803
    ) -> None:
        """Answer a refused handshake so that any HTTP client understands it."""
        body = f"{reason}\n".encode()
        headers = [*self.factory.http_headers, ("Content-Type", "text/plain; charset=utf-8")]
        headers += [("Content-Length", str(len(body))), ("Connection", "close")]
        if self._deny is not None and self._deny.retry_after is not None:
            headers.append(("Retry-After", str(self._deny.retry_after)))
        phrase = "".join(c if c.isprintable() else " " for c in reason)
        lines = [f"HTTP/1.1 {code} {phrase}", *(f"{k}: {v}" for k, v in headers), "", ""]
        self.sendData("\r\n".join(lines).encode("utf-8") + body)

    # -- from the handshake to the joined tunnel

    def onOpen(self) -> None:
        """Launch and connect, unless the client has left meanwhile."""
        self._early = bytearray()
        if self.state == self.STATE_OPEN:
            self._opening = Deferred.fromCoroutine(self._open())
            self._opening.addErrback(self._open_failed)

    async def _open(self) -> None:
        address, timeout = await self._address()
        service = await self.factory.connect(self, address, timeout)
        self._join(service)

    async def _address(self) -> tuple[Address, float]:
        if self._session is None:
            assert self.factory.basic is not None
            return self.factory.basic, CONNECT_TIMEOUT
        addresses = await self._session.addresses()
        name = next(iter(addresses)) if self._socket_name is None else self._socket_name
        if name not in addresses:
            raise BadRequest(f"the service has no socket {name!r}")
        return addresses[name], self._session.connect_timeout

    def _join(self, service: ServiceEnd) -> None:
        self._service = service
        self._joined = True
        if self._early:
            service.write(bytes(self._early))
            self._early.clear()
        # Behind twisted.web the HTTP channel is still registered here.
        self.transport.unregisterProducer()
        self.transport.registerProducer(service, True)
        if self._session is not None:
            self._session.opened()
        service.join(self.transport)

    def _open_failed(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        error = failure.value
        if not isinstance(error, WSServerError):
            self.log.failure("a tunnel could not be opened", failure=failure)
            error = WSServerError("internal error")
        self.dismiss(error)

    # -- browser to service

    def onMessageBegin(self, isBinary: bool) -> None:  # noqa: N803
        """Only binary messages carry a byte stream."""
        super().onMessageBegin(isBinary)
        if not isBinary:
            self._fail_connection(self.CLOSE_STATUS_CODE_UNSUPPORTED_DATA, "binary frames only")

    def onMessageFrameBegin(self, length: int) -> None:
        """Refuse frames above the limit, without collecting anything."""
        super().onMessageFrameBegin(length)

    def onMessageFrameData(self, payload: bytes) -> None:
        """Pass bytes of the browser on as they come; no message is ever assembled."""
        if self.state != self.STATE_OPEN:
            return
        if self._joined and self._service is not None:
            self._touch()
            self._service.write(payload)
        elif len(self._early) + len(payload) > EARLY_BYTES:
            self.dismiss(TooMuchTooEarly("too much was sent before the service was ready"))
        else:
            self._early += payload

    def onMessageFrameEnd(self) -> None:
        """Nothing was collected, so nothing is put together."""

    def onMessageEnd(self) -> None:
        """As above."""

    # -- service to browser

    def from_service(self, data: bytes) -> None:
        """Send bytes of the service as one binary message."""
        self._touch()
        self.sendMessage(data, isBinary=True)

    def service_finished(self) -> None:
        """The service said all it had to say: an orderly end."""
        self._close(1000, "the service has ended")
        self._part()

    def service_lost(self, reason: Failure) -> None:
        """The connection to the service is gone."""
        if not self._joined:
            return
        self._service = None
        if reason.check(ConnectionDone):
            self._close(1000, "the service has ended")
        else:
            self._close(ConnectFailed.close_code, "the service broke the connection")
        self._leave()

    # -- the way out

    def dismiss(self, error: WSServerError) -> None:
        """Close the websocket with the code and words of ``error``."""
        self._close(error.close_code, str(error))
        self._end()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: N803
        """The websocket is gone: whatever step the tunnel is in ends here."""
        self.factory.tunnels.discard(self)
        if self._closing is not None and self._closing.active():
            self._closing.cancel()
        self._end()

    def _end(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        self._part()
        if self._service is None:
            self._leave()

    def _part(self) -> None:
        """Close the service's connection, after what is under way to it."""
        if self._service is None:
            return
        service, self._early = self._service, bytearray()
        self._joined = self._joined and self._service is not None
        service.close()
        self.factory.later(CLOSE_TIMEOUT, self._abort_service)

    def _abort_service(self) -> None:
        if self._service is not None:
            self._service.abort()

    def _leave(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.leave(self)

    def _close(self, code: int, reason: str) -> None:
        if self.state != self.STATE_OPEN:
            return
        # Autobahn's sendClose refuses 1001.
        self.sendCloseFrame(code, reason.encode("utf-8")[:123].decode("utf-8", "ignore").encode())
        self._closing = self.factory.later(CLOSE_TIMEOUT, self._no_answer)

    def _no_answer(self) -> None:
        # Unread data is not thrown away: the transport closes when it is sent.
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        self._closing = self.factory.later(DRAIN_TIMEOUT, self.transport.abortConnection)

    def _touch(self) -> None:
        if self._session is not None:
            self._session.touch()


Join = Callable[[str, Any], SessionLike]
MakeEndpoint = Callable[[Address, float], IStreamClientEndpoint]


class TunnelFactory(WebSocketServerFactory):
    """Accepts websockets.

    ``join`` claims a token; ``basic`` is where connections without one go, if anywhere;
    ``http_headers`` are added to refusals; ``max_message_size`` is in bytes, 0 for none.
    """

    protocol = Tunnel
    noisy = False

    def __init__(
        self,
        reactor: Any,
        join: Join,
        basic: Address | None = None,
        http_headers: list[tuple[str, str]] | None = None,
        max_message_size: int = 0,
        endpoint: MakeEndpoint | None = None,
    ) -> None:
        super().__init__(server="", reactor=reactor)
        self.join = join
        self.basic = basic
        self.http_headers = http_headers or []
        self.tunnels: set[Tunnel] = set()
        self.closed = False
        self._endpoint = endpoint or self._tcp_endpoint
        # Autobahn's defaults are unsafe or lossy; architecture.md says why each is set.
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,
            allowedOrigins=["*"],
            allowNullOrigin=True,
            failByDrop=False,
            openHandshakeTimeout=HEAD_TIMEOUT,
            closeHandshakeTimeout=0,
            autoPingInterval=PING_INTERVAL,
            autoPingTimeout=0,
            maxFramePayloadSize=max_message_size,
            maxMessagePayloadSize=max_message_size,
            tcpNoDelay=True,
        )

    def later(self, seconds: float, call: Callable[[], object]) -> IDelayedCall:
        """Call something in so many seconds."""
        timer: IDelayedCall = self.reactor.callLater(seconds, call)
        return timer

    async def connect(self, tunnel: Tunnel, address: Address, timeout: float) -> ServiceEnd:
        """Connect to the service; retry until ``timeout``, as it may be slow to listen.

        Raises:
            ConnectFailed: nobody accepted in time.
        """
        began = self.reactor.seconds()
        while True:
            left = began + timeout - self.reactor.seconds()
            try:
                service = await self._endpoint(address, left).connect(ServiceFactory(tunnel))
            except CancelledError:
                raise
            except Exception as error:
                problem = error
            else:
                assert isinstance(service, ServiceEnd)
                if not service.met_itself:
                    return service
                service.abort()
                problem = ConnectionRefusedError()
            waited = self.reactor.seconds() - began
            # Soon at first, for a quick first picture, and ever more rarely.
            pause = min(0.25, 0.01 + waited / 8)
            if waited + pause >= timeout:
                tunnel.log.warn("{a}: no connection: {e}", a=address, e=problem)
                raise ConnectFailed("the service does not answer") from problem
            await deferLater(self.reactor, pause)

    def dismiss_all(self, error: WSServerError) -> None:
        """Close every tunnel, and refuse new ones."""
        self.closed = True
        for tunnel in list(self.tunnels):
            tunnel.dismiss(error)

    def _tcp_endpoint(self, address: Address, timeout: float) -> IStreamClientEndpoint:
        return HostnameEndpoint(self.reactor, *address, timeout=timeout)


def _single(fields: dict[str, list[str]], name: str) -> str | None:
    values = fields.get(name, [])
    if len(values) > 1:
        raise BadRequest(f"{name} stands twice")
    return values[0] if values else None
