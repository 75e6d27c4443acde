"""The TCP side of a tunnel: connect to the service, with patience, and speak to it."""

from __future__ import annotations

import contextlib
import socket
from typing import Any, Protocol

from twisted.internet.abstract import isIPAddress
from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import (
    IAddress,
    IHalfCloseableProtocol,
    IPushProducer,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import ClientFactory
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.task import deferLater
from twisted.internet.tcp import Connection
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from wsserver.errors import ConnectFailed
from wsserver.peer import UNANSWERED

Address = tuple[str, int]

#: How long attempts follow each other closely, in seconds.
EAGER = 5.0

_log = Logger(namespace="wsserver.connect")


class Browser(Protocol):
    """The other side of the tunnel."""

    def from_service(self, data: bytes) -> None:
        """Take bytes of the service."""

    def service_finished(self) -> None:
        """Take note that the service will send nothing more."""

    def service_lost(self, reason: Failure) -> None:
        """Take note that the connection to the service is gone."""


@implementer(IPushProducer, IHalfCloseableProtocol)
class ServiceEnd(TwistedProtocol):
    """The TCP connection to the service."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    def connectionMade(self) -> None:
        """Read nothing before the tunnel is joined."""
        # A key must not wait until the one before it was acknowledged.
        self._tcp.setTcpNoDelay(True)
        self.pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        """Pass bytes on to the browser."""
        self._browser.from_service(data)

    def readConnectionLost(self) -> None:
        """The service has sent its last byte."""
        self._browser.service_finished()

    def writeConnectionLost(self) -> None:
        """The service reads no more: what that means shows when it closes."""

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        """The connection is gone."""
        self._browser.service_lost(reason)

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

    def probe(self, interval: float, timeout: float) -> None:
        """Have the kernel find out that the host of a silent service is gone (tcp(7)).

        It is asked after ``interval`` seconds of silence, and has ``timeout`` seconds.
        """
        if not isinstance(self._tcp, Connection):
            return
        times = {
            socket.TCP_KEEPIDLE: interval,
            socket.TCP_KEEPINTVL: timeout / UNANSWERED,
            socket.TCP_KEEPCNT: UNANSWERED,
        }
        # There are sockets that are no TCP: they have no host that could be gone.
        with contextlib.suppress(OSError):
            for option, value in times.items():
                number = max(1, round(value))
                self._tcp.getHandle().setsockopt(socket.IPPROTO_TCP, option, number)
            self._tcp.setTcpKeepAlive(True)

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
        """Whether a port without listener was connected to itself, as TCP allows."""
        here, there = self._tcp.getHost(), self._tcp.getPeer()
        return bool((here.host, here.port) == (there.host, there.port))

    @property
    def _tcp(self) -> Any:
        return self.transport


class ServiceFactory(ClientFactory):
    """Makes the service's end of one tunnel."""

    noisy = False

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    def buildProtocol(self, addr: IAddress | None) -> ServiceEnd:
        """Return the protocol of a new connection."""
        return ServiceEnd(self._browser)


async def connect(reactor: Any, browser: Browser, address: Address, timeout: float) -> ServiceEnd:
    """Connect to a service, again and again for ``timeout`` seconds: it may be slow to listen.

    Raises:
        ConnectFailed: nobody accepted in time.
    """
    began = reactor.seconds()
    while True:
        left = max(0.1, began + timeout - reactor.seconds())
        try:
            there = endpoint(reactor, *address, timeout=left)
            service = await there.connect(ServiceFactory(browser))
        except (CancelledError, ConnectingCancelledError) as cancelled:
            # The second is what endpoints say of the same.
            raise CancelledError from cancelled
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        else:
            assert isinstance(service, ServiceEnd)
            if not service.met_itself:
                return service
            service.abort()
            problem = "nobody listens"
        waited = reactor.seconds() - began
        # Soon at first, for a quick first picture.
        pause = 0.01 if waited < EAGER else 0.1
        if waited + pause >= timeout:
            _log.warn("no connection to {a}: {problem}", a=address, problem=problem)
            raise ConnectFailed("the service does not answer")
        await deferLater(reactor, pause)


def endpoint(reactor: Any, host: str, port: int, timeout: float) -> IStreamClientEndpoint:
    """Return where a service is; ``timeout`` is in seconds."""
    # To look up what is no name costs more than the rest of a connection.
    kind = TCP4ClientEndpoint if isIPAddress(host) else HostnameEndpoint
    made: IStreamClientEndpoint = kind(reactor, host, port, timeout=timeout)
    return made
