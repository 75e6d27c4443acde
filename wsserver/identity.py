"""Who sends a request: one question, put to every source that is configured.  Pure.

What each source takes, and why the answers are combined as they are: docs/identity.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from wsserver.access import ANYBODY, APPLICATION, Caller, digest, same_digest
from wsserver.errors import BadRequest, Forbidden, Unauthorized
from wsserver.failures import Failures

#: The longest name of a user or a group.
MAX_NAME = 256

#: How a signed token looks (RFC 7515, section 3.1).
_SIGNED = re.compile(r"[\w-]+\.[\w-]*\.[\w-]*", re.ASCII)


@dataclass(frozen=True)
class Credentials:
    """What a request shows of who sends it.

    ``peer`` is the address of the other end of the connection, ``client`` that of who asks,
    which is another one behind a front proxy of ours.  ``values`` returns every value of a
    header, its bytes as Latin-1; ``security_token`` is that field of the query.
    """

    peer: str
    client: str
    values: Callable[[str], Sequence[str]]
    security_token: str | None = None

    def header(self, name: str) -> str | None:
        """Return a header that must not stand twice.  Raises BadRequest."""
        values = self.values(name)
        if len(values) > 1:
            raise BadRequest(f"{name} stands twice")
        try:
            return values[0].encode("latin-1").decode() if values else None
        except UnicodeDecodeError:
            raise BadRequest(f"{name} must be UTF-8") from None

    def authorization(self, scheme: str) -> str | None:
        """Return the credentials of ``Authorization``, where they are of that scheme."""
        given, _, rest = (self.header("Authorization") or "").partition(" ")
        return rest.strip() if given.lower() == scheme else None


class Source(Protocol):
    """One way to tell who sends a request."""

    @property
    def challenge(self) -> str:
        """What a 401 says of it in ``WWW-Authenticate`` (RFC 9110, section 11.6.1)."""

    async def identify(self, shown: Credentials) -> Caller | None:
        """Return who that is, or None where nothing is shown for this source.

        Raises Unauthorized for what is wrong, after it has noted the failure, and
        TooManyFailures for whatever is shown once there are too many.
        """


class Identity:
    """All sources together: the first that knows the caller counts.

    So what is shown and wrong is refused, whatever else is shown.
    """

    def __init__(self, sources: Iterable[Source]) -> None:
        self.sources = list(sources)

    @property
    def challenges(self) -> list[str]:
        """The values of ``WWW-Authenticate``, each once."""
        return list(dict.fromkeys(source.challenge for source in self.sources))

    @property
    def knows_users(self) -> bool:
        """Whether users can show who they are, and not the trusted application alone."""
        return any(not isinstance(source, SecurityToken) for source in self.sources)

    async def caller(self, shown: Credentials) -> Caller:
        """Return who sends a request.

        Raises:
            Unauthorized: a source is configured, and nothing right is shown.
            TooManyFailures: too much of that kind was wrong that came from that address.
        """
        if not self.sources:
            return ANYBODY
        for source in self.sources:
            caller = await source.identify(shown)
            if caller is not None:
                return caller
        raise Unauthorized("you have to log in, or to show the security token")


class SecurityToken:
    """The secret of a trusted application, in the query or as a bearer token (contract.md).

    Where signed tokens are taken as well, it is not ``alone``, and leaves what looks like
    one to them.
    """

    challenge = "Bearer"

    def __init__(self, secret: str, failures: Failures, alone: bool = True) -> None:
        self._digest = digest(secret)
        self._failures = failures
        self._alone = alone

    async def identify(self, shown: Credentials) -> Caller | None:
        """Return the application, if it is."""
        given, kind = shown.security_token, "security_token"
        if given is None:
            given, kind = shown.authorization("bearer"), "bearer"
        if given is None:
            return None
        right = same_digest(digest(given), self._digest)
        if kind == "bearer" and not (right or self._alone) and _SIGNED.fullmatch(given):
            return None
        self._failures.check(shown.client, kind)
        if right:
            return APPLICATION
        self._failures.note(shown.client, kind)
        raise Unauthorized("wrong security token")


class ProxyHeaders:
    """The word of a front proxy that has asked the user already.

    ``trusts`` tells whose word counts, by the address of the connection; what anybody else
    writes into these headers is not looked at.
    """

    # No registered scheme fits, and RFC 9110 wants one: browsers pass over this name.
    challenge = 'Proxy realm="wsserver"'

    def __init__(
        self, trusts: Callable[[str], bool], user_header: str, groups_header: str | None = None
    ) -> None:
        self._trusts = trusts
        self._user_header = user_header
        self._groups_header = groups_header

    async def identify(self, shown: Credentials) -> Caller | None:
        """Return the user that the proxy names."""
        if not self._trusts(shown.peer):
            return None
        user = shown.header(self._user_header)
        if not user:
            return None
        groups = shown.header(self._groups_header) if self._groups_header else None
        return Caller(checked_name(user), split_groups(groups or ""))


def acting(caller: Caller, options: dict[str, str]) -> Caller:
    """Return who a reservation is for; take the fields that say so out of its options.

    Raises:
        Forbidden: there are such fields, and the caller is not trusted to act for others.
        BadRequest: they name nobody.
    """
    if options.keys().isdisjoint({"user", "groups"}):
        return caller
    if not caller.trusted:
        raise Forbidden("user and groups: the security token is needed to act for others")
    user, groups = options.pop("user", None), options.pop("groups", None)
    return caller.acting_for(
        None if user is None else checked_name(user),
        None if groups is None else split_groups(groups),
    )


def split_groups(text: str) -> frozenset[str]:
    """Return the groups of a list with commas.  Raises BadRequest for what is no name."""
    names = (name.strip() for name in text.split(","))
    return frozenset(checked_name(name) for name in names if name)


def checked_name(name: str) -> str:
    """Return the name of a user or a group; raise BadRequest for what cannot be one."""
    # Control characters, and halves of characters, which have no UTF-8.
    if not 0 < len(name) <= MAX_NAME or re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", name):
        raise BadRequest("that cannot be the name of a user or a group")
    return name
