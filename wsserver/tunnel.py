"""The websocket door: claim, launch, connect, join, and part again.

Autobahn speaks the protocol (RFC 6455); one cancellable coroutine per connection leads
from the handshake to the joined tunnel.  URLs and refusals: contract.md, "Websocket".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsserver.connect import Address, ServiceEnd, connect
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
#: How long either side may take to answer our close, in seconds.
CLOSE_TIMEOUT = 10.0
#: How long what is still under way to the browser may take after that, in seconds.
DRAIN_TIMEOUT = 60.0
#: How often a client is pinged, in seconds: below the 60 s of nginx.
PING_INTERVAL = 20
#: How long a tunnel without a token tries to connect, in seconds.
CONNECT_TIMEOUT = 15.0

_log = Logger(namespace="wsserver.tunnel")


class Session(Protocol):
    """What a tunnel needs of the session of its token."""

    @property
    def connect_timeout(self) -> float:
        """How long the service may take to listen, in seconds."""

    def addresses(self) -> Deferred[dict[str, Address]]:
        """Return where the service listens, by socket name."""

    def opened(self) -> None:
        """Note that the tunnel is joined."""

    def touch(self) -> None:
        """Note that bytes move."""

    def failed(self, error: WSServerError) -> None:
        """Note that the service does not answer, or broke off."""

    def finished(self) -> None:
        """Note that the service has sent its last byte."""

    def leave(self, seat: Any) -> None:
        """Take part no more."""


class Tunnel(WebSocketServerProtocol):
    """One websocket, tunnelled to one TCP connection."""

    factory: TunnelFactory

    _session: Session | None = None
    _socket_name: str | None = None
    _refusal: WSServerError | None = None
    _opening: Deferred[None] | None = None
    _service: ServiceEnd | None = None
    _timer: IDelayedCall | None = None
    _service_timer: IDelayedCall | None = None

    # -- the handshake

    def _dataReceived(self, data: bytes) -> None:
        """Bound the request head, which Autobahn does not."""
        if self.state == self.STATE_CONNECTING:
            head = self.data + data[: HEAD_BYTES + 4]
            end = head.find(b"\r\n\r\n")
            if end > HEAD_BYTES or (end < 0 and len(head) > HEAD_BYTES):
                self.failHandshake("the request head is too large", 431)
                return
        super()._dataReceived(data)

    def onConnect(self, request: ConnectionRequest) -> str | None:
        """Claim the token; refuse with a real HTTP status where that fails."""
        self._early = bytearray()
        try:
            self._claim()
        except WSServerError as error:
            self._refusal = error
            raise ConnectionDeny(error.http_status, str(error)) from error
        except Exception as error:
            # Autobahn would tell the client what went wrong.
            _log.failure("a token could not be claimed")
            raise ConnectionDeny(500, "internal error") from error
        self.factory.tunnels.add(self)
        return "binary" if "binary" in request.protocols else None

    def _claim(self) -> None:
        try:
            query = urlsplit(self.http_request_uri).query
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
        self,
        code: int,
        reason: str,
        responseHeaders: Any = None,  # noqa: N803
    ) -> None:
        """Answer a refused handshake so that any HTTP client understands it."""
        body = f"{reason}\n".encode()
        headers = [*self.factory.http_headers, ("Content-Type", "text/plain; charset=utf-8")]
        headers += [("Content-Length", str(len(body))), ("Connection", "close")]
        if self._refusal is not None and self._refusal.retry_after is not None:
            headers.append(("Retry-After", str(self._refusal.retry_after)))
        phrase = "".join(c if c.isprintable() else " " for c in reason)
        lines = [f"HTTP/1.1 {code} {phrase}", *(f"{k}: {v}" for k, v in headers), "", ""]
        self.sendData("\r\n".join(lines).encode() + body)

    # -- from the handshake to the joined tunnel

    def onOpen(self) -> None:
        """Launch and connect."""
        # Autobahn may come here after onClose, when the session is left already.
        if self.state != self.STATE_OPEN:
            return
        self._opening = Deferred.fromCoroutine(self._open())
        self._opening.addErrback(self._open_failed)

    async def _open(self) -> None:
        address, timeout = await self._address()
        self._join(await connect(self.factory.reactor, self, address, timeout))

    async def _address(self) -> tuple[Address, float]:
        if self._session is None:
            assert self.factory.basic is not None
            return self.factory.basic, CONNECT_TIMEOUT
        timeout = self._session.connect_timeout
        addresses = await self._session.addresses()
        name = next(iter(addresses)) if self._socket_name is None else self._socket_name
        if name not in addresses:
            raise BadRequest(f"the service has no socket {name!r}")
        return addresses[name], timeout

    def _join(self, service: ServiceEnd) -> None:
        self._service = service
        if self._early:
            service.write(bytes(self._early))
            self._early.clear()
        if self._session is not None:
            self._session.opened()
        # Behind twisted.web the HTTP channel is still registered here.
        self.transport.unregisterProducer()
        self.transport.registerProducer(service, True)
        service.join(self.transport)

    def _open_failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, CancelledError):
            return
        if not isinstance(error, WSServerError):
            _log.failure("a tunnel could not be opened", failure=failure)
            error = WSServerError("internal error")
        self._fail(error)

    # -- browser to service

    def onMessageBegin(self, isBinary: bool) -> None:  # noqa: N803
        """Only binary messages carry a byte stream (contract.md)."""
        super().onMessageBegin(isBinary)
        if not isBinary:
            self._fail_connection(self.CLOSE_STATUS_CODE_UNSUPPORTED_DATA, "binary frames only")

    def onMessageFrameData(self, payload: bytes) -> None:
        """Pass bytes on as they come: no message is ever assembled."""
        if self.state != self.STATE_OPEN:
            return
        if self._service is not None:
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
        if self.state == self.STATE_OPEN:
            self._touch()
            self.sendMessage(data, isBinary=True)

    def service_finished(self) -> None:
        """The service has sent its last byte: an orderly end."""
        if self._session is not None and self.state == self.STATE_OPEN:
            self._session.finished()
        self._close(1000, "the service has ended")

    def service_lost(self, reason: Failure) -> None:
        """The connection to the service is gone."""
        if self._service is None:
            return
        self._service = None
        _cancel(self._service_timer)
        # A service that was slow to the end has left the browser paused.
        self.transport.resumeProducing()
        if reason.check(ConnectionDone):
            self.service_finished()
        else:
            self._fail(ConnectFailed("the service broke the connection"))
        self._end()

    # -- the way out

    def dismiss(self, error: WSServerError) -> None:
        """Close the websocket with the code and words of ``error``."""
        self._close(error.close_code, str(error))

    def _fail(self, error: WSServerError) -> None:
        if isinstance(error, ConnectFailed) and self._session is not None:
            self._session.failed(error)
        self.dismiss(error)

    def sendCloseFrame(
        self,
        code: int | None = None,
        reasonUtf8: bytes | None = None,  # noqa: N803
        isReply: bool = False,  # noqa: N803
    ) -> None:
        """Begin or answer a close: from here on nothing is tunnelled."""
        super().sendCloseFrame(code, reasonUtf8, isReply)
        if self._timer is None:
            self._timer = self.factory.reactor.callLater(CLOSE_TIMEOUT, self._no_answer)
        self._end()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: N803
        """The websocket is gone, whatever step the tunnel is in."""
        self.factory.tunnels.discard(self)
        _cancel(self._timer)
        self._end()

    def _close(self, code: int, reason: str) -> None:
        if self.state == self.STATE_OPEN:
            # Not sendClose, which refuses 1001; a close frame has room for 123 bytes.
            text = reason.encode()[:123].decode("utf-8", "ignore")
            self.sendCloseFrame(code, text.encode())

    def _end(self) -> None:
        """The only way out: stop opening, part from the service, leave the session."""
        if self._opening is not None:
            self._opening.cancel()
        if self._service is not None:
            self._part(self._service)
            return
        session, self._session = self._session, None
        if session is not None:
            session.leave(self)

    def _part(self, service: ServiceEnd) -> None:
        """Close the connection to the service after what is under way to it."""
        if self._service_timer is None:
            self._service_timer = self.factory.reactor.callLater(CLOSE_TIMEOUT, service.abort)
            service.close()

    def _no_answer(self) -> None:
        # What the browser has not read yet is still sent; then the transport closes.
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        abort = self.transport.abortConnection
        self._timer = self.factory.reactor.callLater(DRAIN_TIMEOUT, abort)

    def _touch(self) -> None:
        if self._session is not None:
            self._session.touch()


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
        join: Callable[[str, Tunnel], Session],
        basic: Address | None = None,
        http_headers: list[tuple[str, str]] | None = None,
        max_message_size: int = 0,
    ) -> None:
        super().__init__(server="", reactor=reactor)
        self.join = join
        self.basic = basic
        self.http_headers = http_headers or []
        self.tunnels: set[Tunnel] = set()
        self.closed = False
        # Autobahn's defaults are unsafe or lossy; docs/operate.md says why each is set.
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

    def dismiss_all(self, error: WSServerError) -> None:
        """Close every tunnel, and refuse new ones."""
        self.closed = True
        for tunnel in list(self.tunnels):
            tunnel.dismiss(error)


def _single(fields: dict[str, list[str]], name: str) -> str | None:
    values = fields.get(name, [])
    if len(values) > 1:
        raise BadRequest(f"{name} stands twice")
    return values[0] if values else None


def _cancel(timer: IDelayedCall | None) -> None:
    if timer is not None and timer.active():
        timer.cancel()
