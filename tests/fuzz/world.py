"""The whole server in memory: thousands of connections a second, no socket, no real time."""

from __future__ import annotations

from typing import Any

import txaio
from twisted.internet.address import IPv4Address
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, formatEvent, globalLogPublisher

from tests.wires import DONE, Wire
from wsserver.config import make_settings
from wsserver.server import Server


class Unhandled:
    """Whatever is logged as an error while it watches."""

    def __init__(self) -> None:
        self._seen: list[str] = []

    def __enter__(self) -> Unhandled:
        globalLogPublisher.addObserver(self._observe)
        return self

    def __exit__(self, *_: object) -> None:
        globalLogPublisher.removeObserver(self._observe)

    def _observe(self, event: Any) -> None:
        level = event.get("log_level", LogLevel.info)
        if level >= LogLevel.error or event.get("isError"):
            failure = event.get("log_failure")
            self._seen.append(failure.getTraceback() if failure else formatEvent(event))

    def told(self) -> str | None:
        """Return what was logged since the last call."""
        seen, self._seen = self._seen, []
        return "\n".join(seen) or None


class Reactor(MemoryReactorClock):
    """A reactor in memory that is its own thread."""

    def callFromThread(self, call: Any, *args: object, **named: object) -> None:
        call(*args, **named)


class World:
    """A server whose reactor is a clock, with a tunnel to nowhere for who has no token."""

    def __enter__(self) -> World:
        self.clock = Reactor()
        self._loop = txaio.config.loop
        txaio.config.loop = self.clock
        self._unhandled = Unhandled().__enter__()
        settings = make_settings({"client_port": 9, "http_port": 1})
        self._server = Server(self.clock, settings, {})
        self._server.startService()
        self._usual = self._pending()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stopService()
        self.clock.advance(100)
        txaio.config.loop = self._loop
        self._unhandled.__exit__()

    def dial(self, to_site: bool) -> Dialled:
        """Connect to the HTTP port, or to where websockets alone are."""
        factory = self._server.site if to_site else self._server.tunnels
        return Dialled(self, factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 5000)))

    def unhandled(self) -> str | None:
        """Return what was logged as an error."""
        return self._unhandled.told()

    def left(self) -> str | None:
        """Return what is left of connections that are gone."""
        # Autobahn forgets the time of a handshake when it is over.
        self.clock.advance(11)
        if self._server.tunnels.tunnels or self._server.tunnels.opening:
            return "a tunnel is left"
        if self._pending() > self._usual:
            return f"a timer is left: {self.clock.getDelayedCalls()}"
        counted = self._server.admission.visits()
        return f"{counted} visits are still counted" if counted else None

    def _pending(self) -> int:
        return len(self.clock.getDelayedCalls())


class Dialled:
    """A connection to the server."""

    def __init__(self, world: World, protocol: Any) -> None:
        self._world = world
        self._wire = Wire(80, 5000)
        # A websocket on the HTTP port takes this place.
        self._wire.protocol = protocol
        protocol.makeConnection(self._wire)

    def send(self, data: bytes) -> None:
        """Send bytes, unless the server listens no more."""
        if not self._wire.disconnecting:
            self._wire.protocol.dataReceived(data)

    def answer(self) -> bytes:
        """Return what was answered since the last call."""
        return self._wire.take()

    def hang_up(self) -> str | None:
        """Be gone; return what is left of it then."""
        self._wire.connected = False
        self._wire.protocol.connectionLost(DONE)
        return self._world.left()
