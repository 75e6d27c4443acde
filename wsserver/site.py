"""The HTTP port: which resource answers which path."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.web.http import Request as HTTPRequest
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource

from wsserver.errors import Misdirected, WSServerError
from wsserver.hosts import Hosts
from wsserver.pages import WEB, Files, Page
from wsserver.policy import Policy
from wsserver.provenance import check_host
from wsserver.replies import error_body

#: The pages for a session; the viewer also has the name that clients of the original know.
SESSION_PAGES = {
    b"viewer.html": "viewer.html",
    b"vnc_envision.html": "viewer.html",
    b"terminal.html": "terminal.html",
}

#: How pages and files may be asked for.
READ = (b"GET", b"HEAD")


class Root(Resource):
    """Finds the resource of a path (contract.md, "HTTP").

    ``websocket`` takes over every upgrade request, whatever its path, where
    websockets share the HTTP port; ``policy`` is what browsers are told of answers;
    ``hosts`` are the names by which they may ask.
    """

    def __init__(
        self,
        api: IResource,
        events: IResource,
        directory: str | None = None,
        websocket: IResource | None = None,
        policy: Policy = Policy(),  # noqa: B008  (never changed)
        hosts: Hosts = Hosts(),  # noqa: B008  (never changed)
    ) -> None:
        super().__init__()
        self._websocket = websocket
        self._hosts = hosts
        self.policy = policy
        self._files = Files.below(directory, policy.of_files) if directory is not None else None
        self.putChild(b"v1", api)
        assets = Files.below(WEB, policy.of_page())
        assets.putChild(b"events", events)
        self.putChild(b"wsserver", assets)

    def getChildWithDefault(self, path: bytes, request: Any) -> IResource:
        """Return the resource that answers."""
        if not _readable(request, request.postpath if path == b"v1" else ()):
            return Refusal(400, "BadRequest", "path and headers must be UTF-8")
        upgrade = request.getHeader("upgrade") or ""
        if self._websocket is not None and upgrade.lower() == "websocket":
            if request.clientproto != b"HTTP/1.1":
                # Autobahn is told that it is, whatever the client has said.
                return Refusal(400, "BadRequest", "a websocket needs HTTP/1.1")
            return self._websocket
        refusal = request.admit() or self._misdirected(request)
        if refusal is not None:
            return Refusal.of(refusal)
        if path != b"v1" and request.method not in READ:
            request.setHeader("Allow", b", ".join(READ))
            return Refusal(405, "MethodNotAllowed", "pages and files are only read")
        if path in self.children:
            child: IResource = self.children[path]
            return child
        if _reserved(path):
            return _not_here()
        if path in SESSION_PAGES and not self._has(path):
            return Page(SESSION_PAGES[path], self.policy)
        if self._files is not None:
            found: IResource = self._files.getChildWithDefault(path, request)
            return found
        return Page("front.html", self.policy) if path == b"" else _not_here()

    def _misdirected(self, request: Any) -> WSServerError | None:
        try:
            check_host(request, self._hosts, request.site.proxies)
        except Misdirected as error:
            return error
        return None

    def _has(self, name: bytes) -> bool:
        return self._files is not None and self._files.child(name.decode()).isfile()


class Refusal(Resource):
    """Answers with an error, whatever is asked."""

    isLeaf = True

    def __init__(
        self, status: int, error: str, message: str, retry_after: int | None = None
    ) -> None:
        super().__init__()
        self._error = (status, error, message)
        self._retry_after = retry_after

    @classmethod
    def of(cls, error: WSServerError) -> Refusal:
        """Return what answers with one of our errors."""
        return cls(error.http_status, type(error).__name__, str(error), error.retry_after)

    def render(self, request: IRequest) -> bytes:
        """Answer with the error."""
        assert isinstance(request, HTTPRequest)
        if self._retry_after is not None:
            request.setHeader("Retry-After", str(self._retry_after))
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
