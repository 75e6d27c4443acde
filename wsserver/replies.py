"""How the HTTP doors put an answer into JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable

from twisted.web.http import Request

from wsserver.errors import WSServerError


def json_body(request: Request, value: object) -> bytes:
    """Set the headers of a JSON answer and return its body."""
    request.setHeader("Content-Type", "application/json")
    request.setHeader("Cache-Control", "no-store")
    return json.dumps(value).encode() + b"\n"


def error_body(request: Request, status: int, error: str, message: str) -> bytes:
    """Set the status with a readable reason phrase; return the JSON body."""
    phrase = "".join(c if " " <= c <= "~" else "?" for c in message)
    request.setResponseCode(status, phrase.encode("ascii"))
    return json_body(request, {"error": error, "message": message})


def refusal(request: Request, error: WSServerError, challenges: Iterable[str]) -> bytes:
    """Set status and headers of a deliberate failure; return the JSON body.

    ``challenges`` say how to log in (RFC 9110, section 11.6.1).
    """
    if error.retry_after is not None:
        request.setHeader("Retry-After", str(error.retry_after))
    if error.http_status == 401:
        request.responseHeaders.setRawHeaders("WWW-Authenticate", list(challenges))
    return error_body(request, error.http_status, type(error).__name__, str(error))
