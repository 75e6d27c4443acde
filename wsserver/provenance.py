"""Where an HTTP request comes from: which web page, which machine, and who it is from."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.web.http import Request

from wsserver.addresses import is_loopback
from wsserver.forwarded import Proxies
from wsserver.hosts import Hosts
from wsserver.identity import Credentials
from wsserver.origins import Asked


def asked(request: Request, proxies: Proxies) -> Asked:
    """Return what a request says of the page that it comes from."""
    told = proxies.host(request.client.host, header(request, "x-forwarded-host"))
    # A password that it knows a browser adds by itself, other secrets never.
    scheme = (header(request, "authorization") or "basic").partition(" ")[0].lower()
    unmeant = request.method == b"GET" and scheme == "basic"
    return Asked(
        told or header(request, "host"),
        header(request, "origin"),
        header(request, "sec-fetch-site"),
        header(request, "referer"),
        header(request, "user-agent") if unmeant else None,
        header(request, "accept") if unmeant else None,
    )


def check_host(request: Request, hosts: Hosts, proxies: Proxies) -> None:
    """Raise Misdirected where a request is for a host that is not ours."""
    told = header(request, "x-forwarded-host")
    hosts.check(proxies.asked_host(request.client.host, header(request, "host"), told))


def is_local(request: Request, proxies: Proxies) -> bool:
    """Tell whether a request comes from this machine, and not through a proxy."""
    peer = request.client.host
    named = any(header(request, name) for name in ("forwarded", "x-forwarded-for"))
    return is_loopback(peer) and not named and not proxies.trusts(peer)


def shown_by(request: Request, security_token: str | None = None) -> Credentials:
    """Return what shows who sends a request; ``security_token`` is that field of its query."""

    def values(name: str) -> Sequence[str]:
        found = request.requestHeaders.getRawHeaders(name.encode(), [])
        return [value.decode("latin-1") for value in found]

    client = request.getClientAddress().host  # type: ignore[no-untyped-call]
    return Credentials(request.client.host, client, values, security_token)


def header(request: Request, name: str) -> str | None:
    """Return a header, if there is one; several of one name are joined with commas."""
    values = request.requestHeaders.getRawHeaders(name.encode())
    return None if values is None else b",".join(values).decode("latin-1")
