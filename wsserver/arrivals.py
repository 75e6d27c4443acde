"""Who comes in at a listener: known and counted before anything is said.

A connection is handed on as it is, its transport unwrapped, so that a relay still finds
the socket; below TLS, so that a handshake counts, too.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IDelayedCall, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from wsserver.addresses import is_loopback
from wsserver.admission import Admission
from wsserver.errors import WSServerError
from wsserver.forwarded import Proxies
from wsserver.outlets import socket_below
from wsserver.preamble import Client, preamble

_log = Logger(namespace="wsserver.arrivals")


@implementer(IProtocolFactory)
class Arrivals:
    """Stands before the factory of a listener.

    ``speaking`` tells that the listed proxies send a PROXY header, for which they have
    ``head_timeout`` seconds.
    """

    noisy = False

    def __init__(
        self,
        factory: IProtocolFactory,
        clock: IReactorTime,
        admission: Admission,
        proxies: Proxies,
        speaking: bool = False,
        head_timeout: float = 10.0,
    ) -> None:
        self.factory = factory
        self.clock = clock
        self.head_timeout = head_timeout
        self._admission = admission
        self._proxies = proxies
        self._speaking = speaking

    def doStart(self) -> None:  # noqa: N802
        """Begin to listen."""
        self.factory.doStart()

    def doStop(self) -> None:  # noqa: N802
        """Listen no more."""
        self.factory.doStop()

    def buildProtocol(self, addr: Any) -> Arrival | None:
        """Return what takes the connection, None to close it at once."""
        return Arrival(self) if self._admission.hears(addr.host) else None

    def expects_header(self, peer: Any) -> bool:
        """Tell whether a connection begins with a PROXY header."""
        return self._speaking and self._proxies.trusts(peer.host)

    def named(self, client: Client, proxy: Any) -> Client:
        """Return who is behind a proxy, as everybody here may take it.

        Whom it names is never a proxy of ours whose word is believed, nor this machine: with
        such an address they get the name of both, which is no address.
        """
        if not (self._proxies.trusts(client.host) or is_loopback(client.host)):
            return client
        return type(client)("TCP", f"{client.host}@{proxy.host}", client.port)

    def count(self, transport: Any, client: Any) -> None:
        """Count a connection until it is gone, and note where it is one too many."""
        transport.refusal = self._admission.room()
        if self._proxies.trusts(client.host):
            # It speaks for many, who are counted by what they ask for.
            return
        visit = self._admission.visit(client.host)
        transport.refusal = transport.refusal or visit.refusal
        usual = transport.connectionLost

        def lost(reason: Failure) -> None:
            visit.end()
            # Or the transport and this would keep one another in memory.
            if vars(transport).pop("connectionLost", None) is not None:
                usual(reason)

        transport.connectionLost = lost


class Arrival(Protocol):
    """A connection until it is known who is behind it."""

    transport: Any
    _timer: IDelayedCall | None = None
    _data = b""

    def __init__(self, door: Arrivals) -> None:
        self._door = door

    def connectionMade(self) -> None:
        """Hand the connection on, unless its proxy has yet to tell whose it is."""
        peer = self.transport.getPeer()
        if self._door.expects_header(peer):
            late = self.transport.abortConnection
            self._timer = self._door.clock.callLater(self._door.head_timeout, late)
        else:
            self._enter(peer)

    def dataReceived(self, data: bytes) -> None:
        """Take the PROXY header."""
        self._data += data
        peer = self.transport.getPeer()
        try:
            found = preamble(self._data)
        except ValueError as error:
            _log.warn("the proxy {peer} sent {error}", peer=peer.host, error=error)
            self.transport.abortConnection()
            return
        if found is None:
            return
        self._cancel()
        client, rest = found
        if client is None:
            self._enter(peer, rest)
            return
        client = self._door.named(client, peer)
        self.transport.getPeer = lambda: client
        self._enter(client, rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone before anybody was known."""
        self._cancel()

    def _enter(self, client: Any, data: bytes = b"") -> None:
        transport = self.transport
        self._door.count(transport, client)
        protocol = self._door.factory.buildProtocol(client)
        if protocol is None:
            transport.abortConnection()
            return
        transport.protocol = protocol
        protocol.makeConnection(transport)
        if data:
            protocol.dataReceived(data)

    def _cancel(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


def refusal_of(transport: Any) -> WSServerError | None:
    """Return why a connection may do nothing, None where it may."""
    refusal: WSServerError | None = getattr(socket_below(transport), "refusal", None)
    return refusal
