"""The REST interface for pages of listed origins (Fetch standard, "CORS protocol").

A browser lets the script of another origin read an answer only where the answer says so.
"""

from __future__ import annotations

from typing import Any

from twisted.web.resource import IResource, Resource

from wsserver.origins import Origins
from wsserver.provenance import header

_ANSWER = {
    "Vary": "Origin",
    "Access-Control-Expose-Headers": "Retry-After",
}
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization",
    "Access-Control-Max-Age": "600",
}


class Shared(Resource):
    """A resource whose answers the pages of ``origins`` may read, and no other pages."""

    isLeaf = True

    def __init__(self, resource: IResource, origins: Origins) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._resource = resource
        self._origins = origins

    def render(self, request: Any) -> Any:
        """Answer, with a word to the browser where the origin is listed.

        Cookies and passwords that a browser keeps are never asked for.
        """
        origin = header(request, "origin")
        if origin is not None and self._origins.lists(origin):
            request.setHeader("Access-Control-Allow-Origin", origin)
            _set(request, _ANSWER)
            if request.method == b"OPTIONS":
                _set(request, _PREFLIGHT)
                request.setResponseCode(204)
                return b""
        return self._resource.render(request)  # type: ignore[no-untyped-call]


def _set(request: Any, headers: dict[str, str]) -> None:
    for name, value in headers.items():
        request.setHeader(name, value)
