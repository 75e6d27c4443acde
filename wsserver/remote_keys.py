"""The keys of an identity provider: fetched from its URL, kept, renewed as they change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import treq
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.client import Agent

from wsserver.errors import Unavailable
from wsserver.jwks import PUBLIC, Key, read_jwks

#: From one attempt to the next at least, in seconds: strangers can ask for unknown keys.
RETRY = 60.0
#: After that long the keys are fetched again, as one may have been withdrawn, in seconds.
MAX_AGE = 3600.0
#: The longest fetch, in seconds, and the largest answer, in bytes.
TIMEOUT = 10.0
MAX_SIZE = 256 * 1024

_log = Logger(namespace="wsserver.keys")


class RemoteKeys:
    """The keys at a URL; where they cannot be fetched, those of before still count."""

    def __init__(
        self, url: str, clock: IReactorTime, fetch: Callable[[str], Deferred[bytes]]
    ) -> None:
        self.url = url
        self._clock = clock
        self._fetch = fetch
        self._keys: list[Key] | None = None
        self._tried: float | None = None
        self._fetching: Deferred[None] | None = None

    async def find(self, algorithm: object, kid: object) -> Sequence[Key]:
        """Return the keys that fit; for one that is not known the set is fetched again.

        Raises Unavailable where no keys have been fetched yet.
        """
        if algorithm not in tuple(PUBLIC):
            return []
        if not self._fitting(algorithm, kid):
            await self.refresh()
        elif self._older_than(MAX_AGE):
            # Nobody has to wait for it.
            self.refresh()
        if self._keys is None:
            raise Unavailable("the keys of the identity provider cannot be had", int(RETRY))
        return self._fitting(algorithm, kid)

    def refresh(self, at_once: bool = False) -> Deferred[None]:
        """Fetch the keys, unless that was tried of late; the Deferred never fails.

        Everybody who waits has a Deferred of their own.
        """
        if self._fetching is None and (at_once or self._older_than(RETRY)):
            self._tried = self._clock.seconds()
            self._fetching = Deferred.fromCoroutine(self._renew())
            self._fetching.addCallback(self._renewed)
        done: Deferred[None] = Deferred()
        if self._fetching is None:
            done.callback(None)
        else:
            self._fetching.addCallback(done.callback)
        return done

    def _older_than(self, seconds: float) -> bool:
        return self._tried is None or self._clock.seconds() - self._tried >= seconds

    def _fitting(self, algorithm: object, kid: object) -> list[Key]:
        return [key for key in self._keys or [] if key.fits(algorithm, kid)]

    async def _renew(self) -> None:
        try:
            self._keys = read_jwks(await self._fetch(self.url))
        except Exception as error:
            _log.error("{url}: {why}; the keys stay as they are", url=self.url, why=str(error))
        else:
            _log.info("{url}: {count} keys", url=self.url, count=len(self._keys))

    def _renewed(self, _: None) -> None:
        self._fetching = None


def fetcher(reactor: Any) -> Callable[[str], Deferred[bytes]]:
    """Return what fetches a URL; it follows no redirect and reads no more than it must."""
    client = HTTPClient(Agent(reactor, connectTimeout=TIMEOUT))  # type: ignore[no-untyped-call]

    async def fetch(url: str) -> bytes:
        answer = await client.get(url, timeout=TIMEOUT, allow_redirects=False, reactor=reactor)
        if answer.code != 200:
            raise ValueError(f"answered {answer.code}")
        body = bytearray()

        def collect(data: bytes) -> None:
            body.extend(data)
            if len(body) > MAX_SIZE:
                raise ValueError(f"answered more than {MAX_SIZE} bytes")

        await treq.collect(answer, collect).addTimeout(TIMEOUT, reactor)
        return bytes(body)

    return lambda url: Deferred.fromCoroutine(fetch(url))
