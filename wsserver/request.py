"""A request of the HTTP port: its body is bounded, who asks is known and counted."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.web.resource import IResource
from twisted.web.server import Request as WebRequest

from wsserver.arrivals import refusal_of
from wsserver.errors import WSServerError

#: The largest request body, in bytes; the REST interface needs almost none.
MAX_BODY = 64 * 1024


class Request(WebRequest):
    """A request with a bounded body and the headers that every answer carries."""

    site: Any
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

    def admit(self) -> WSServerError | None:
        """Count the request until its answer is out; return why it is refused, if it is.

        An answer that the client does not take for ``stall_timeout`` seconds is given up.
        """
        channel: Any = self.channel
        refusal = refusal_of(channel.transport)
        client = self.getClientAddress().host
        if refusal is None and client != self.client.host:
            # Only the proxy's connection was counted when it came in.
            visit = self.site.admission.visit(client)
            self.notifyFinish().addBoth(lambda _: visit.end())
            refusal = visit.refusal
        if refusal is not None:
            channel.persistent = False
        stall = channel.stall()
        self.notifyFinish().addBoth(lambda _: stall.cancel())
        return refusal

    def gotLength(self, length: int | None) -> None:
        """Refuse a body that says it is too large."""
        self._refused = length is not None and length > MAX_BODY
        super().gotLength(0 if self._refused else length)
        if self._refused:
            self._too_large()

    def handleContentChunk(self, data: bytes) -> None:
        """Refuse a body that turns out to be too large."""
        self._received += len(data)
        if self._refused:
            return
        if self._received > MAX_BODY:
            self._refused = True
            self._too_large()
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

    def _too_large(self) -> None:
        channel: Any = self.channel
        channel.refuse(413, "Content Too Large")
