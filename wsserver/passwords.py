"""Users with a password, by HTTP Basic (RFC 7617)."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime

from wsserver.access import Caller
from wsserver.addresses import party
from wsserver.errors import BadRequest, TooManyFailures, Unauthorized
from wsserver.failures import Failures
from wsserver.htpasswd import UserFiles
from wsserver.identity import Credentials, checked_name

#: How long a password that was right is not hashed again, in seconds, and how many are kept.
MEMORY = 30.0
MAX_MEMORY = 1000
#: The most requests of one address, and of all, that wait for their password to be hashed.
MAX_LINE = 16
MAX_WAITING = 200

_KIND = "password"


class Passwords:
    """Checks passwords in threads, those of one address one after the other.

    ``in_thread`` runs a job there.  What was right of late is known by its digest, so that
    not every request costs a hash.
    """

    challenge = 'Basic realm="wsserver", charset="UTF-8"'

    def __init__(
        self,
        files: UserFiles,
        in_thread: Callable[[Callable[[], Caller | None]], Deferred[Caller | None]],
        clock: IReactorTime,
        failures: Failures,
    ) -> None:
        self._files = files
        self._in_thread = in_thread
        self._clock = clock
        self._failures = failures
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()
        self._lines: dict[str, DeferredLock] = {}
        self._waiting = 0

    async def identify(self, shown: Credentials) -> Caller | None:
        """Return the user, if it is."""
        given = shown.authorization("basic")
        if given is None:
            return None
        self._failures.check(shown.client, _KIND)
        user, password = _user_and_password(given)
        key = hmac.digest(self._key, f"{user}\0".encode() + password, "sha256")
        return self._known(key) or await self._in_line(shown.client, key, user, password)

    async def _in_line(self, address: str, key: bytes, user: str, password: bytes) -> Caller:
        """Check when it is the turn of this request."""
        if self._waiting >= MAX_WAITING:
            raise TooManyFailures(1)
        line = self._lines.setdefault(party(address), DeferredLock())
        if len(line.waiting) >= MAX_LINE:
            raise TooManyFailures(1)
        self._waiting += 1
        try:
            async with line:
                # The one before may have been the same, or one too many.
                caller = self._known(key)
                if caller is None:
                    self._failures.check(address, _KIND)
                    caller = await self._check(address, key, user, password)
                return caller
        finally:
            # Also where the client has hung up in the line.
            self._waiting -= 1
            if not line.locked:
                self._lines.pop(party(address), None)

    async def _check(self, address: str, key: bytes, user: str, password: bytes) -> Caller:
        def job() -> Caller | None:
            users = self._files.current()
            if not users.right(user, password):
                return None
            return Caller(checked_name(user), users.groups.get(user, frozenset()))

        caller = await self._in_thread(job)
        if caller is None:
            self._failures.note(address, _KIND)
            raise Unauthorized("wrong user name or password")
        self._right[key] = caller, self._clock.seconds() + MEMORY
        if len(self._right) > MAX_MEMORY:
            self._right.popitem(last=False)
        return caller

    def _known(self, key: bytes) -> Caller | None:
        caller, until = self._right.get(key, (None, 0.0))
        return caller if until > self._clock.seconds() else None


def _user_and_password(given: str) -> tuple[str, bytes]:
    """Read the credentials of Basic.  Raises BadRequest."""
    try:
        user, colon, password = base64.b64decode(given, validate=True).partition(b":")
        if colon:
            return checked_name(user.decode()), password
    except (binascii.Error, ValueError):
        pass
    raise BadRequest("the credentials of Basic cannot be understood")
