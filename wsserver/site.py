"""The HTTP port: which resource answers which path, and what holds for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.web.http import HTTPChannel
from twisted.web.http import Request as HTTPRequest
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request as WebRequest
from twisted.web.server import Site

from wsserver.forwarded import Proxies
from wsserver.pages import WEB, Files, Page
from wsserver.replies import error_body

#: The largest request body, in bytes; the REST interface needs almost none.
MAX_BODY = 64 * 1024

#: The pages for a session; the viewer also has the name that clients of the original know.
SESSION_PAGES = {
    b"viewer.html": "viewer.html",
    b"vnc_envision.html": "viewer.html",
    b"terminal.html": "terminal.html",
}


_access = Logger(namespace="wsserver.access")


class Root(Resource):
    """Finds the resource of a path (contract.md, "HTTP").

    ``websocket`` takes over every upgrade request, whatever its path, where
    websockets share the HTTP port.
    """

    def __init__(
        self,
        api: IResource,
        events: IResource,
        directory: str | None = None,
        websocket: IResource | None = None,
    ) -> None:
        super().__init__()
        self._websocket = websocket
        self._files = Files.below(directory) if directory is not None else None
        self.putChild(b"v1", api)
        assets = Files.below(WEB)
        assets.putChild(b"events", events)
        self.putChild(b"wsserver", assets)

    def getChildWithDefault(self, path: bytes, request: Any) -> IResource:
        """Return the resource that answers."""
        if not _readable(request, request.postpath if path == b"v1" else ()):
            return Refusal(400, "BadRequest", "path and headers must be UTF-8")
        upgrade = request.getHeader("upgrade") or ""
        if self._websocket is not None and upgrade.lower() == "websocket":
            return self._websocket
        if path in self.children:
            child: IResource = self.children[path]
            return child
        if _reserved(path):
            return _not_here()
        if path in SESSION_PAGES and not self._has(path):
            return Page(SESSION_PAGES[path])
        if self._files is not None:
            found: IResource = self._files.getChildWithDefault(path, request)
            return found
        return Page("front.html") if path == b"" else _not_here()

    def _has(self, name: bytes) -> bool:
        return self._files is not None and self._files.child(name.decode()).isfile()


class Refusal(Resource):
    """Answers with an error, whatever is asked."""

    isLeaf = True

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__()
        self._error = (status, error, message)

    def render(self, request: IRequest) -> bytes:
        """Answer with the error."""
        assert isinstance(request, HTTPRequest)
        return error_body(request, *self._error)


def _not_here() -> Refusal:
    return Refusal(404, "NotFound", "nothing is found here")


def _readable(request: HTTPRequest, segments: Iterable[bytes]) -> bool:
    """Tell whether what Klein and we read as text is UTF-8; both would log a traceback."""
    values = list(segments)
    for name in (b"host", b"upgrade", b"authorization"):
        values += request.requestHeaders.getRawHeaders(name, [])
    try:
        return all(value.decode() is not None for value in values)
    except UnicodeDecodeError:
        return False


def _reserved(path: bytes) -> bool:
    return path.startswith(b"ansys") or (path[:1] == b"v" and path[1:].isdigit())


class Request(WebRequest):
    """A request with a bounded body and the headers that every answer carries."""

    site: HTTPSite
    _refused = False
    _received = 0

    def getClientAddress(self) -> Any:  # noqa: N802
        """Return the address of who asks, as a listed front proxy tells it.

        Its port is 0 then: proxies do not tell it.
        """
        peer = super().getClientAddress()
        if not isinstance(peer, IPv4Address | IPv6Address):
            return peer
        hops = b",".join(self.requestHeaders.getRawHeaders(b"x-forwarded-for", []))
        host = self.site.proxies.client(peer.host, hops.decode("latin-1"))
        if host == peer.host:
            return peer
        return (IPv6Address if ":" in host else IPv4Address)("TCP", host, 0)

    def gotLength(self, length: int | None) -> None:
        """Refuse a body that says it is too large."""
        self._refused = length is not None and length > MAX_BODY
        super().gotLength(0 if self._refused else length)
        if self._refused:
            self._refuse()

    def handleContentChunk(self, data: bytes) -> None:
        """Refuse a body that turns out to be too large."""
        self._received += len(data)
        if self._refused:
            return
        if self._received > MAX_BODY:
            self._refused = True
            self._refuse()
        else:
            super().handleContentChunk(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Answer, unless the answer was a refusal already."""
        if not self._refused:
            super().requestReceived(command, path, version)

    def render(self, resrc: IResource) -> None:
        """Set the headers of every answer."""
        self.setHeader("Server", "wsserver")
        for name, value in self.site.headers:
            self.setHeader(name, value)
        super().render(resrc)

    def _refuse(self) -> None:
        channel: Any = self.channel
        headers = [("Server", "wsserver"), *channel.site.headers]
        headers += [("Content-Length", "0"), ("Connection", "close")]
        lines = ["HTTP/1.1 413 Content Too Large", *(f"{k}: {v}" for k, v in headers), "", ""]
        channel.transport.write("\r\n".join(lines).encode())
        channel.loseConnection()


class Channel(HTTPChannel):
    """A connection: each request has its time in all, however it trickles in."""

    def dataReceived(self, data: bytes) -> None:
        """Take bytes; unlike in twisted.web they buy no time."""
        LineReceiver.dataReceived(self, data)


class HTTPSite(Site):
    """The site; ``headers`` go with every answer, ``proxies`` know who asks.

    A request, its TLS handshake included, must be complete within ``head_timeout`` seconds
    from the connection, or from the last answer.
    """

    requestFactory = Request
    # Not the default, which could speak HTTP/2 as well.
    protocol = Channel  # type: ignore[assignment]
    noisy = False

    def __init__(
        self,
        root: Root,
        headers: Sequence[tuple[str, str]] = (),
        reactor: IReactorTime | None = None,
        head_timeout: float = 10.0,
        proxies: Proxies = Proxies(),  # noqa: B008  (never changed)
    ) -> None:
        super().__init__(root, timeout=head_timeout, reactor=reactor)
        self.headers = headers
        self.proxies = proxies

    def log(self, request: HTTPRequest) -> None:
        """Note an answered request; the log keeps the tokens out."""
        _access.info(
            "{peer} {method} {uri} {code} {length}",
            peer=request.getClientAddress().host,
            method=_text(request.method),
            uri=_text(request.uri),
            code=request.code,
            length=request.sentLength,
        )


def _text(outside: bytes) -> str:
    """Return bytes from outside in one short, harmless line."""
    return outside[:256].decode("utf-8", "replace").encode("unicode_escape").decode()
