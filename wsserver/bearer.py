"""JSON Web Tokens (RFC 7519) as bearer tokens (RFC 6750): what OpenID Connect hands out.

PyJWT verifies; here is which key, what must be in the token, and who that is.  Nobody can
guess a signature, so wrong ones are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jwt

from wsserver.access import Caller
from wsserver.errors import BadRequest, Unauthorized, Unavailable, WSServerError
from wsserver.identity import Credentials, checked_name
from wsserver.jwks import Key


class Keys(Protocol):
    """Where keys come from."""

    async def find(self, algorithm: object, kid: object) -> Sequence[Key]:
        """Return the keys that may have signed a token with these headers."""


class FixedKeys:
    """Keys that do not change."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = keys

    async def find(self, algorithm: object, kid: object) -> Sequence[Key]:
        """Return the keys that fit."""
        return [key for key in self._keys if key.fits(algorithm, kid)]


@dataclass(frozen=True)
class Rules:
    """What a token must say, and how; ``leeway`` is in seconds.

    The groups may lie deeper: ``realm_access.roles``.
    """

    audience: str | None = None
    issuer: str | None = None
    leeway: float = 30.0
    user_claim: str = "sub"
    groups_claim: str = "groups"


class BearerTokens:
    """Users who show a token that somebody has signed for them."""

    challenge = "Bearer"

    def __init__(self, keys: Sequence[Keys], rules: Rules) -> None:
        self._keys = keys
        self._rules = rules

    async def identify(self, shown: Credentials) -> Caller | None:
        """Return the user of a token."""
        token = shown.authorization("bearer")
        if token is None:
            return None
        try:
            return self._user(self._verified(token, await self._candidates(token)))
        except (jwt.DecodeError, RecursionError, OverflowError):
            raise Unauthorized("that is no token of a known signer") from None
        except jwt.PyJWTError as error:
            raise Unauthorized(f"the token is refused: {error}") from None

    async def _candidates(self, token: str) -> list[Key]:
        header = jwt.get_unverified_header(token)
        algorithm, kid = header.get("alg"), header.get("kid")
        found: list[Key] = []
        missing: WSServerError = Unauthorized("the token is signed by a key that is not known")
        for keys in self._keys:
            try:
                found += await keys.find(algorithm, kid)
            except Unavailable as error:
                missing = error
        if not found:
            raise missing
        return found

    def _verified(self, token: str, keys: Sequence[Key]) -> dict[str, Any]:
        """Return the claims; the last of several keys may be the right one."""
        for key in keys[:-1]:
            try:
                return self._decoded(token, key)
            except jwt.InvalidSignatureError:
                continue
        return self._decoded(token, keys[-1])

    def _decoded(self, token: str, key: Key) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key.material,
            algorithms=sorted(key.algorithms),
            audience=self._rules.audience,
            issuer=self._rules.issuer,
            leeway=self._rules.leeway,
            options={"require": ["exp"]},
        )
        return claims

    def _user(self, claims: Mapping[str, Any]) -> Caller:
        user = claims.get(self._rules.user_claim)
        groups = _deep(claims, self._rules.groups_claim) or []
        if isinstance(groups, str):
            groups = [groups]
        if not isinstance(user, str) or not _texts(groups):
            raise Unauthorized("the token names no user, or its groups are no list of names")
        try:
            return Caller(checked_name(user), frozenset(map(checked_name, groups)))
        except BadRequest as error:
            raise Unauthorized(str(error)) from None


def _deep(claims: Mapping[str, Any], path: str) -> Any:
    """Return a claim by its name; one that has no such name by a path with dots."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
