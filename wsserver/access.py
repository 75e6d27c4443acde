"""Secrets: made unguessable, compared in constant time; and who may see what."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from wsserver.config import ServiceSpec
from wsserver.errors import Forbidden, Unauthorized

#: Random bytes of a reservation token: 160 bits, well above the 122 of contract.md.
TOKEN_BYTES = 20


def mint_token() -> str:
    """Return a new reservation token: URL-safe, without white space, unguessable."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def same_secret(one: str, other: str) -> bool:
    """Compare two secrets in a time that tells nothing about either."""
    digests = [hashlib.sha256(text.encode("utf-8", "surrogateescape")) for text in (one, other)]
    return hmac.compare_digest(digests[0].digest(), digests[1].digest())


@dataclass(frozen=True)
class Caller:
    """Who asks: ``trusted`` is the application that holds the security token."""

    trusted: bool = False


def identify(given: str | None, security_token: str | None) -> Caller:
    """Return who is calling.

    Raises:
        Unauthorized: a security token is configured, and this is not it.
    """
    if security_token is None:
        return Caller()
    if given is None:
        raise Unauthorized("a security token is needed")
    if not same_secret(given, security_token):
        raise Unauthorized("wrong security token")
    return Caller(trusted=True)


def may_use(spec: ServiceSpec, caller: Caller) -> bool:
    """Tell whether ``caller`` may see and reserve a service (``group``: contract.md)."""
    return caller.trusted or not spec.groups


def check_may_use(spec: ServiceSpec, caller: Caller) -> None:
    """Raise Forbidden unless ``caller`` may use the service."""
    if not may_use(spec, caller):
        raise Forbidden(f"{spec.name} is for members of its group only")
