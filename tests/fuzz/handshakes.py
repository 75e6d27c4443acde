"""Request heads, right and wrong, against the tunnel and the HTTP port in memory."""

from __future__ import annotations

import base64
import hashlib
import random
import re
from collections.abc import Iterator

from tests.fuzz.report import Problem
from tests.fuzz.world import World
from tests.wires import close, frame

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
_USUAL = (
    (b"Host", b"localhost"),
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Key", _KEY),
    (b"Sec-WebSocket-Version", b"13"),
)
_METHODS = (b"GET", b"POST", b"HEAD", b"PUT", b"get", b"CONNECT", b"OPTIONS", b"PRI", b"")
_VERSIONS = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1", b"")
_URIS = (
    b"/websockify?token=T",
    b"/websockify",
    b"/",
    b"*",
    b"?token=T",
    b"//evil.example/?token=T",
    b"http://localhost/x?token=T",
    b"/?token=",
    b"/?token=a&token=b",
    b"/?token=%ff%fe",
    b"/?token=%00",
    b"/?socket=x&token=T",
    b"/%zz?&&&=;=&token=T#f",
    b"/\xff\xfe?token=T",
    b"/?" + b"a=1&" * 1200,
    b"/[::1]?token=T",
    b"http://[bad/?token=T",
    b"/wsserver/../v1/status",
    b"/v1/status",
)
_NAMES = (
    b"Origin",
    b"Sec-WebSocket-Protocol",
    b"Sec-WebSocket-Extensions",
    b"Sec-WebSocket-Key",
    b"Sec-WebSocket-Version",
    b"Connection",
    b"Upgrade",
    b"Host",
    b"Content-Length",
    b"Transfer-Encoding",
    b"Expect",
    b"Cookie",
    b"Authorization",
    b"X-Forwarded-For",
    b"Forwarded",
    b"User-Agent",
    b"X-\xff",
    b"",
    b" Leading",
)
_VALUES = (
    b"binary",
    b"binary, base64",
    b"null",
    b"http://evil.example",
    b"http://localhost",
    b"http://[::1",
    b"permessage-deflate; client_max_window_bits",
    b"permessage-deflate; x=" + b"9" * 300,
    b"keep-alive, Upgrade",
    b"WebSocket",
    b"13",
    b"8",
    b"99999999999999999999",
    b"-1",
    b"0",
    b"chunked",
    b"100-continue",
    b"",
    b"\xff\xfe\x00",
    b"a" * 5000,
    b",,,;;;===",
    b"Basic Og==",
    b"Bearer \xff",
    b"for=unknown;proto=x",
    b"localhost:99999999",
    b"localhost:port",
    b"\tx\x0b",
)


def head(rng: random.Random) -> bytes:
    """Return a request head, mostly wrong in a few places."""
    method, uri, version = b"GET", b"/websockify?token=T", b"HTTP/1.1"
    headers = list(_USUAL)
    for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
        change = rng.randrange(8)
        place = rng.randrange(len(headers)) if headers else 0
        name, value = rng.choice(_NAMES), rng.choice(_VALUES)
        if change == 0:
            method = rng.choice(_METHODS)
        elif change == 1:
            version = rng.choice(_VERSIONS)
        elif change == 2:
            uri = rng.choice(_URIS)
        elif change == 3 and headers:
            del headers[place]
        elif change == 4 and headers:
            headers[place] = (headers[place][0], value)
        elif change == 5 and headers:
            headers.insert(place, headers[place])
        else:
            headers.insert(place, (name, value))
    colon, end = rng.choice((b": ", b":", b": ", b" : ")), b"\r\n"
    if rng.random() < 0.05:
        end = rng.choice((b"\n", b"\r", b"\r\n "))
    lines = [b" ".join((method, uri, version)), *(n + colon + v for n, v in headers), b"", b""]
    return _damaged(rng, end.join(lines))


def _damaged(rng: random.Random, whole: bytes) -> bytes:
    """Return it with bytes exchanged, cut off, or much too long, now and then."""
    chance = rng.random()
    if chance < 0.15:
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 5)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        return bytes(damaged)
    if chance < 0.2:
        return whole[: rng.randrange(len(whole))]
    if chance < 0.22:
        return whole[:-2] + b"X: " + b"x" * rng.choice((100, 16_000, 17_000, 70_000)) + b"\r\n\r\n"
    if chance < 0.24:
        return rng.randbytes(rng.randrange(600))
    return whole


def stream(rng: random.Random) -> bytes:
    """Return a head, and what some clients send right behind it."""
    whole = head(rng)
    if rng.random() < 0.2:
        again = b"GET / HTTP/1.1\r\n\r\n"
        whole += rng.choice((frame(b"early"), frame(b"", 9), close(), again, whole))
    return whole


def pieces(rng: random.Random, whole: bytes) -> Iterator[bytes]:
    """Yield it as it may come out of the network."""
    cuts = sorted(rng.randrange(len(whole) + 1) for _ in range(rng.choice((0, 0, 1, 2, 5))))
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        if begin < end:
            yield whole[begin:end]


def fuzz_handshakes(count: int, seed: int) -> Iterator[Problem]:
    """Dial so many times, by turns at the websocket port and the HTTP port."""
    with World() as world:
        for number in range(count):
            rng = random.Random(f"handshake {seed} {number}")
            what = f"handshake {number} of seed {seed}"
            whole = stream(rng)
            dialled = world.dial(to_site=number % 3 == 2)
            for piece in pieces(rng, whole):
                dialled.send(piece)
            problems = [_judge(dialled.answer(), whole), dialled.hang_up(), world.unhandled()]
            wrong = "; ".join(filter(None, problems))
            if wrong:
                yield Problem(what, f"{wrong}; sent {whole[:600]!r}")


def _judge(answer: bytes, sent: bytes) -> str | None:
    """Return what is wrong with an answer."""
    if not answer:
        return None
    status = re.match(rb"HTTP/1\.[01] (\d{3}) ", answer)
    if status is None:
        return f"no HTTP answer: {answer[:200]!r}"
    code = int(status[1])
    if code >= 500:
        return f"answered {answer[:200]!r}"
    if code == 101 and not _accepted(answer, sent):
        return f"accepted by {answer[:300]!r}"
    return None


def _accepted(answer: bytes, sent: bytes) -> bool:
    """Whether a 101 answers a request that may have it (RFC 6455, section 4.2)."""
    keys = re.findall(rb"(?i)sec-websocket-key\s*:\s*(\S+)", sent)
    wanted = {base64.b64encode(hashlib.sha1(key + _MAGIC).digest()) for key in keys}
    told = re.search(rb"Sec-WebSocket-Accept: (\S+)", answer)
    return sent.startswith(b"GET ") and told is not None and told[1] in wanted
