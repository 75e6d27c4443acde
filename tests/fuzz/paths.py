"""Requests for files, pages and REST calls to a real server over real sockets."""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tests.fuzz.handshakes import pieces
from tests.fuzz.handshakes import stream as handshake
from tests.fuzz.report import Problem
from tests.fuzz.rest import unhandled
from tests.integration.parts import Server, echo_services, folder, until

#: What stands in a file outside of what is served.
CANARY = b"canary-3f1b"
#: A socket carries so many requests, if the server does not close it before.
BATCH = 20

_STEPS = (
    *("", ".", "..", "...", "%2e%2e", "%252e%252e", "..%2f", "%2e%2e%2f", "..%5c", "..\\"),
    *("%c0%ae%c0%ae", "%e0%80%ae", "%00", "a.txt%00.html", "%ff", "%zz", "%", "\xff", "~", "~root"),
    *("v1", "v2", "v1x", "ansys", "wsserver", "events", "static", "sub", "link", ".hidden"),
    *("a.txt", "viewer.html", "vnc_envision.html", "secret.txt", "etc", "passwd", "etc%2fpasswd"),
    *("services", "status", "status_view", "reserve", "release", "Echo", "%45cho", "openapi.json"),
    *(";x=1", "a b", "a%20b", "%0d%0aX:%20y", "<script>", "*", "C:", "con", "x" * 3000),
)
_FIELDS = (
    *(
        "file_ext=stl",
        "file_ext=a&file_ext=b",
        "security_token=x",
        "n=1",
        "%ff=%fe",
        "=",
        "&&",
        "?",
    ),
    *("token=T", "x=" + "y" * 4000, "a=1;b=2", "session_size=1x1", "%00=1", "user=u&groups=g"),
)
_HEADERS = (
    *("Range: bytes=0-1", "Range: bytes=9-1", "Range: bytes=-99999999999999999999", "Range: x"),
    *("Range: bytes=0-0,1-1,2-2,0-0", "If-Modified-Since: never", "If-None-Match: *"),
    *("If-Modified-Since: Sat, 99 Xyz 9999 99:99:99 GMT", "Accept-Encoding: gzip;q=x, *"),
    *("Content-Length: 5", "Content-Length: 99999999", "Content-Length: +5", "Content-Length: x"),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Expect: 100-continue"),
    *("Host: evil.example", "Host: [::1", "Host:", "Origin: null", "Origin: http://evil.example"),
    *("Content-Type: application/x-www-form-urlencoded", "Content-Type: multipart/form-data"),
    *("Content-Type: multipart/form-data; boundary=x", "Authorization: Basic !!!", "Cookie: a=b;;"),
    *("Authorization: Bearer", "Sec-Fetch-Site: cross-site", "Upgrade: h2c", "TE: trailers"),
    *("X-Forwarded-For: 1.2.3.4, x", "Connection: close", "Forwarded: for=\x01", "X: \xff"),
)
_BODIES = ("", "", "hello", "5\r\nhello\r\n0\r\n\r\n", "--x\r\n\r\n--x--", "a=%ff&a=1", "{")
_METHODS = (
    *("GET",) * 12,
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "PATCH",
    "get",
    "X",
)


def request_of(rng: random.Random) -> bytes:
    """Return a request that may be good."""
    if rng.random() < 0.1:
        return handshake(rng)
    path = "/" * rng.choice((1, 1, 1, 1, 2, 0))
    path += "/".join(rng.choice(_STEPS) for _ in range(rng.choice((1, 1, 2, 2, 3, 8))))
    query = "&".join(rng.choice(_FIELDS) for _ in range(rng.choice((0, 0, 0, 1, 2))))
    lines = [f"{rng.choice(_METHODS)} {path}{'?' + query if query else ''} HTTP/1.1"]
    lines += ["Host: localhost"] * (rng.random() < 0.95)
    lines += [rng.choice(_HEADERS) for _ in range(rng.choice((0, 0, 0, 1, 2, 4)))]
    body = rng.choice(
        ("", "", "hello", "5\r\nhello\r\n0\r\n\r\n", "--x\r\n\r\n--x--", "a=%ff&a=1", "{")
    )
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1")


def fuzz_paths(count: int, seed: int) -> Iterator[Problem]:
    """Send so many requests; after each socket the server must answer a plain one."""
    with _server() as server:
        process = psutil.Process(server.process.pid)
        server.get("/v1/status")
        before = process.num_fds()
        for batch in range(0, count, BATCH):
            what = f"requests from {batch} of seed {seed}"
            rng = random.Random(f"paths {seed} {batch}")
            sent = [request_of(rng) for _ in range(min(BATCH, count - batch))]
            wrong = _exchange(rng, server.http_port, sent)
            if wrong:
                yield Problem(what, f"{wrong}; sent {sent!r:.3000}")
        try:
            until(lambda: process.num_fds() <= before)
            until(lambda: not server.instances())
            assert server.get("/a.txt").status == 200
        except (AssertionError, OSError) as lost:
            yield Problem("requests", f"after the fuzz: {lost!r}")
    yield from (Problem("requests", line) for line in unhandled(server.log))


@contextmanager
def _server() -> Iterator[Server]:
    with folder() as path:
        www = path / "www"
        for place in (www / "sub", www / ".hidden"):
            place.mkdir(parents=True)
        (www / "a.txt").write_text("abc")
        (path / "secret.txt").write_bytes(CANARY)
        (www / ".hidden" / "secret.txt").write_bytes(CANARY)
        (www / "link").symlink_to(path)
        options = ["--http_directory", www, "--http_port", 0, "--interface", "127.0.0.1"]
        options += ["--allowed_hosts", "*"]
        services = echo_services(path, count=50)
        with Server("-c", services, *options, "--timeout", 1, *_LIMITS) as server:
            yield server


#: One client asks without end here.
_LIMITS = ("--max_reservations_per_address", 0)


def _exchange(rng: random.Random, port: int, sent: list[bytes]) -> str | None:
    """Send requests one after the other; return what is wrong with the answers."""
    got, sock = b"", None
    for one in sent:
        sock = sock or socket.create_connection(("127.0.0.1", port), 10)
        answer, ended = _ask(rng, sock, one)
        got += answer
        if ended or rng.random() < 0.2:
            sock.close()
            sock = None
    if sock is not None:
        sock.close()
    if CANARY in got:
        return "a file outside of what is served"
    # 503 is an answer of REST where all are in use.
    worst = re.search(rb"HTTP/1\.[01] 5(?!03)\d\d [^\r]*", got)
    return f"answered {worst[0]!r}" if worst else None


def _ask(rng: random.Random, sock: socket.socket, one: bytes) -> tuple[bytes, bool]:
    """Send a request in pieces; return what comes in a moment, and whether it was the last."""
    got = b""
    try:
        sock.settimeout(10)
        for piece in pieces(rng, one):
            sock.sendall(piece)
        # Where the request is not whole, no answer comes.
        sock.settimeout(0.02)
        while data := sock.recv(65536):
            got += data
            sock.settimeout(0.002)
    except TimeoutError:
        return got, False
    except OSError:
        pass
    return got, True
