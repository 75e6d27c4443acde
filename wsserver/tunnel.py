"""The websocket door: claim, launch, connect, join, and part again.

One cancellable coroutine per connection leads from the handshake to the joined tunnel.
Close codes: contract.md, "Websocket".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from autobahn.twisted.websocket import WebSocketServerFactory
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsserver.admission import Admission
from wsserver.config import Deadlines
from wsserver.connect import Address, ServiceEnd, connect
from wsserver.doorkeeper import Doorkeeper
from wsserver.drain import Drain
from wsserver.errors import (
    BadRequest,
    ConnectFailed,
    ShuttingDown,
    TooMuchTooEarly,
    WSServerError,
)
from wsserver.forwarded import Proxies
from wsserver.frames import Scanner
from wsserver.handshake import Handshake
from wsserver.hosts import Hosts
from wsserver.keepalive import Keepalive
from wsserver.origins import Origins
from wsserver.outlets import is_full
from wsserver.pace import Pace
from wsserver.relay import Relay, join
from wsserver.stall import Stall

#: What a client may send while its service starts, in bytes.
EARLY_BYTES = 64 * 1024

#: How many files a session opens that is still to begin: the connection to its service,
#: and what its programs take.
SESSION_FILES = 3

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


class Tunnel(Handshake):
    """One websocket, tunnelled to one TCP connection."""

    factory: TunnelFactory

    _session: Session | None = None
    _socket_name: str | None = None
    _opening: Deferred[None] | None = None
    _service: ServiceEnd | None = None
    _relay: Relay | None = None
    _keepalive: Keepalive | None = None
    _stalls: tuple[Stall, ...] = ()
    _drain: Drain | None = None
    _service_drain: Drain | None = None
    _early = b""
    #: The service has sent its last byte, and may still take some.
    _finishing = False
    #: The client has sent too many frames that carry nothing.
    _rude = False
    _pace: Pace

    def claim(self, token: str | None, socket_name: str | None) -> None:
        """Take a seat in the session of the token, or the fixed host where there is none."""
        self._socket_name = socket_name
        if self.factory.closed:
            raise ShuttingDown
        full = self.factory.admission.room(SESSION_FILES * (len(self.factory.opening) + 1))
        if full is not None:
            raise full
        if token is not None:
            self._session = self.factory.join(token, self)
        elif self.factory.basic is None:
            raise BadRequest("a token is needed")
        self.factory.tunnels.add(self)
        self.factory.opening.add(self)

    # -- from the handshake to the joined tunnel

    def onOpen(self) -> None:
        """Launch and connect."""
        # Autobahn may come here after onClose, when the session is left already.
        if self.state != self.STATE_OPEN:
            return
        factory = self.factory
        self._pace = Pace(factory.reactor)
        self._keepalive = Keepalive(
            factory.reactor, self.transport, factory.deadlines, self.sendPing, self._vanished
        )
        self._opening = Deferred.fromCoroutine(self._open())
        self._opening.addErrback(self._open_failed)

    async def _open(self) -> None:
        address, timeout = await self._address()
        self._join(await connect(self.factory.reactor, self, address, timeout))

    async def _address(self) -> tuple[Address, float]:
        if self._session is None:
            assert self.factory.basic is not None
            return self.factory.basic, self.factory.deadlines.connect_timeout
        timeout = self._session.connect_timeout
        addresses = await self._session.addresses()
        name = next(iter(addresses)) if self._socket_name is None else self._socket_name
        if name not in addresses:
            raise BadRequest(f"the service has no socket {name!r}")
        return addresses[name], timeout

    def _join(self, service: ServiceEnd) -> None:
        self._service = service
        deadlines = self.factory.deadlines
        service.probe(deadlines.ping_interval, deadlines.ping_timeout)
        self.factory.opening.discard(self)
        if self._early:
            service.write(self._early)
            self._early = b""
        if self._session is not None:
            self._session.opened()
        # Behind twisted.web the HTTP channel is still registered here.
        self.transport.unregisterProducer()
        begun: bytes = self.data
        self.data = b""
        self._relay = join(self, service, self._scanner())
        self._stalls = self._watch(self._relay, service)
        if begun:
            self._relay.from_browser(begun)

    def _watch(self, relay: Relay, service: ServiceEnd) -> tuple[Stall, Stall]:
        """Watch both directions for a reader that takes nothing of what waits for it."""
        factory, patience = self.factory, self.factory.deadlines.stall_timeout
        up = partial(self._fail, ConnectFailed("the service reads nothing"))
        down = partial(self._vanished, "the client reads nothing")
        return (
            Stall(factory.reactor, patience, service.transport, relay.up_waits, up),
            Stall(factory.reactor, patience, self.transport, relay.down_waits, down),
        )

    def _scanner(self) -> Scanner:
        """Return a scanner that goes on where Autobahn has come to."""
        limit = min(filter(None, [self.maxFramePayloadSize, self.maxMessagePayloadSize]), default=0)
        frame = self.current_frame
        if frame is None:
            return Scanner(limit, fragmented=self.inside_message)
        left = frame.length - self.current_frame_masker.pointer()
        control = frame.opcode > 7
        return Scanner(limit, left, self.inside_message if control else not frame.fin)

    def _open_failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, CancelledError):
            return
        if not isinstance(error, WSServerError):
            _log.failure("a tunnel could not be opened", failure=failure)
            error = WSServerError("internal error")
        self._fail(error)

    # -- bytes

    def dataReceived(self, data: bytes) -> None:
        """Take what the transport has received."""
        if self._relay is not None:
            self._relay.from_browser(data)
        else:
            super().dataReceived(data)

    def other_frames(self, data: bytes) -> None:
        """Let Autobahn handle frames that are not plain data."""
        if not self._rude:
            super()._dataReceived(data)

    def onPing(self, payload: bytes) -> None:
        """Answer, unless there are too many, or the client does not take the answers.

        RFC 6455, section 5.5.3, asks for no more than one to the latest ping.
        """
        if self._is_decent() and not is_full(self.transport):
            super().onPing(payload)

    def onPong(self, payload: bytes) -> None:
        """Nobody asks what it says; see keepalive."""
        self._is_decent()

    def onMessageFrameBegin(self, length: int) -> None:
        """Of fragments without a byte as well there may be few only: they never end."""
        super().onMessageFrameBegin(length)
        if not length and not self.current_frame.fin:
            self._is_decent()

    def _is_decent(self) -> bool:
        """Count a frame that carries nothing, and part from who sends too many."""
        if self._pace.decent():
            return True
        if not self._rude:
            self._rude = True
            self._fail_connection(self.CLOSE_STATUS_CODE_POLICY_VIOLATION, "too many empty frames")
            self._hang_up()
        return False

    def onMessageBegin(self, isBinary: bool) -> None:  # noqa: N803
        """Only binary messages carry a byte stream (contract.md)."""
        super().onMessageBegin(isBinary)
        if not isBinary:
            self._fail_connection(self.CLOSE_STATUS_CODE_UNSUPPORTED_DATA, "binary frames only")

    def onMessageFrameData(self, payload: bytes) -> None:
        """Pass bytes on as they come: no message is ever assembled."""
        if self._relay is not None:
            self._relay.to_service(payload)
        elif self.state != self.STATE_OPEN:
            return
        elif len(self._early) + len(payload) > EARLY_BYTES:
            self.dismiss(TooMuchTooEarly("too much was sent before the service was ready"))
        else:
            self._early += payload

    def onMessageFrameEnd(self) -> None:
        """Nothing was collected, so nothing is put together."""

    def onMessageEnd(self) -> None:
        """As above."""

    def touch(self) -> None:
        """Note that bytes move."""
        if self._session is not None:
            self._session.touch()

    def from_service(self, data: bytes) -> None:
        """Take bytes that the service's transport has received."""
        if self._relay is not None:
            self._relay.from_service(data)

    # -- the way out

    def service_finished(self) -> None:
        """The service has sent its last byte: an orderly end.

        What the browser has sent until it knows still goes to the service.
        """
        if self.state == self.STATE_OPEN:
            if self._session is not None:
                self._session.finished()
            self._finishing = True
            self._close(1000, "the service has ended")

    def service_lost(self, reason: Failure) -> None:
        """The connection to the service is gone."""
        if self._service is None:
            return
        self._service = None
        if self._service_drain is not None:
            self._service_drain.cancel()
        if self._relay is not None:
            self._relay.service_lost()
        # A service that was slow to the end has left the browser paused.
        self.transport.resumeProducing()
        if reason.check(ConnectionDone):
            self.service_finished()
        elif self.state == self.STATE_OPEN:
            self._fail(ConnectFailed("the service broke the connection"))
        self._end()

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
        """Begin or answer a close: from here on nothing goes to the browser."""
        super().sendCloseFrame(code, reasonUtf8, isReply)
        if self._relay is not None:
            self._relay.down = False
        self._unwatch()
        if self._drain is None:
            steps = [self._end, self._hang_up, self.transport.abortConnection]
            ends = [self.transport, *([self._service.transport] if self._service else [])]
            self._drain = self._drained(ends, steps[0 if self._finishing else 1 :])
        if not self._finishing:
            self._end()

    def dropConnection(self, abort: bool = False) -> None:
        """Close the connection; at an orderly end what is under way is still sent."""
        abort = abort and self.state != self.STATE_CLOSING
        super().dropConnection(abort)
        if not abort and self._drain is None:
            # Of a refused handshake: the answer may be read slowly, or never.
            self._drain = self._drained([self.transport], [self.transport.abortConnection])

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: N803
        """The websocket is gone, whatever step the tunnel is in."""
        self.factory.tunnels.discard(self)
        self.factory.opening.discard(self)
        self._unwatch()
        if self._drain is not None:
            self._drain.cancel()
        if self._relay is not None:
            self._relay.browser_lost()
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
        if self._relay is not None:
            self._relay.up = False
        if self._service_drain is None:
            ends = [service.transport]
            self._service_drain = self._drained(ends, [service.abort])
            service.close()

    def _drained(self, ends: Iterable[Any], steps: Iterable[Callable[[], object]]) -> Drain:
        factory = self.factory
        return Drain(factory.reactor, factory.deadlines.close_timeout, ends, steps)

    def _unwatch(self) -> None:
        for watch in (self._keepalive, *self._stalls):
            if watch is not None:
                watch.cancel()

    def _vanished(self, why: str) -> None:
        _log.info("{client}: {why}", client=self.client, why=why)
        self.transport.abortConnection()

    def _hang_up(self) -> None:
        # What the browser has not read yet is still sent; then the transport closes.
        self.transport.unregisterProducer()
        self.transport.loseConnection()


class TunnelFactory(WebSocketServerFactory):
    """Accepts websockets.

    ``join`` claims a token; ``basic`` is where connections without one go, if anywhere;
    ``http_headers`` are added to refusals; ``max_message_size`` is in bytes, 0
    for none; ``proxies`` know who asks; ``origins`` are the pages that may connect, those
    of our own host by default; ``doorkeeper`` knows whose a token is, if it is anybody's;
    ``hosts`` are the names by which browsers may ask.
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
        deadlines: Deadlines = Deadlines(),  # noqa: B008  (frozen)
        proxies: Proxies = Proxies(),  # noqa: B008  (never changed)
        origins: Origins = Origins(),  # noqa: B008  (never changed)
        admission: Admission | None = None,
        doorkeeper: Doorkeeper | None = None,
        hosts: Hosts = Hosts(),  # noqa: B008  (never changed)
    ) -> None:
        super().__init__(server="", reactor=reactor)
        self.join = join
        self.basic = basic
        self.http_headers = http_headers or []
        self.deadlines = deadlines
        self.proxies = proxies
        self.origins = origins
        self.admission = admission or Admission()
        self.doorkeeper = doorkeeper
        self.hosts = hosts
        self.tunnels: set[Tunnel] = set()
        #: Those whose connection to the service is yet to come.
        self.opening: set[Tunnel] = set()
        self.closed = False
        # Autobahn's defaults are unsafe or lossy; docs/operate.md says why each is set.
        self.setProtocolOptions(
            versions=[13],
            webStatus=False,
            # The handshake checks them itself; see origins.
            allowedOrigins=["*"],
            allowNullOrigin=True,
            failByDrop=False,
            openHandshakeTimeout=deadlines.head_timeout,
            closeHandshakeTimeout=0,
            autoPingInterval=0,
            autoPingTimeout=0,
            maxFramePayloadSize=max_message_size,
            maxMessagePayloadSize=max_message_size,
            tcpNoDelay=True,
        )
        self.protocol = _with_options(self)

    def dismiss_all(self, error: WSServerError) -> None:
        """Close every tunnel, and refuse new ones."""
        self.closed = True
        for tunnel in list(self.tunnels):
            tunnel.dismiss(error)


def _with_options(factory: TunnelFactory) -> type[Tunnel]:
    """Return the protocol with the options of its factory as attributes of the class.

    Autobahn would copy them to each connection, and format them all for its debug log,
    which takes longer than the whole rest of a handshake.
    """
    options = {name: getattr(factory, name) for name in Tunnel.CONFIG_ATTRS}
    shared = {k: staticmethod(v) if callable(v) else v for k, v in options.items()}
    return type("Tunnel", (Tunnel,), {**shared, "CONFIG_ATTRS": ()})
