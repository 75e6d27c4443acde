"""How the HTTP doors put an answer into JSON."""

from __future__ import annotations

import json

from twisted.web.http import Request


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
