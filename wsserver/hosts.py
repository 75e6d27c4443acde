"""By which names the server may be addressed: a page of any other name is not of ours.

Where nobody has to show who they are, a place in the network is all that a caller needs, and
every page that is open there has it.  What keeps such a page out is that it is of another
host; but its owner may have that host's name lead to our address (DNS rebinding).  The name
remains in the ``Host`` header (RFC 9110, section 7.2), which no page can change.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address

from wsserver.errors import Misdirected
from wsserver.origins import ANY, host_of


class Hosts:
    """The names that are ours, beside addresses, ``localhost`` and what ends in ``.localhost``.

    Those need no list, as nobody has them lead elsewhere.  ``*`` is any name.  Raises
    ValueError for what is no name.
    """

    def __init__(self, names: Iterable[str] = (ANY,)) -> None:
        self._names = {name if name == ANY else _name(name) for name in names}

    def check(self, host: str | None) -> None:
        """Raise Misdirected where a ``Host`` header names another; a port does not count.

        Who has no such header is no browser.
        """
        if host is None or ANY in self._names:
            return
        name = _plain(host_of(host) or "")
        if not (name in self._names or _is_address(name) or _is_here(name)):
            shown = name if 0 < len(name) < 200 else "that"
            raise Misdirected(f"this server is not known as {shown}: see allowed_hosts")


def _name(text: str) -> str:
    """Return a name as it is compared."""
    name = host_of(text)
    if name is None or text.lower() != name:
        raise ValueError(f"must be a name such as desktops.example, not {text!r}")
    return _plain(name)


def _plain(name: str) -> str:
    return name.removesuffix(".")


def _is_here(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost")


def _is_address(name: str) -> bool:
    """Tell whether a host is an address, which no name server is asked for."""
    try:
        return ip_address(name.removeprefix("[").removesuffix("]")).version in (4, 6)
    except ValueError:
        return False
