"""A tunnel in the usual way: Autobahn's messages on one side, a transport on the other.

What one writes without thinking of speed, with flow control in both directions.
"""

from __future__ import annotations

import sys
from typing import Any

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from twisted.internet import reactor
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    connectProtocol,
    serverFromString,
)
from twisted.internet.protocol import Protocol


class ServiceEnd(Protocol):
    def __init__(self, browser: BrowserEnd) -> None:
        self._browser = browser

    def dataReceived(self, data: bytes) -> None:
        self._browser.sendMessage(data, isBinary=True)

    def connectionLost(self, reason: Any) -> None:
        self._browser.transport.unregisterProducer()
        self._browser.transport.loseConnection()


class BrowserEnd(WebSocketServerProtocol):
    factory: Any
    _service: ServiceEnd | None = None

    def onConnect(self, request: Any) -> str | None:
        self._early: list[bytes] = []
        return "binary" if "binary" in request.protocols else None

    def onOpen(self) -> None:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.factory.service_port)
        connectProtocol(endpoint, ServiceEnd(self)).addCallbacks(self._join, self._failed)

    def _join(self, service: ServiceEnd) -> None:
        self._service = service
        service.transport.setTcpNoDelay(True)
        service.transport.write(b"".join(self._early))
        self.transport.registerProducer(service.transport, True)
        service.transport.registerProducer(self.transport, True)

    def _failed(self, failure: Any) -> None:
        self.dropConnection(abort=True)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N803
        if self._service is None:
            self._early.append(payload)
        else:
            self._service.transport.write(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: N803
        if self._service is not None:
            self._service.transport.unregisterProducer()
            self._service.transport.loseConnection()


def main(port: str, service_port: str, cert: str = "", key: str = "") -> None:
    factory = WebSocketServerFactory()
    factory.protocol = BrowserEnd
    factory.service_port = int(service_port)
    factory.setProtocolOptions(tcpNoDelay=True)
    where = f"{port}:interface=127.0.0.1:backlog=1024"
    what = f"ssl:{where}:privateKey={key}:certKey={cert}" if cert else f"tcp:{where}"
    serverFromString(reactor, what).listen(factory)
    reactor.run()  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(*sys.argv[1:])
