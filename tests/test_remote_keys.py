"""Keys from afar: kept, renewed, and never lost by a failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.signers import ec_key, jwk, jwks, rsa_key
from wsserver.errors import Unavailable
from wsserver.jwks import Key
from wsserver.remote_keys import MAX_AGE, MAX_SIZE, RETRY, RemoteKeys, fetcher

URL = "https://login.example/keys"
OLD = jwks(jwk(ec_key(), "old")).encode()
NEW = jwks(jwk(ec_key(), "new")).encode()


class RemoteKeysTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.fetches: list[Deferred[bytes]] = []
        self.keys = RemoteKeys(URL, self.clock, self.fetch)

    def fetch(self, url: str) -> Deferred[bytes]:
        self.assertEqual(url, URL)
        self.fetches.append(Deferred())
        return self.fetches[-1]

    def answer(self, body: bytes | Exception) -> None:
        (fetch,) = self.fetches
        self.fetches.clear()
        (fetch.errback if isinstance(body, Exception) else fetch.callback)(body)

    def find(self, kid: str | None = "old", algorithm: str = "ES256") -> Deferred[list[Key]]:
        return Deferred.fromCoroutine(self.keys.find(algorithm, kid))  # type: ignore[arg-type]

    def kids(self, found: Deferred[list[Key]]) -> list[str | None]:
        return [key.kid for key in self.successResultOf(found)]

    def start(self) -> None:
        self.keys.refresh()
        self.answer(OLD)

    def test_at_first(self) -> None:
        """Who comes before the keys waits for them; one fetch does for all."""
        waiting = [self.find() for _ in range(3)]
        self.answer(OLD)
        for found in waiting:
            self.assertEqual(self.kids(found), ["old"])

    def test_known(self) -> None:
        """Keys that are known cost nothing."""
        self.start()
        for kid in ("old", None):
            self.assertEqual(self.kids(self.find(kid)), ["old"])
        self.assertEqual(self.fetches, [])

    def test_rotation(self) -> None:
        """An unknown key is looked for, and found."""
        self.start()
        self.clock.advance(RETRY)
        found = self.find("new")
        self.answer(NEW)
        self.assertEqual(self.kids(found), ["new"])

    def test_secrets(self) -> None:
        """A provider publishes no secrets, so nobody waits for one."""
        for algorithm in ("HS256", "none", None, {}):
            found = Deferred.fromCoroutine(self.keys.find(algorithm, "old"))
            self.assertEqual(self.kids(found), [])
        self.assertEqual(self.fetches, [])

    def test_once_a_minute(self) -> None:
        """However many unknown keys are asked for, the provider is asked once a minute."""
        self.start()
        for _ in range(5):
            self.assertEqual(self.kids(self.find("made up")), [])
        self.assertEqual(self.fetches, [])
        self.clock.advance(RETRY)
        waiting = [self.find("made up") for _ in range(5)]
        self.answer(OLD)
        for found in waiting:
            self.assertEqual(self.kids(found), [])

    def test_at_once(self) -> None:
        """Who runs the server need not wait for the next minute."""
        self.start()
        self.keys.refresh(at_once=True)
        self.answer(NEW)
        self.assertEqual(self.kids(self.find("new")), ["new"])

    def test_failure(self) -> None:
        """Where the fetch fails, or the answer is no key, the old ones count on."""
        self.start()
        for answer in (OSError("no route"), b"<html>", b"", b'{"keys": []}'):
            self.clock.advance(RETRY)
            found = self.find("new")
            self.answer(answer)
            self.assertEqual(self.kids(found), [])
            self.assertEqual(self.kids(self.find("old")), ["old"])

    def test_none_yet(self) -> None:
        """Without any keys it is not the caller who is wrong."""
        found = self.find()
        self.answer(OSError("no route"))
        for failed in (found, self.find()):
            error = self.failureResultOf(failed, Unavailable).value
            self.assertEqual((error.http_status, error.retry_after), (503, 60))

    def test_withdrawn(self) -> None:
        """After an hour the keys are renewed, while nobody waits; what is gone counts no more."""
        self.start()
        self.clock.advance(MAX_AGE)
        self.assertEqual(self.kids(self.find("old")), ["old"])
        self.answer(NEW)
        self.assertEqual(self.kids(self.find("old")), [])

    def test_fetch_at_once(self) -> None:
        """A fetch that answers at once is no special case."""
        keys = RemoteKeys(URL, self.clock, lambda url: _fired(OLD))
        for _ in range(2):
            self.clock.advance(RETRY)
            self.successResultOf(keys.refresh())
        found = Deferred.fromCoroutine(keys.find("ES256", "old"))
        self.assertEqual(len(self.successResultOf(found)), 1)


def _fired(body: bytes) -> Deferred[bytes]:
    done: Deferred[bytes] = Deferred()
    done.callback(body)
    return done


class Answers(Resource):
    """Answers as a function says."""

    isLeaf = True

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        super().__init__()
        self._answer = answer

    def render_GET(self, request: Any) -> Any:
        return self._answer(request)


class FetchTests(TestCase):
    async def fetch(self, answer: Callable[[Any], Any]) -> bytes:
        port = reactor.listenTCP(0, Site(Answers(answer)), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return await fetcher(reactor)(f"http://127.0.0.1:{port.getHost().port}/keys")

    async def test_fetch(self) -> None:
        """What is there comes."""
        body = jwks(jwk(rsa_key(), "r")).encode()
        self.assertEqual(await self.fetch(lambda request: body), body)

    async def test_refused(self) -> None:
        """Other answers are failures: an error, a redirect, too much."""

        def moved(request: Any) -> bytes:
            request.redirect(b"http://127.0.0.1:1/")
            return b""

        def error(request: Any) -> bytes:
            request.setResponseCode(500)
            return OLD

        def endless(request: Any) -> int:
            request.write(b"x" * (MAX_SIZE + 1))
            return NOT_DONE_YET

        for answer, why in ((moved, "302"), (error, "500"), (endless, "more than")):
            with self.assertRaisesRegex(ValueError, why):
                await self.fetch(answer)
