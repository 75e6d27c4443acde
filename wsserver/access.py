"""Secrets: made unguessable, compared in constant time; and who may see and do what."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, replace

from wsserver.config import ServiceSpec
from wsserver.errors import Forbidden
from wsserver.lifecycle import Reservation

#: Random bytes of a reservation token: 160 bits, well above the 122 of contract.md.
TOKEN_BYTES = 20


def mint_token() -> str:
    """Return a new reservation token: URL-safe, without white space, unguessable."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def digest(secret: str) -> bytes:
    """Return what stands for a secret wherever it is compared or looked up.

    How long that takes then tells nothing of how much of the secret was right.
    """
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def same_digest(one: bytes, other: bytes) -> bool:
    """Compare two digests in a time that tells nothing about either."""
    return hmac.compare_digest(one, other)


@dataclass(frozen=True)
class Caller:
    """Who asks.

    ``user`` is None for nobody in particular.  ``groups`` None means every group: who
    vouches for the caller has checked that already.  ``trusted`` is the application that
    holds the security token.  An ``operator`` sees all: who is trusted, or everybody
    where nobody can prove who they are.
    """

    user: str | None = None
    groups: frozenset[str] | None = frozenset()
    trusted: bool = False
    operator: bool = False

    def acting_for(self, user: str | None, groups: frozenset[str] | None) -> Caller:
        """Return the caller as it acts for a user; ``groups`` None are not checked."""
        return replace(self, user=user, groups=groups)


#: Who asks where no source of identity is configured.
ANYBODY = Caller(operator=True)
#: The application that holds the security token.
APPLICATION = Caller(groups=None, trusted=True, operator=True)


def may_use(spec: ServiceSpec, caller: Caller) -> bool:
    """Tell whether ``caller`` may see and reserve a service (``group``: contract.md)."""
    return not spec.groups or caller.groups is None or bool(spec.groups & caller.groups)


def check_may_use(spec: ServiceSpec, caller: Caller) -> None:
    """Raise Forbidden unless ``caller`` may use the service."""
    if not may_use(spec, caller):
        raise Forbidden(f"{spec.name} is for members of its group only")


def may_have(reservation: Reservation, caller: Caller) -> bool:
    """Tell whether a reservation, with its token, is the business of ``caller``."""
    return caller.operator or (caller.user is not None and caller.user == reservation.user)


def check_operator(caller: Caller) -> None:
    """Raise Forbidden unless ``caller`` may do what concerns everybody."""
    if not caller.operator:
        raise Forbidden("users may not do this: the security token is needed")
