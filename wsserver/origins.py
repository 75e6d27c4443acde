"""Which web pages may use us: those of our own host, and those of origins that are listed.

A browser says where a page comes from, and no page can forge it: ``Origin`` (RFC 6454;
RFC 6455, section 10.2), ``Sec-Fetch-Site`` (Fetch Metadata) and ``Referer``.  A client that
says nothing of the kind is no browser.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from wsserver.addresses import is_loopback
from wsserver.errors import Forbidden

#: Every origin, where it is said explicitly.
ANY = "*"

_HOST = r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?)"
_PORT = r"(?::(?P<port>[0-9]{1,5}))?"
# Only ASCII letters count: others would fold into them.
_FLAGS = re.ASCII | re.IGNORECASE
_AUTHORITY = re.compile(_HOST + _PORT, _FLAGS)
_ORIGIN = re.compile(rf"(?P<scheme>[a-z][a-z0-9+.-]*)://{_HOST}{_PORT}", _FLAGS)
# What every browser begins its name with (RFC 9110, section 10.1.5), and what they want to have of
# pictures, style sheets and the like.
_BROWSER = re.compile(r"Mozilla/")
_PART = re.compile(r"\s*(?:image/|video/|audio/|font/|text/css)", re.IGNORECASE)
_USUAL_PORTS = {"http": "80", "https": "443"}


@dataclass(frozen=True)
class Asked:
    """What a request says of itself: its ``Host``, and the page that it comes from.

    None where there is no such header; several of one name are joined with commas, which
    is never an origin.  ``agent`` and ``accept`` are told of what a browser may have sent by
    itself, as it loads a page or a part of one: a GET without a token of its own.
    """

    host: str | None
    origin: str | None = None
    site: str | None = None
    referer: str | None = None
    agent: str | None = None
    accept: str | None = None

    @property
    def loads(self) -> bool:
        """Whether this is plainly a browser that loads something."""
        return bool(_BROWSER.match(self.agent or "") or _PART.match(self.accept or ""))


def hosts_of(origins: Iterable[str]) -> list[str]:
    """Return the hosts of origins; that of every origin is any host."""
    known = (_ORIGIN.fullmatch(origin) for origin in origins)
    return [ANY for origin in origins if origin == ANY] + [o["host"] for o in known if o]


def host_of(authority: str | None) -> str | None:
    """Return the host that a ``Host`` header names, without its port; None if it names none."""
    found = _AUTHORITY.fullmatch(authority or "")
    return found["host"].lower() if found is not None else None


class Origins:
    """The origins that may use us beside those of our own host.

    Written as browsers do, ``https://app.example:8443``, or ``*`` for all.  Raises
    ValueError for anything else.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._allowed = {text if text == ANY else _canonical(text) for text in allowed}

    def lists(self, origin: str | None) -> bool:
        """Tell whether an origin is one of those that are listed."""
        if origin is None:
            return False
        try:
            return not self._allowed.isdisjoint((_canonical(origin), ANY))
        except ValueError:
            return False

    def check_websocket(self, asked: Asked) -> None:
        """Raise Forbidden unless a websocket may be opened.

        The port does not count, as websockets may have one of their own.
        """
        if asked.origin is not None and not self._at_home(asked.origin, asked.host):
            raise _foreign(asked.origin)

    def check_change(self, asked: Asked) -> None:
        """Raise Forbidden where a page of another site wants to change something.

        What the browser itself says of the site counts most; without it, which is so over
        plain HTTP beyond loopback, the host of the page decides.  A page can hide that, too,
        where it has something loaded, so that a browser that tells nothing at all is refused.
        """
        page = asked.origin if asked.origin is not None else _page_origin(asked.referer)
        if asked.site in ("same-origin", "none"):
            return
        if asked.site is None and page is None and asked.loads:
            raise Forbidden("a browser has to use POST for this, or the front page")
        if asked.site is not None:
            allowed = self.lists(page)
        else:
            allowed = page is None or self._at_home(page, asked.host)
        if not allowed:
            raise _foreign(page)

    def _at_home(self, origin: str, host: str | None) -> bool:
        page = _ORIGIN.fullmatch(origin)
        own = host_of(host)
        if page is None or own is None or page["scheme"].lower() not in _USUAL_PORTS:
            return self.lists(origin)
        return _usual(page["host"].lower()) == _usual(own) or self.lists(origin)


def _usual(host: str) -> str:
    # A page of one name of this machine may be told another (contract.md, documented address).
    return "localhost" if is_loopback(host.strip("[]")) else host


def _canonical(origin: str) -> str:
    """Return an origin in small letters and without the usual port of its scheme."""
    found = _ORIGIN.fullmatch(origin)
    if found is None:
        raise ValueError(f"must be an origin such as https://app.example:8443, not {origin!r}")
    scheme, host, port = found["scheme"].lower(), found["host"].lower(), found["port"]
    usual = port is None or port == _USUAL_PORTS.get(scheme)
    return f"{scheme}://{host}" + ("" if usual else f":{port}")


def _page_origin(referer: str | None) -> str | None:
    """Return the origin of a page by its address."""
    return None if referer is None else re.split(r"(?<=[^:/])[/?#]", referer, maxsplit=1)[0]


def _foreign(origin: str | None) -> Forbidden:
    known = origin is not None and len(origin) < 200 and _ORIGIN.fullmatch(origin)
    page = origin if known else "this origin"
    return Forbidden(f"web pages of {page} may not do this: see allowed_origins")
