"""From settings and files to the sources of identity."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import TestCase

from tests.signers import AUDIENCE, SECRET, ec_key, jwk, jwks, public_pem, rsa_key, token
from tests.test_htpasswd import ALICE
from tests.test_identity import shown
from tests.test_passwords import basic
from wsserver.access import ANYBODY, APPLICATION, Caller
from wsserver.config import make_settings
from wsserver.errors import ConfigError, ShuttingDown, TooManyFailures, Unauthorized, Unavailable
from wsserver.forwarded import Proxies
from wsserver.sources import Files, Sources, read_files


class SourcesTests(TestCase):
    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.folder = folder
        (folder / "users").write_text(ALICE)
        (folder / "groups").write_text("staff: alice")
        (folder / "secret").write_text(SECRET + "\n")
        (folder / "keys.pem").write_text(public_pem(rsa_key()))
        (folder / "keys.json").write_text(jwks(jwk(ec_key(), "e")))
        self.everything = {
            "security_token": "sesame",
            "trusted_proxies": ["10.0.0.1"],
            "user_header": "X-User",
            "jwt_secret_file": str(folder / "secret"),
            "jwt_keys": str(folder / "keys.pem"),
            "jwt_audience": AUDIENCE,
            "htpasswd": str(folder / "users"),
            "htgroup": str(folder / "groups"),
        }

    def start(self, **given: Any) -> None:
        self.settings = make_settings(given)
        proxies = Proxies(self.settings.trusted_proxies)
        self.sources = Sources(reactor, self.settings, proxies)
        self.sources.startService()
        self.addCleanup(self.sources.stopService)
        self.read()

    def read(self) -> None:
        self.identity = self.sources.identity(read_files(self.settings))

    async def caller(self, **headers: str) -> Caller:
        return await self.identity.caller(shown("10.0.0.1", **headers))

    async def test_nothing(self) -> None:
        """Without settings there is no source."""
        self.start()
        self.assertEqual(read_files(self.settings), Files())
        self.assertEqual(await self.caller(), ANYBODY)

    async def test_everything(self) -> None:
        """All sources together: each is asked, in the order of what is harder to forge."""
        self.start(**self.everything)
        self.assertEqual(await self.caller(Authorization="Bearer sesame"), APPLICATION)
        for bearer in (token(), token(rsa_key(), "RS256")):
            caller = await self.caller(Authorization=f"Bearer {bearer}", X_User="mallory")
            self.assertEqual(caller.user, "alice")
        caller = await self.identity.caller(basic())
        self.assertEqual((caller.user, caller.groups), ("alice", {"staff"}))
        self.assertEqual((await self.caller(X_User="bob")).user, "bob")
        challenges = ["Bearer", 'Basic realm="wsserver", charset="UTF-8"', 'Proxy realm="wsserver"']
        self.assertEqual(self.identity.challenges, challenges)

    async def test_bearer_of_neither(self) -> None:
        """What is neither the security token nor a token of a user is a failure."""
        self.start(**self.everything, failure_limit=2)
        with capturedLogs() as events:
            for _ in range(2):
                with self.assertRaises(Unauthorized):
                    await self.caller(Authorization="Bearer wrong")
        lines = [formatEvent(event) for event in events]
        self.assertEqual(lines, ["10.0.0.1 waits 300 s: too many wrong secrets (bearer)"])
        with self.assertRaises(TooManyFailures):
            await self.caller(Authorization="Bearer sesame")
        # A reload pardons nobody.
        self.read()
        with self.assertRaises(TooManyFailures):
            await self.caller(Authorization="Bearer sesame")

    async def test_reload(self) -> None:
        """Files are read again for a new identity."""
        self.everything["jwt_keys"] = str(self.folder / "keys.json")
        self.start(**self.everything)
        bearer = f"Bearer {token(rsa_key(), 'RS256')}"
        with self.assertRaises(Unauthorized):
            await self.caller(Authorization=bearer)
        (self.folder / "keys.json").write_text(jwks(jwk(rsa_key(), "r")))
        self.read()
        self.assertEqual((await self.caller(Authorization=bearer)).user, "alice")

    def test_problems(self) -> None:
        """Every problem of every file is told at once, by its file."""
        (self.folder / "users").write_text("alice")
        (self.folder / "secret").write_text("short")
        (self.folder / "keys.pem").unlink()
        error = self.assertRaises(ConfigError, read_files, make_settings(self.everything))
        for name, why in (("users", "line 1"), ("secret", "32 bytes"), ("keys.pem", "No such")):
            (problem,) = [p for p in error.problems if p.startswith(str(self.folder / name))]
            self.assertIn(why, problem)
        (self.folder / "keys.pem").write_bytes(b"\xff")
        error = self.assertRaises(ConfigError, read_files, make_settings(self.everything))
        self.assertEqual(len(error.problems), 3)

    async def test_url(self) -> None:
        """Keys from afar are asked for at the start, and outlive a reload."""
        self.everything["jwt_keys"] = "http://127.0.0.1:1/keys"
        self.start(**self.everything)
        remote = self.sources._remote
        assert remote is not None
        await remote.refresh()
        self.read()
        self.assertIs(self.sources._remote, remote)
        self.assertEqual((await self.caller(Authorization=f"Bearer {token()}")).user, "alice")
        with self.assertRaises(Unavailable):
            await self.caller(Authorization=f"Bearer {token(rsa_key(), 'RS256')}")

    async def test_stopped(self) -> None:
        """A server that has stopped checks no passwords, and may start again."""
        self.start(**self.everything)
        await self.sources.stopService()
        with self.assertRaises(ShuttingDown):
            await Deferred.fromCoroutine(self.identity.caller(basic()))
        self.sources.startService()
        self.assertEqual((await self.identity.caller(basic())).user, "alice")

    async def test_checks_under_way(self) -> None:
        """Those are waited for, and not by the reactor's own thread."""
        self.start(**self.everything)
        free = Event()
        self.addCleanup(free.set)
        checked = self.sources._in_thread(lambda: free.wait(10))
        stopped = self.sources.stopService()
        self.assertNoResult(stopped)
        free.set()
        self.assertTrue(await checked)
        await stopped
