"""The tree of services on real ports of the loopback address."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import SSL4ClientEndpoint, TCP4ClientEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs
from twisted.trial.unittest import TestCase

from tests.test_htpasswd import ALICE, hashed
from tests.test_passwords import basic
from tests.test_tls import make as certificate
from tests.wires import frames, request
from wsserver import make_service
from wsserver import server as server_module
from wsserver.errors import ConfigError, Misdirected, NoSuchService, Unauthorized
from wsserver.process import own_names
from wsserver.server import Server

SCRIPT = """
import socket, threading
from wsserver import RemoteServiceScript

class InProcess(RemoteServiceScript):
    may_stop = threading.Event()
    def start(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.greet, daemon=True).start()
        return self.listener.getsockname()
    def greet(self):
        self.peer, _ = self.listener.accept()
        self.peer.sendall(b"hello")
    def stop(self):
        self.may_stop.wait(60)
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
    # What does not come is waited for no longer than this, in seconds.
    timeout = 15

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.services = self.folder / "services.json"
        self.write()

    def write(self) -> None:
        (self.folder / "script.py").write_text(SCRIPT)
        self.services.write_text('{"S": {"script": "script.py", "count": 2, "options": {}}}')

    def make(self, **settings: Any) -> Server:
        chosen = {"http_port": 0, "interface": "127.0.0.1", **settings}
        server = make_service(reactor, remote_session_config=str(self.services), **chosen)
        if "S" in server.desk.offers:
            self.may_stop = server.desk.offers["S"].script.create.may_stop
            self.may_stop.set()
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

    async def test_stop_twice(self) -> None:
        """Whoever stops a server that is stopping already is told when it has stopped."""
        server = self.make()
        self.may_stop.clear()
        self.addCleanup(self.may_stop.set)
        server.startService()
        client = await self.connect(server)
        stops = [server.stopService(), server.stopService()]
        while client.frames[-1][0] != 8:
            await deferLater(reactor, 0.01)
        client.transport.loseConnection()
        await client.lost
        self.assertEqual([stop.called for stop in stops], [False, False])
        self.may_stop.set()
        for stop in stops:
            await stop
        self.assertEqual(server.desk.live(), [])

    async def test_connections_end(self) -> None:
        """A stopped server answers no more, on connections that are open already neither."""
        server = self.make()
        server.startService()
        where = TCP4ClientEndpoint(reactor, "127.0.0.1", server.http_port)
        begun: Client = await where.connect(Factory.forProtocol(Client))
        idle: Client = await where.connect(Factory.forProtocol(Client))
        begun.transport.write(b"GET /v1/services HTTP/1.1\r\n")
        idle.transport.write(b"GET /v1/services HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while b" 200 OK" not in idle.got:
            await deferLater(reactor, 0.01)
        stopped = server.stopService()
        await idle.lost
        begun.transport.write(b"Host: localhost\r\n\r\n")
        await begun.lost
        self.assertEqual(begun.got.count(b" 200 OK"), 1)
        await stopped

    async def test_deadline(self) -> None:
        """A stop that hangs and a client that does not answer are left behind, by name."""
        server = self.make(shutdown_timeout=0.2)
        self.may_stop.clear()
        self.addCleanup(self.may_stop.set)
        server.startService()
        client = await self.connect(server)
        with capturedLogs() as events:
            await server.stopService()
        await client.lost
        late = [e for e in events if "not stopped in time" in (e.get("log_format") or "")]
        self.assertEqual([e["what"] for e in late], ["S 0"])
        self.may_stop.set()
        while server.desk.live():
            await deferLater(reactor, 0.05)

    async def test_again(self) -> None:
        """A service that was stopped may be started again, and serves as before."""
        server = self.make()
        for _ in range(2):
            server.startService()
            client = await self.connect(server)
            client.transport.loseConnection()
            await client.lost
            while server.desk.live():
                await deferLater(reactor, 0.01)
            await server.stopService()
            self.assertFalse(listens(server.http_port))

    async def test_reload(self) -> None:
        """What is new comes from the new files; what there is stays what it was made with."""
        server = self.make()
        server.startService()
        client = await self.connect(server)
        waiting = server.desk.reserve("S", {}).token
        old = server.desk.promised(waiting)
        self.services.write_text('{"T": {"script": "script.py", "count": 70, "options": {}}}')
        await server.reload()
        self.assertEqual(list(server.desk.offers), ["T"])
        self.assertRaises(NoSuchService, server.desk.reserve, "S", {})
        self.assertIs(server.desk.promised(waiting), old)
        self.assertEqual(client.frames[-1], (2, b"hello"))
        client.transport.loseConnection()
        await client.lost
        server.desk.release(waiting)
        while server.desk.live():
            await deferLater(reactor, 0.01)

    async def test_two_reloads(self) -> None:
        """A reload that takes long does not undo a later one."""
        server = self.make()
        server.startService()
        slow = "import time\ntime.sleep(1)\n"
        (self.folder / "slow.py").write_text(slow + SCRIPT)
        self.services.write_text('{"Old": {"script": "slow.py", "count": 1, "options": {}}}')
        first = server.reload()
        await deferLater(reactor, 0.3)
        self.services.write_text('{"New": {"script": "script.py", "count": 1, "options": {}}}')
        await server.reload()
        self.assertFalse(first.called)
        await first
        self.assertEqual(list(server.desk.offers), ["New"])

    async def test_reload_of_users(self) -> None:
        """Users are read again; with a mistake in their file all stays as it is."""
        users = self.folder / "users"
        users.write_text(ALICE)
        server = self.make(htpasswd=str(users))
        server.startService()
        self.assertEqual((await server.doorkeeper.caller(basic())).user, "alice")
        users.write_text("alice")
        with capturedLogs() as events:
            await server.reload()
        self.assertIn(f"{users}: line 1", "".join(e.get("why", "") for e in events))
        self.assertEqual((await server.doorkeeper.caller(basic())).user, "alice")
        users.write_text(f"bob:{hashed('x')}")
        await server.reload()
        with self.assertRaises(Unauthorized):
            await server.doorkeeper.caller(basic())
        self.assertEqual((await server.doorkeeper.caller(basic("bob", "x"))).user, "bob")

    async def test_reload_with_problems(self) -> None:
        """Where anything is wrong, nothing changes, and the log names all of it."""
        server = self.make()
        server.startService()
        before = server.desk.offers
        wrong = '{"T": {"script": "none.py", "count": 1, "options": {}}, "U": 7}'
        for text in (wrong, "{", '{"T": {"script": "none.py", "count": 1, "options": {}}}'):
            self.services.write_text(text)
            with capturedLogs() as events:
                await server.reload()
            self.assertIs(server.desk.offers, before)
            (said,) = [e for e in events if "not reloaded" in (e.get("log_format") or "")]
            self.assertNotEqual(said["why"], "")

    def test_redirect(self) -> None:
        """A plain port that leads to https is listened on, and told."""
        both = self.folder / "both.pem"
        both.write_bytes(b"".join(certificate("one")))
        server = self.make(cert=str(both), https_redirect_port=0)
        with capturedLogs() as events:
            server.startService()
        (line,) = [e["line"] for e in events if "line" in e]
        self.assertIn(f"http://127.0.0.1:{server.redirect_port}/ (leads to https)", line)
        self.assertNotIn(server.redirect_port, (None, server.http_port))

    async def test_reload_of_the_certificate(self) -> None:
        """New connections see the new certificate; a wrong one leaves the old in place."""
        cert, key = self.folder / "cert.pem", self.folder / "key.pem"
        for path, pem in zip((cert, key), certificate("one"), strict=True):
            path.write_bytes(pem)
        server = self.make(cert=str(cert), key=str(key))
        server.startService()
        first = server._tls.getContext()
        cert.write_bytes(certificate("two")[0])
        with capturedLogs() as events:
            await server.reload()
        said = [e["why"] for e in events if "not reloaded" in (e.get("log_format") or "")]
        self.assertIn("does not belong to the certificate", said[0])
        self.assertIs(server._tls.getContext(), first)
        for path, pem in zip((cert, key), certificate("two"), strict=True):
            path.write_bytes(pem)
        await server.reload()
        self.assertIsNot(server._tls.getContext(), first)

    async def test_started_in_two_steps(self) -> None:
        """twistd lets services listen first and start later, which listens once."""
        server = self.make()
        server.privilegedStartService()
        port = server.http_port
        server.startService()
        self.assertEqual((server.http_port, len(server._ports)), (port, 1))

    async def test_stop_by_rest(self) -> None:
        """Embedded, /v1/stop stops this service, or does what the host of it wants."""
        wanted: Deferred[None] = Deferred()
        for stop in (None, lambda: wanted.callback(None)):
            server = make_service(reactor, stop, http_port=0, interface="127.0.0.1")
            server.startService()
            self.addCleanup(server.stopService)
            where = TCP4ClientEndpoint(reactor, "127.0.0.1", server.http_port)
            client = await where.connect(Factory.forProtocol(Client))
            client.transport.write(
                b"GET /v1/stop HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            await client.lost
            self.assertIn(b'{"stopping": true}', client.got)
            self.assertEqual(bool(server.running), stop is not None)
        await wanted

    async def test_tls(self) -> None:
        """With a certificate it is https and wss, and the line says so."""
        cert, key = certificate("localhost")
        (self.folder / "both.pem").write_bytes(key + cert)
        server = self.make(cert=str(self.folder / "both.pem"))
        with capturedLogs() as events:
            server.startService()
        (line,) = [e["line"] for e in events if "line" in e]
        self.assertIn(f"listens on https://127.0.0.1:{server.http_port}/", line)
        # Without options a client trusts everybody.
        trusting = CertificateOptions()
        where = SSL4ClientEndpoint(reactor, "127.0.0.1", server.http_port, trusting)
        client = await where.connect(Factory.forProtocol(Client))
        client.transport.write(b"GET /v1/services HTTP/1.0\r\n\r\n")
        await client.lost
        self.assertIn(b" 200 OK", client.got)

    def test_tls_key_of_another(self) -> None:
        """A key that is not the certificate's is told before anything listens."""
        (self.folder / "cert.pem").write_bytes(certificate("a")[0])
        (self.folder / "key.pem").write_bytes(certificate("b")[1])
        files = {name: str(self.folder / f"{name}.pem") for name in ("cert", "key")}
        self.assertRaises(ConfigError, self.make, **files)

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

    def test_no_pidfd(self) -> None:
        """A host on which no session could be ended is told before anything listens."""

        def missing(pid: int) -> int:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

        self.patch(os, "pidfd_open", missing)
        server = self.make()
        error = self.assertRaises(ConfigError, server.privilegedStartService)
        self.assertIn("Linux 5.3 is needed", str(error))
        self.assertEqual((server.http_port, server._ports), (None, []))

    async def test_all_ports_or_none(self) -> None:
        """Where one port is taken, the other is given back."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            server = self.make(ws_port=taken.getsockname()[1])
            self.assertRaises(CannotListenError, server.startService)
        while listens(server.http_port):
            await deferLater(reactor, 0.01)

    def banner(self, **settings: Any) -> tuple[str, str]:
        """Return the line at the start, and the address that is listened on."""
        server = self.make(**settings)
        with capturedLogs() as events:
            server.startService()
        (line,) = [e["line"] for e in events if "line" in e]
        return line.replace(str(server.http_port), "PORT"), server._ports[0].getHost().host

    def test_addresses(self) -> None:
        """Without a source of identity this machine alone is served, unless that is said."""
        served, alone = "(pages, REST and websockets); offers S x2", "this machine alone"
        line, host = self.banner(interface=None)
        self.assertEqual(host, "127.0.0.1")
        self.assertIn(f"http://localhost:PORT/ {served}; for {alone}: give --interface", line)
        for settings in (
            {"interface": None, "security_token": "sesame"},
            {"interface": ""},
            {"interface": "0.0.0.0"},
        ):
            line, host = self.banner(**settings)
            self.assertEqual(host, "0.0.0.0")
            self.assertTrue(line.endswith(f"http://0.0.0.0:PORT/ {served}"), line)

    def test_own_names(self) -> None:
        """The names of this machine are looked up once, and are those that may be asked for."""
        self.assertIn(socket.gethostname(), own_names())
        self.assertIs(own_names(), own_names())
        self.make().tunnels.hosts.check(f"{socket.gethostname()}:9090")
        self.assertRaises(Misdirected, self.make().tunnels.hosts.check, "evil.example")
        self.make(security_token="sesame").tunnels.hosts.check("evil.example")

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
        group = "G has a group, and nobody can prove to be in it"
        self.assertIn(group, "".join(e.get("what", "") for e in events))
        users = self.folder / "users"
        users.write_text(ALICE)
        users.chmod(0o666)
        with capturedLogs() as others:
            self.make(htpasswd=str(users), bind_user=True, ws_port=0).startService()
        told = "".join(e.get("what", "") for e in others)
        self.assertIn(f"{users}: everybody on this machine may write it", told)
        self.assertEqual(told.count("browsers send no password"), 1)
        self.assertNotIn(group, told)
        (line,) = [e["line"] for e in events if "line" in e]
        self.assertIn("a tunnel to 127.0.0.1:5901 without token", line)

    def test_without_novnc(self) -> None:
        """A server whose viewer cannot work says so."""
        self.patch(server_module, "WEB", self.folder)
        with capturedLogs() as events:
            self.make().startService()
        self.assertTrue([e for e in events if "noVNC" in e["log_format"]])

    def test_bad_settings(self) -> None:
        """Whoever embeds the server is told everything that is wrong."""
        error = self.assertRaises(ConfigError, make_service, reactor, http_port="x", nonsense=1)
        self.assertEqual(len(error.problems), 2)
        self.assertRaises(ConfigError, make_service, reactor, cert="/no/such")
