"""What people see: front page, viewer, status page, assets, and the static files."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.python.filepath import FilePath
from twisted.web.http import Request
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.static import File
from twisted.web.template import Element, Tag, XMLFile, flattenString, renderer, tags

from wsserver.access import Caller, may_have, may_use
from wsserver.desk import Desk
from wsserver.lifecycle import Phase, Reservation
from wsserver.policy import CSP, Policy

#: The pages' own files; noVNC is brought in there at set-up.
WEB = Path(__file__).parent / "web"

#: How many parts of a file one request gets at most; who asks for more gets the whole.
MAX_RANGES = 4

_TYPES = {
    **File.contentTypes,
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".wasm": "application/wasm",
    ".svg": "image/svg+xml",
    ".gz": "application/gzip",
    ".bz2": "application/x-bzip2",
}


class Page(Resource):
    """One of our own HTML pages."""

    isLeaf = True

    def __init__(self, name: str, policy: Policy) -> None:
        super().__init__()
        self._path = WEB / name
        self._csp = policy.of_page(inline_styles=name == "terminal.html")

    def render_GET(self, request: Request) -> bytes:
        """Return the page."""
        page_headers(request, self._csp)
        return self._path.read_bytes()


def page_headers(request: Request, csp: str) -> None:
    """Set the headers of an HTML page of ours."""
    request.setHeader(CSP, csp)
    request.setHeader("Content-Type", "text/html; charset=utf-8")
    request.setHeader("Cache-Control", "no-cache")


class Files(File):
    """Files below one directory, read-only and browsable, and never outside of it."""

    contentTypes = _TYPES
    # A packed file is sent as it is: a browser that is told of the coding would unpack it.
    contentEncodings: dict[str, str] = {}  # noqa: N815
    indexNames = ["index.html"]

    #: The real path of the directory at the top.
    root: Path
    #: The Content-Security-Policy of a file.
    csp: str

    @classmethod
    def below(cls, directory: str | Path, csp: str) -> Files:
        """Return the tree of a directory."""
        # A file of a kind that nobody knows must not run as a page.
        files = cls(str(directory), defaultType="application/octet-stream")
        files.root, files.csp = Path(directory).resolve(), csp
        return files

    def getChild(self, path: bytes, request: IRequest) -> IResource:
        """Return a file or folder; links out of the root and dotfiles do not exist."""
        if path.startswith(b".") or not _is_text(path):
            return self.childNotFound
        try:
            child: IResource = super().getChild(path, request)
        except OSError:
            return self.forbidden
        if isinstance(child, Files) and not child.is_within():
            return self.childNotFound
        return child

    def is_within(self) -> bool:
        """Tell whether this is a file or folder of the root; to open a pipe would block."""
        real = Path(self.path).resolve()
        return real.is_relative_to(self.root) and (real.is_file() or real.is_dir())

    def render_GET(self, request: Request) -> Any:
        """Send a file; a folder has been found to be a listing or a redirect already."""
        if self.isfile():
            request.setHeader(CSP, self.csp)
        # Each may be the whole file; to pass over them is allowed (RFC 9110, section 14.2).
        if (request.getHeader("range") or "").count(",") >= MAX_RANGES:
            request.requestHeaders.removeHeader(b"range")
        return super().render_GET(request)

    render_HEAD = render_GET

    def listNames(self) -> list[str]:
        """Return what a listing shows."""
        return sorted(name for name in super().listNames() if not name.startswith("."))

    def redirect(self, request: Any) -> bytes:
        """Add the slash of a folder by a relative address: the Host is not ours to trust."""
        last = request.path.rsplit(b"/", 1)[-1]
        _, mark, query = request.uri.partition(b"?")
        request.setResponseCode(301)
        request.setHeader("Location", b"./" + last + b"/" + mark + query)
        return b""

    def createSimilarFile(self, path: str) -> Files:
        """Return a file of the same tree."""
        similar: Files = super().createSimilarFile(path)
        similar.root, similar.csp = self.root, self.csp
        return similar


def _is_text(name: bytes) -> bool:
    """Tell whether a name is UTF-8 without control characters."""
    try:
        return not any(letter < " " or letter == "\x7f" for letter in name.decode())
    except UnicodeDecodeError:
        return False


class StatusPage(Element):
    """The status as a table; the page reloads it by itself."""

    loader = XMLFile(FilePath(str(WEB / "status.xml")))

    def __init__(self, desk: Desk, caller: Caller) -> None:
        super().__init__()
        self._desk = desk
        self._caller = caller

    @renderer
    def summary(self, request: IRequest, tag: Tag) -> Tag:
        """Say in a line how much is in use."""
        count = sum(offer.spec.count for offer in self._desk.offers.values())
        return tag(f"{len(self._desk.live())} of {count} instances in use.")

    @renderer
    def rows(self, request: IRequest, tag: Tag) -> Iterator[Tag]:
        """Fill a row for each instance, or one for a service without any."""
        live = self._desk.live()
        for name, offer in self._desk.offers.items():
            if not (self._caller.operator or may_use(offer.spec, self._caller)):
                continue
            taken = [r for r in live if r.service == name]
            used = f"{len(taken)} of {offer.spec.count}"
            mine = [r for r in taken if may_have(r, self._caller)]
            for number, reservation in enumerate(mine):
                first = "first" if number == 0 else ""
                yield tag.clone().fillSlots(service=name, used=used, **_cells(reservation, first))
            if not mine:
                yield tag.clone().fillSlots(
                    **{"class": "first idle" if offer.unavailable is None else "first unavailable"},
                    service=name,
                    used=used,
                    index="",
                    state=offer.unavailable or ("none of yours" if taken else "free"),
                    iso="",
                    since="",
                    client="",
                    user="",
                    options="",
                    action="",
                )


def _cells(reservation: Reservation, first: str) -> dict[str, Any]:
    made = datetime.fromtimestamp(reservation.timestamp, UTC)
    ending = reservation.phase in (Phase.STOPPING, Phase.QUARANTINED)
    button = tags.button("Release", type="button", class_="release", data_token=reservation.token)
    button.attributes["data-token"] = button.attributes.pop("data_token")
    return {
        "class": f"{first} {reservation.phase.value}".strip(),
        "index": str(reservation.index),
        "state": _state(reservation),
        "iso": made.isoformat(),
        "since": made.strftime("%H:%M UTC"),
        "client": reservation.client,
        "user": reservation.user or "",
        "options": ", ".join(f"{k}={v}" for k, v in reservation.options.items()),
        "action": "" if ending else button,
    }


#: The words of pages.md.
_WORDS = {
    Phase.OPEN: "connected",
    Phase.STOPPING: "ending",
    Phase.QUARANTINED: "does not end",
}


def _state(reservation: Reservation) -> str:
    word = _WORDS.get(reservation.phase, reservation.phase.value)
    return f"{word}: {reservation.detail}" if reservation.detail else word


def status_page(policy: Policy, request: Request, desk: Desk, caller: Caller) -> Deferred[bytes]:
    """Render the status page with what the caller may see."""
    page_headers(request, policy.of_page())
    request.setHeader("Cache-Control", "no-store")
    html = flattenString(cast(IRequest, request), StatusPage(desk, caller))
    return html.addCallback(lambda body: b"<!DOCTYPE html>\n" + body)
