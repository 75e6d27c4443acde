"""The plain port that sends browsers to the TLS one (RFC 9110, section 15.4.9: 308)."""

from __future__ import annotations

import re
from typing import Any

from twisted.web.resource import Resource

from wsserver.origins import host_of
from wsserver.provenance import header
from wsserver.site import Refusal

#: A path with its query as it stands in a request; "//" at its front names no host behind one.
_TARGET = re.compile(rb"/[!-~]*")


class ToHTTPS(Resource):
    """Leads every request to the same path of the same host by https, on ``port``.

    Of the Host header the host alone counts, and only where it is one; what cannot be led
    anywhere is refused.
    """

    isLeaf = True

    def __init__(self, port: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._port = "" if port == 443 else f":{port}"

    def render(self, request: Any) -> bytes:
        """Answer with the address."""
        refusal = request.admit()
        if refusal is not None:
            return Refusal.of(refusal).render(request)
        host = host_of(header(request, "host"))
        if host is None or not _TARGET.fullmatch(request.uri):
            return Refusal(400, "BadRequest", "ask for a path of this host").render(request)
        request.setResponseCode(308)
        request.setHeader("Location", f"https://{host}{self._port}".encode() + request.uri)
        request.setHeader("Content-Length", "0")
        return b""
