"""The tree of services on real ports of the loopback address."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase

from tests.wires import frames, request
from wsserver import make_service
from wsserver.config import Settings
from wsserver.errors import ConfigError
from wsserver.server import Server, offers_of

SCRIPT = """
import socket, threading
from wsserver import RemoteServiceScript

class InProcess(RemoteServiceScript):
    stopped = []
    def start(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.greet, daemon=True).start()
        return self.listener.getsockname()
    def greet(self):
        self.peer, _ = self.listener.accept()
        self.peer.sendall(b"hello")
    def stop(self):
        STOP
        self.stopped.append(self._index)
        self.listener.close()
        self.peer.close()
"""


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Client(Protocol):
    """A websocket client that keeps what it gets."""

    def __init__(self) -> None:
        self.got = b""
        self.lost: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Any) -> None:
        self.lost.callback(None)

    @property
    def frames(self) -> list[tuple[int, bytes]]:
        return frames(self.got.partition(b"\r\n\r\n")[2])


class ServerTests(TestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.services = self.folder / "services.json"
        self.write()

    def write(self, stop: str = "pass", **more: Any) -> None:
        (self.folder / "script.py").write_text(SCRIPT.replace("STOP", stop))
        self.services.write_text('{"S": {"script": "script.py", "count": 2, "options": {}}}')

    def make(self, **settings: Any) -> Server:
        chosen = {"http_port": 0, "interface": "127.0.0.1", **settings}
        server = make_service(reactor, remote_session_config=str(self.services), **chosen)
        self.addCleanup(server.stopService)
        return server

    async def connect(self, server: Server, port: int | None = None) -> Client:
        """Reserve, connect, and wait for the first bytes of the service."""
        token = server.desk.reserve("S", {}).token
        where = TCP4ClientEndpoint(reactor, "127.0.0.1", port or server.http_port)
        client: Client = await where.connect(Factory.forProtocol(Client))
        client.transport.write(request(f"?token={token}"))
        while (2, b"hello") not in client.frames:
            await deferLater(reactor, 0.01)
        return client

    async def test_shutdown(self) -> None:
        """Clients get 1001, scripts are stopped, nothing listens any more."""
        server = self.make()
        server.startService()
        client = await self.connect(server)
        stopped = server.stopService()
        while client.frames[-1][0] != 8:
            await deferLater(reactor, 0.01)
        self.assertEqual(client.frames[-1][1][:2], (1001).to_bytes(2, "big"))
        client.transport.loseConnection()
        await stopped
        self.assertEqual(server.desk.live(), [])
        self.assertFalse(listens(server.http_port))
        # A second stop has nothing to do.
        await server.stopService()

    async def test_deadline(self) -> None:
        """A stop that hangs and a client that does not answer are left behind, by name."""
        self.write("import time; time.sleep(3)")
        server = self.make(shutdown_timeout=0.2)
        server.startService()
        client = await self.connect(server)
        with capturedLogs() as events:
            await server.stopService()
        await client.lost
        late = [e for e in events if "not stopped in time" in (e.get("log_format") or "")]
        self.assertEqual([e["what"] for e in late], ["S 0"])
        while server.desk.live():
            await deferLater(reactor, 0.05)

    async def test_two_ports(self) -> None:
        """A websocket port of its own, and the line that says what is served where."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            free = probe.getsockname()[1]
        server = self.make(ws_port=free)
        with capturedLogs() as events:
            server.startService()
        self.assertEqual(server.ws_port, free)
        self.assertEqual(server.api.websocket_port, free)
        (line,) = [e["line"] for e in events if "line" in e]
        self.assertEqual(
            line,
            f"wsserver listens on http://127.0.0.1:{server.http_port}/ (pages, REST) "
            f"and ws://127.0.0.1:{free}/; offers S x2",
        )
        client = await self.connect(server, free)
        client.transport.loseConnection()
        await client.lost
        while server.desk.live():
            await deferLater(reactor, 0.01)

    async def test_websockets_alone(self) -> None:
        """No HTTP at all, by -1."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            free = probe.getsockname()[1]
        server = self.make(ws_port=free, http_port=-1)
        server.startService()
        self.assertEqual((server.http_port, server.ws_port), (None, free))

    async def test_all_ports_or_none(self) -> None:
        """Where one port is taken, the other is given back."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            server = self.make(ws_port=taken.getsockname()[1])
            self.assertRaises(CannotListenError, server.startService)
        while listens(server.http_port):
            await deferLater(reactor, 0.01)

    def test_ipv6(self) -> None:
        """An IPv6 address is listened on, and written with its brackets."""
        server = self.make(interface="::1")
        with capturedLogs() as events:
            server.startService()
        (line,) = [e["line"] for e in events if "line" in e]
        self.assertIn(f"http://[::1]:{server.http_port}/", line)

    def test_warnings(self) -> None:
        """What cannot run, and a group that nobody can prove to be in, are told."""
        self.services.write_text(
            '{"G": {"script": "script.py", "count": 1, "options": {"group": "staff"}}}'
        )
        server = self.make(local_session=[("no-such-program", 1)], client_port=5901)
        with capturedLogs() as events:
            server.startService()
        formats = [(e["log_format"], e.get("name")) for e in events]
        self.assertIn(("{name} is unavailable: {why}", "local_no-such-program"), formats)
        self.assertIn(("{name} has a group, and nobody can prove to be in it", "G"), formats)
        (line,) = [e["line"] for e in events if "line" in e]
        self.assertIn("a tunnel to 127.0.0.1:5901 without token", line)

    def test_bad_settings(self) -> None:
        """Whoever embeds the server is told everything that is wrong."""
        error = self.assertRaises(ConfigError, make_service, reactor, http_port="x", nonsense=1)
        self.assertEqual(len(error.problems), 2)
        self.assertRaises(ConfigError, make_service, reactor, cert="/no/such")

    def test_what_is_offered(self) -> None:
        """Without a word the demo; with a fixed host nothing; else what the file says."""
        self.assertEqual(list(offers_of(Settings())), ["Demo"])
        self.assertEqual(list(offers_of(Settings(client_port=1))), [])
        self.assertEqual(list(offers_of(Settings(remote_session_config=str(self.services)))), ["S"])
