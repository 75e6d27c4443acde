"""Requests that could be read in two ways: never two answers for one, direct and behind nginx."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.parts import Server, echo_services, folder, free_port, until
from tests.integration.raw import dial, exchange, status_of
from tests.wires import frame, request

#: What must never be taken for a request, wherever it stands.
SMUGGLED = b"GET /v1/reserve/Echo?smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n"
#: A request that may be answered, and ends the connection.
LAST = b"GET /last HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

LENGTH = b"%d" % len(SMUGGLED)
CHUNK = b"%x" % len(SMUGGLED)
CHUNKED = b"Transfer-Encoding: chunked"
END = b"0\r\n\r\n"


def post(*headers: bytes, line: bytes = b"POST /none HTTP/1.1") -> bytes:
    return b"\r\n".join([line, b"Host: localhost", *headers, b"", b""])


#: By what is odd about each: head and, as body or behind it, what is to be smuggled.
FORMS = {
    "both, chunks end": post(b"Content-Length: " + LENGTH, CHUNKED) + END + SMUGGLED,
    "both, the other way round": post(CHUNKED, b"Content-Length: 5") + END + SMUGGLED,
    "both, length 0": post(b"Content-Length: 0", CHUNKED) + CHUNK + b"\r\n" + SMUGGLED,
    "chunked twice": post(CHUNKED, CHUNKED) + END + SMUGGLED,
    "chunked, identity": post(b"Transfer-Encoding: chunked, identity") + END + SMUGGLED,
    "identity": post(b"Transfer-Encoding: identity", b"Content-Length: " + LENGTH) + SMUGGLED,
    "xchunked": post(b"Transfer-Encoding: xchunked") + END + SMUGGLED,
    "gzip, chunked": post(b"Transfer-Encoding: gzip, chunked") + END + SMUGGLED,
    "blank before colon": post(b"Transfer-Encoding : chunked") + END + SMUGGLED,
    "blank before name": post(b" Transfer-Encoding: chunked") + END + SMUGGLED,
    "tab": post(b"Transfer-Encoding:\tchunked", b"Content-Length: 9") + END + SMUGGLED,
    "vertical tab": post(b"Transfer-Encoding:\x0bchunked") + END + SMUGGLED,
    "NUL": post(b"Transfer-Encoding: chunked\x00") + END + SMUGGLED,
    "quoted": post(b'Transfer-Encoding: "chunked"') + END + SMUGGLED,
    "folded": post(b"X: y\r\n Transfer-Encoding: chunked") + END + SMUGGLED,
    "folded value": post(b"Transfer-Encoding:\r\n chunked") + END + SMUGGLED,
    "bare LF hides it": post(b"X: y\nTransfer-Encoding: chunked") + END + SMUGGLED,
    "bare CR hides it": post(b"X: y\rTransfer-Encoding: chunked") + END + SMUGGLED,
    "underscore": post(b"Transfer_Encoding: chunked", b"Content-Length: " + LENGTH) + SMUGGLED,
    "two lengths": post(b"Content-Length: 0", b"Content-Length: " + LENGTH) + SMUGGLED,
    "two lengths in one": post(b"Content-Length: 0, " + LENGTH) + SMUGGLED,
    "length twice": post(b"Content-Length: 0", b"Content-Length: 0") + SMUGGLED,
    "plus": post(b"Content-Length: +0") + SMUGGLED,
    "minus": post(b"Content-Length: -1") + SMUGGLED,
    "hexadecimal": post(b"Content-Length: 0x0") + SMUGGLED,
    "digits with blank": post(b"Content-Length: 0 " + LENGTH) + SMUGGLED,
    "digits with _": post(b"Content-Length: 0_0") + SMUGGLED,
    "other digits": post(b"Content-Length: \xd9\xa0") + SMUGGLED,
    "no digits": post(b"Content-Length: ") + SMUGGLED,
    "too many digits": post(b"Content-Length: 1" + b"0" * 30) + SMUGGLED,
    "chunk size plus": post(CHUNKED) + b"+0\r\n\r\n" + SMUGGLED,
    "chunk size minus": post(CHUNKED) + b"-0\r\n\r\n" + SMUGGLED,
    "chunk size 0x": post(CHUNKED) + b"0x0\r\n\r\n" + SMUGGLED,
    "chunk size blank": post(CHUNKED) + b" 0\r\n\r\n" + SMUGGLED,
    "chunk size _": post(CHUNKED) + b"0_0\r\n\r\n" + SMUGGLED,
    "chunk size too large": post(CHUNKED) + b"1" + b"0" * 16 + b"\r\n" + SMUGGLED,
    "chunk without end": post(CHUNKED) + b"1\r\nab0\r\n\r\n" + SMUGGLED,
    "chunk ends with LF": post(CHUNKED) + b"0\n\n" + SMUGGLED,
    "chunk extension with LF": post(CHUNKED) + b"2;\nxx\r\n" + CHUNK + b"\r\n" + SMUGGLED,
    "in the trailer": post(CHUNKED) + b"0\r\nX: y\r\n" + SMUGGLED,
    "in a body": post(b"Content-Length: " + LENGTH) + SMUGGLED,
    "in the body of a GET": post(b"Content-Length: " + LENGTH, line=b"GET / HTTP/1.1") + SMUGGLED,
    "in a chunk": post(CHUNKED) + CHUNK + b"\r\n" + SMUGGLED + b"\r\n" + END,
    "no hop": post(b"Connection: Content-Length", b"Content-Length: " + LENGTH) + SMUGGLED,
    "HTTP/1.0 chunked": post(CHUNKED, line=b"POST /none HTTP/1.0") + END + SMUGGLED,
    "HTTP/0.9": b"GET /\r\n\r\n" + SMUGGLED,
    "HTTP/2": post(line=b"GET / HTTP/2.0") + SMUGGLED,
    "no version number": post(line=b"GET / HTTP/1.x") + SMUGGLED,
    "blanks in the line": b"GET / HTTP/1.1 GET /v1/reserve/Echo?smuggled HTTP/1.1\r\n\r\n",
    "blank in a name": post(b"Content Length: 0") + SMUGGLED,
    "no name": post(b": x") + SMUGGLED,
    "no colon": post(b"Content-Length") + SMUGGLED,
    "upgrade with a body": post(
        b"Upgrade: websocket", b"Connection: Upgrade", b"Content-Length: " + LENGTH,
        line=b"GET /?token=x HTTP/1.1",
    ) + SMUGGLED,
}  # fmt: skip


NGINX = """
daemon off; pid {path}/pid; error_log {path}/error.log; events {{}}
http {{
  log_format told "$upstream_status";
  access_log {path}/access.log told;
  client_body_temp_path {path}/body; proxy_temp_path {path}/proxy;
  fastcgi_temp_path {path}/fastcgi; uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;
  upstream wsserver {{ server 127.0.0.1:{inner}; keepalive 4; }}
  client_header_timeout 2s; client_body_timeout 2s;
  server {{
    listen 127.0.0.1:{outer};
    ignore_invalid_headers off; underscores_in_headers on;
    location / {{
      proxy_pass http://wsserver; proxy_http_version 1.1; proxy_request_buffering off;
      proxy_set_header Connection "";
    }}
  }}
}}
"""


class SmugglingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = self.enterContext(folder())

    def serve(self, *args: object) -> Server:
        services = echo_services(self.folder)
        common = ("-c", services, "--interface", "127.0.0.1", "--http_port", 0, "-v")
        times = ("--head_timeout", 2, "--body_timeout", 2)
        return self.enterContext(Server(*common, *times, *args))

    def send(self, port: int) -> dict[str, list[int]]:
        """Send all forms at a time, each with a last request behind it; return the statuses."""
        with ThreadPoolExecutor(8) as threads:
            answers = threads.map(lambda form: exchange(port, form + LAST), FORMS.values())
            found = [re.findall(rb"HTTP/1\.[01] (\d+) ", answer) for answer in answers]
        return {name: list(map(int, codes)) for name, codes in zip(FORMS, found, strict=True)}

    def answered(self, server: Server) -> list[str]:
        """Stop the server; return its notes of requests that it has answered."""
        server.stop()
        return [line for line in server.log.splitlines() if "wsserver.access" in line]

    def check(self, server: Server, statuses: dict[str, list[int]], most: int) -> list[str]:
        """One answer for the odd request, and none behind an error; nothing was smuggled."""
        self.assertGreater(len(statuses), 50)
        for name, codes in statuses.items():
            self.assertLessEqual(len(codes), 1 if codes[:1] == [400] else most, name)
        answered = self.answered(server)
        self.assertEqual([line for line in answered if "smuggled" in line], [])
        return answered

    def test_direct(self) -> None:
        """The HTTP port answers once what it answers, and hangs up where it is in doubt."""
        server = self.serve()
        statuses = self.send(server.http_port)
        answered = self.check(server, statuses, most=2)
        self.assertEqual(len(answered), sum(map(len, statuses.values())))
        refused = [name for name, codes in statuses.items() if codes[:1] == [400]]
        self.assertGreater(len(refused), 40)

    def test_websocket_port(self) -> None:
        """A websocket listener of its own reads one request of a connection."""
        server = self.serve(0)
        statuses = self.send(server.ws_port)
        self.check(server, statuses, most=1)
        for name, codes in statuses.items():
            self.assertTrue(all(400 <= code < 500 for code in codes), (name, codes))

    def test_nginx(self) -> None:
        """What nginx takes for one request is one here, too, over connections that it shares."""
        server = self.serve()
        outer = self.enterContext(nginx(self.folder, server.http_port))
        self.send(outer)
        answered = len(self.answered(server))
        self.assertGreater(answered, 10)
        log = self.folder / "access.log"
        # A line that holds no status of ours is an answer of nginx alone.
        until(lambda: len([n for n in log.read_text().splitlines() if n != "-"]) == answered)


class CrossProtocolTests(SynchronousTestCase):
    """What is no websocket client brings no byte to a service (RFC 6455, section 10.3)."""

    def setUp(self) -> None:
        self.listener = self.enterContext(socket.create_server(("127.0.0.1", 0)))
        self.listener.settimeout(20)
        target = ("--client_port", self.listener.getsockname()[1])
        common = ("--interface", "127.0.0.1", "--http_port", 0)
        self.servers = [self.enterContext(Server(*port, *common, *target)) for port in ((), (0,))]

    def test_unmasked(self) -> None:
        """A frame that is not masked ends the tunnel, whatever it is."""
        for server in self.servers:
            for opcode in range(16):
                with dial(server.ws_port) as browser:
                    browser.sendall(request())
                    service = self.enterContext(self.listener.accept()[0])
                    service.settimeout(20)
                    self.assertIn(b" 101 ", browser.recv(4096))
                    browser.sendall(bytes([0x80 | opcode, 5]) + b"spike" + frame(b"more"))
                    self.assertEqual(service.recv(100), b"", opcode)

    def test_no_upgrade(self) -> None:
        """Only GET by HTTP/1.1, version 13 and a good key make a websocket."""
        good = request()
        key = b"dGhlIHNhbXBsZSBub25jZQ=="
        for server in self.servers:
            for old, new in (
                (b"GET ", b"POST "),
                (b"GET ", b"OPTIONS "),
                (b"HTTP/1.1", b"HTTP/1.0"),
                (b"HTTP/1.1", b"HTTP/2.0"),
                (b"Version: 13", b"Version: 8"),
                (b"Version: 13", b"Version: x"),
                (key, b"short"),
                (key, b"?" * 24),
                (b"Sec-WebSocket-Key: " + key, b"X: y"),
                (b"Connection: Upgrade", b"Connection: close"),
                (b"Host: localhost\r\n", b""),
            ):
                self.assertIn(old, good)
                status = status_of(server.ws_port, good.replace(old, new) + frame(b"spike"))
                self.assertIn(status, range(400, 500), (server.ws_port, old, new))
            h2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            self.assertIn(status_of(server.ws_port, h2), (400, 405))
        self.listener.settimeout(0)
        self.assertRaises(BlockingIOError, self.listener.accept)


@contextmanager
def nginx(path: Path, inner: int) -> Iterator[int]:
    """Run nginx in front of a port; yield its own."""
    outer = free_port()
    conf = path / "nginx.conf"
    conf.write_text(NGINX.format(path=path, inner=inner, outer=outer))
    process = subprocess.Popen(["nginx", "-e", str(path / "error.log"), "-c", str(conf)])
    try:
        until(lambda: socket.socket().connect_ex(("127.0.0.1", outer)) == 0)
        yield outer
    finally:
        process.terminate()
        process.wait()
