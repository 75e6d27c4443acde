"""Too many, too slow, and through a proxy: whoever else is there does not notice."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from tests.integration.parts import (
    ECHO,
    TRUSTING,
    Server,
    certificate,
    connect,
    echo_services,
    fetch,
    folder,
    free_port,
    until,
)
from tests.integration.raw import dial
from tests.wires import frame, frames, request

NO_LIMITS = ("--max_connections_per_address", 0, "--max_reservations_per_address", 0)
GET = b"GET /v1/services HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def ask(port: int, secure: bool = False, data: bytes = GET, address: str = "127.0.0.1") -> bytes:
    """Return the answer to a request from one of this machine's addresses, b"" if there is none."""
    answer = b""
    with socket.socket() as plain, contextlib.suppress(OSError):
        plain.settimeout(30)
        plain.bind((address, 0))
        plain.connect(("127.0.0.1", port))
        wrapped = TRUSTING.wrap_socket(plain, server_hostname="localhost") if secure else plain
        wrapped.sendall(data)
        while chunk := wrapped.recv(65536):
            answer += chunk
    return answer


class Slow:
    """Clients that never come to the end of what they say."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        #: Of those that are still there: since when, and what they go on to say.
        self.open: dict[socket.socket, tuple[float, bytes]] = {}
        #: How long those were there that are gone.
        self.gone: list[float] = []

    def add(self, count: int, port: int, first: bytes, then: bytes = b"") -> None:
        for _ in range(count):
            client = socket.create_connection(("127.0.0.1", port))
            client.sendall(first)
            client.setblocking(False)
            self.open[client] = (time.monotonic(), then)
            self.selector.register(client, selectors.EVENT_READ)

    def go_on(self, seconds: float) -> None:
        """Say a little more, again and again, until all are gone or the time is over."""
        end = time.monotonic() + seconds
        while self.open and time.monotonic() < end:
            for client, (_, then) in self.open.items():
                with contextlib.suppress(OSError):
                    client.send(then)
            turn = time.monotonic() + 0.25
            while (left := turn - time.monotonic()) > 0 and self.open:
                for key, _ in self.selector.select(left):
                    self.read(key.fileobj)

    def read(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            if client.recv(4096):
                return
        self.gone.append(time.monotonic() - self.open.pop(client)[0])
        self.selector.unregister(client)
        client.close()

    def close(self) -> None:
        for client in self.open:
            client.close()
        self.selector.close()


class SlowTests(SynchronousTestCase):
    def setUp(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
        self.folder = self.enterContext(folder())

    def test_a_thousand(self) -> None:
        """A thousand slow heads, bodies and TLS handshakes hold nobody up, and end in time."""
        cert, key = certificate(self.folder)
        times = ("--head_timeout", 4, "--body_timeout", 4, *NO_LIMITS)
        common = ("-c", echo_services(self.folder), "--http_port", 0, *times)
        plain = self.enterContext(Server(*common))
        secure = self.enterContext(Server(*common, "--cert", cert, "--key", key, 0))
        slow = Slow()
        self.addCleanup(slow.close)
        post = b"POST /v1/stop HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n"
        slow.add(400, plain.http_port, b"GET / HTTP/1.1\r\n", b"X: y\r\n")
        slow.add(300, plain.http_port, post, b"x")
        slow.add(100, secure.http_port, b"")
        slow.add(100, secure.http_port, b"\x16\x03\x01\x02\x00\x01\x00\x01", b"\xfc")
        slow.add(50, secure.ws_port, b"")
        slow.add(50, secure.ws_port, b"\x16\x03\x01\x02\x00\x01\x00\x01", b"\xfc")
        waited: list[float] = []

        def others() -> None:
            while slow.open:
                for port, by_tls in ((plain.http_port, False), (secure.http_port, True)):
                    began = time.monotonic()
                    self.assertIn(b" 200 OK", ask(port, by_tls))
                    waited.append(time.monotonic() - began)

        other = threading.Thread(target=others)
        other.start()
        slow.go_on(20)
        left = len(slow.open)
        slow.open.clear()
        other.join()
        waited.sort()
        p99 = waited[len(waited) * 99 // 100]
        print(
            f"\n1000 slow clients: all gone after {max(slow.gone, default=0):.2f} s of 4; "
            f"{len(waited)} others: median {waited[len(waited) // 2] * 1000:.1f} ms, "
            f"p99 {p99 * 1000:.1f} ms, longest {waited[-1] * 1000:.1f} ms"
        )
        self.assertEqual((left, len(slow.gone)), (0, 1000))
        self.assertLess(max(slow.gone), 5)
        self.assertLess(p99, 0.2)

    def test_closes_that_never_come(self) -> None:
        """Who takes no answer, or never ends TLS, is cut off, on either port."""
        cert, key = certificate(self.folder)
        server = self.enterContext(
            Server("-c", echo_services(self.folder), "--http_port", 0, "--cert", cert, "--key", key,
                   "--close_timeout", 1, "--head_timeout", 2, 0)
        )  # fmt: skip
        for port, data in ((server.http_port, GET), (server.ws_port, request(""))):
            client = dial(port, secure=True)
            client.sendall(data)
            # Python answers the end of TLS only when it is told to; the socket alone tells more.
            raw = socket.socket(fileno=os.dup(client.fileno()))
            raw.settimeout(20)
            began = time.monotonic()
            with contextlib.suppress(ConnectionError):
                while raw.recv(65536):
                    pass
            self.assertLess(time.monotonic() - began, 10)
            raw.close()
            client.detach()


class FloodTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = self.enterContext(folder())

    def test_one_address(self) -> None:
        """One address has its connections exactly; others do not notice, and all is given back."""
        services = echo_services(self.folder)
        server = self.enterContext(
            Server("-c", services, "--http_port", 0, "--max_connections_per_address", 50)
        )
        clients = [socket.create_connection(("127.0.0.1", server.http_port)) for _ in range(1000)]
        began = time.monotonic()
        self.assertIn(b" 200 OK", ask(server.http_port, address="127.0.0.2"))
        waited = time.monotonic() - began
        answers = [self.answer(client) for client in clients]
        print(
            f"\n1000 connections of one address, 50 allowed; another waited {waited * 1000:.1f} ms"
        )
        self.assertEqual(
            [answers.count(code) for code in (b"200", b"429", b"")], [50, 50, 900], answers
        )
        for client in clients:
            client.close()
        until(lambda: b" 200 OK" in ask(server.http_port))
        self.assertIn(b"Retry-After", self.refusal(server))

    def answer(self, client: socket.socket) -> bytes:
        # So that those that are served are there all at one time.
        keep = GET.replace(b"close", b"keep-alive")
        with contextlib.suppress(ConnectionError):
            client.sendall(keep)
            if answer := client.recv(4096):
                return answer.split(b" ", 2)[1]
        return b""

    def refusal(self, server: Server) -> bytes:
        """Return what the first gets that is one too many."""
        with contextlib.ExitStack() as held:
            for _ in range(50):
                held.enter_context(dial(server.http_port))
            return until(lambda: answer if b" 429 " in (answer := ask(server.http_port)) else b"")

    def test_few_files(self) -> None:
        """With few open files, most of many clients are refused, and all services still end."""
        (self.folder / "few").write_text(
            f'#!/bin/sh\nulimit -n 128\nexec "{Path(sys.executable).with_name("twistd")}" "$@"\n'
        )
        (self.folder / "few").chmod(0o755)
        services = echo_services(self.folder, count=500, options={})
        server = self.enterContext(
            Server("-c", services, "--http_port", 0, *NO_LIMITS, twistd=str(self.folder / "few"))
        )
        tokens = [server.reserve() for _ in range(500)]
        served: list[Any] = []
        refused = 0
        for token in tokens:
            try:
                served.append(connect(f"{server.ws}?token={token}", open_timeout=60))
            except (InvalidStatus, InvalidMessage, EOFError, OSError):
                refused += 1
        print(f"\n128 files: {len(served)} of 500 websockets were let in, {refused} refused")
        self.assertGreater(len(served), 10)
        self.assertGreater(refused, 300)
        for number, client in enumerate(served):
            with contextlib.suppress(ConnectionClosed):
                client.send(b"%d" % number)
                client.recv(timeout=60)
        for client in served:
            client.close()
        until(lambda: not server.children(), 60)
        until(lambda: set(self.states(server)) == {"reserved"})
        with connect(f"{server.ws}?token={tokens[-1]}") as client:
            client.send(b"hello")
            self.assertEqual(client.recv(timeout=60), b"hello")
        server.stop()
        self.assertNotIn("Traceback", server.log)

    def states(self, server: Server) -> list[str]:
        """Return the states of the instances; none while the server has no room to tell them."""
        with contextlib.suppress(OSError, ValueError, LookupError):
            return [instance["state"] for instance in server.instances()]
        return []


class EarlyTests(SynchronousTestCase):
    """What a client sends with its request, on each kind of port (rows 36 and 37)."""

    def servers(self) -> Iterator[Server]:
        path = self.enterContext(folder())
        cert, key = certificate(path)
        common = ("-c", echo_services(path, count=4), "--http_port", 0)
        for tls in ((), ("--cert", cert, "--key", key)):
            for own in ((), (0,)):
                with Server(*common, *tls, *own) as server:
                    yield server

    def test_data_with_the_request(self) -> None:
        """It arrives, first and whole."""
        data = os.urandom(60_000)
        for server in self.servers():
            with dial(server.ws_port, bool(server.secure)) as client:
                client.sendall(request(f"?token={server.reserve()}") + frame(data))
                received = got = b""
                while len(got) < len(data):
                    received += (chunk := client.recv(65536))
                    self.assertTrue(chunk, received[:200])
                    # A head that is cut is told with the next bytes.
                    with contextlib.suppress(struct.error, IndexError):
                        found = frames(received.partition(b"\r\n\r\n")[2])
                        got = b"".join(payload for _, payload in found)
                self.assertEqual(got, data)

    def test_second_request(self) -> None:
        """A second request on the socket starts no second service."""
        for server in self.servers():
            tokens = [server.reserve() for _ in range(2)]
            answer = b""
            with dial(server.ws_port, bool(server.secure)) as client:
                client.sendall(b"".join(request(f"?token={token}") for token in tokens))
                with contextlib.suppress(ConnectionError):
                    while chunk := client.recv(65536):
                        answer += chunk
            self.assertEqual(answer.count(b"HTTP/1.1 "), 1)
            until(lambda server=server: [i["state"] for i in server.instances()] == ["reserved"])
            (left,) = server.instances()
            self.assertEqual(left["token"], tokens[1])


class ProxyTests(SynchronousTestCase):
    def test_haproxy(self) -> None:
        """HAProxy with both versions of the PROXY protocol, TLS going through it."""
        path = self.enterContext(folder())
        cert, key = certificate(path)
        server = self.enterContext(
            Server("-c", echo_services(path), "--http_port", 0, "--cert", cert, "--key", key,
                   "--trusted_proxies", "127.0.0.1", "--proxy_protocol", "-v")
        )  # fmt: skip
        ports = {version: free_port() for version in ("send-proxy", "send-proxy-v2")}
        site = (
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n"
        )
        for version, port in ports.items():
            site += f"listen {version}\n bind 127.0.0.1:{port}\n"
            site += f" server one 127.0.0.1:{server.http_port} {version}\n"
        (path / "haproxy.cfg").write_text(site)
        program = shutil.which("haproxy") or "/usr/sbin/haproxy"
        haproxy = subprocess.Popen([program, "-f", str(path / "haproxy.cfg")])
        self.addCleanup(haproxy.wait)
        self.addCleanup(haproxy.terminate)
        for port in ports.values():
            until(lambda port=port: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
            base = f"https://localhost:{port}"
            token = fetch(f"{base}/v1/reserve/Echo").json()["token"]
            url = f"wss://127.0.0.1:{port}/websockify?token={token}"
            with connect(url, local_addr=("127.0.0.9", 0)) as client:
                client.send(b"through HAProxy")
                self.assertEqual(client.recv(), b"through HAProxy")
                (instance,) = fetch(f"{base}/v1/status").json()[0]["instances"]
                # By loopback it came to HAProxy, and not to us.
                self.assertEqual(instance["client"], "127.0.0.9@127.0.0.1")
            until(lambda base=base: not fetch(f"{base}/v1/status").json()[0]["instances"])
        # Who is no listed proxy connects plainly, and is not believed.
        lie = b"PROXY TCP4 203.0.113.7 127.0.0.1 1 2\r\n"
        self.assertEqual(ask(server.http_port, data=lie + GET, address="127.0.0.3"), b"")
        self.assertIn(b" 200 OK", ask(server.http_port, secure=True, address="127.0.0.3"))
        server.stop()
        self.assertRegex(server.log, r"127\.0\.0\.9@127\.0\.0\.1 GET /websockify\?token=\*\*\* 101")
        self.assertRegex(server.log, r"127\.0\.0\.3 GET /v1/services 200")
        self.assertNotIn("203.0.113.7", server.log)


class LateTests(SynchronousTestCase):
    """Where the server itself was late, nobody pays for it, and the log tells (row 60)."""

    def serve(self, services: Path) -> Server:
        times = ("--ping_interval", 1, "--ping_timeout", 0.5, "--stall_timeout", 2)
        return self.enterContext(Server("-c", services, "--http_port", 0, *times))

    def echoes(self, client: Any, times: int = 1) -> None:
        for _ in range(times):
            client.send(b"hello")
            self.assertEqual(client.recv(timeout=30), b"hello")
            time.sleep(0.1)

    def test_stopped(self) -> None:
        """A server that was stopped for longer than any client may be silent drops nobody."""
        path = self.enterContext(folder())
        server = self.serve(echo_services(path))
        with connect(f"{server.ws}?token={server.reserve()}", ping_interval=None) as client:
            self.echoes(client)
            server.process.send_signal(signal.SIGSTOP)
            # The fault itself: so long nobody serves.
            time.sleep(6)
            server.process.send_signal(signal.SIGCONT)
            self.echoes(client, 30)
        server.stop()
        self.assertRegex(server.log, r"the server stood still for [5-9]\.\d s")

    def test_hogged(self) -> None:
        """So does one whose thread a script has held; which call that was is in the log."""
        path = self.enterContext(folder())
        slow = "    @classmethod\n    def check(cls, *_):\n        time.sleep(4)\n"
        (path / "slow_session.py").write_text(
            "import time\n" + ECHO.replace("class Echo", "class Slow") + slow
        )
        services = echo_services(path)
        found = json.loads(services.read_text())
        found["Slow"] = {"script": "slow_session.py", "count": 1, "options": {}}
        services.write_text(json.dumps(found))
        server = self.serve(services)
        with connect(f"{server.ws}?token={server.reserve()}", ping_interval=None) as client:
            self.echoes(client)
            server.reserve("Slow")
            self.echoes(client, 30)
        server.stop()
        self.assertRegex(server.log, r"the server stood still for [345]\.\d s, 0\.\d s of which")
        self.assertRegex(server.log, r"\t  File .*slow_session\.py.*, in check")
