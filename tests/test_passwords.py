"""Users with a password."""

from __future__ import annotations

import base64
from pathlib import Path

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import Threads
from tests.test_htpasswd import ALICE, hashed
from tests.test_identity import shown
from wsserver.access import Caller
from wsserver.errors import BadRequest, TooManyFailures, Unauthorized
from wsserver.failures import Failures
from wsserver.htpasswd import UserFiles
from wsserver.identity import Credentials, Identity
from wsserver.passwords import MAX_LINE, MAX_MEMORY, MAX_WAITING, MEMORY, Passwords


def basic(
    user: str = "alice", password: str = "wonderland", peer: str = "192.0.2.1"
) -> Credentials:
    raw = base64.b64encode(f"{user}:{password}".encode()).decode()
    return shown(peer, Authorization=f"Basic {raw}")


class PasswordsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.threads = Threads()
        self.failures = Failures(self.clock.seconds)
        self.htpasswd, groups = Path(self.mktemp()), Path(self.mktemp())
        self.htpasswd.write_text(ALICE + f"bob:{hashed('a:b')}")
        groups.write_text("staff: alice")
        files = UserFiles(str(self.htpasswd), str(groups))
        self.source = Passwords(files, self.threads.run, self.clock, self.failures)
        self.identity = Identity([self.source])

    def ask(self, given: Credentials) -> Deferred[Caller]:
        return Deferred.fromCoroutine(self.identity.caller(given))

    def log_in(self, given: Credentials) -> Caller:
        asked = self.ask(given)
        self.threads.finish()
        caller: Caller = self.successResultOf(asked)
        return caller

    def test_right(self) -> None:
        """The right password tells the user and their groups."""
        caller = self.log_in(basic())
        self.assertEqual(caller, Caller(user="alice", groups=frozenset({"staff"})))
        self.assertEqual(self.log_in(basic("bob", "a:b")), Caller(user="bob"))

    def test_wrong(self) -> None:
        """A wrong password and an unknown user get the same answer."""
        answers = set()
        for user in ("alice", "nobody"):
            asked = self.ask(basic(user, "wrong"))
            self.threads.finish()
            answers.add(str(self.failureResultOf(asked, Unauthorized).value))
        self.assertEqual(len(answers), 1)
        self.assertEqual(self.source.challenge, 'Basic realm="wsserver", charset="UTF-8"')

    def test_not_understood(self) -> None:
        """What is no Basic is a bad request, what is another scheme not for this source."""
        for given in ("", "!", "YWxpY2U=", "/w==", "Onh4", "YQBiOng=", "ä"):
            asked = self.ask(shown(Authorization=f"Basic {given}".encode().decode("latin-1")))
            self.failureResultOf(asked, BadRequest)
        asked = Deferred.fromCoroutine(self.source.identify(shown(Authorization="Bearer x")))
        self.assertIsNone(self.successResultOf(asked))
        self.assertEqual(self.threads.jobs, [])

    def test_remembered(self) -> None:
        """What was right of late is known without a hash; soon it is asked again."""
        self.log_in(basic())
        self.clock.advance(MEMORY - 1)
        self.assertEqual(self.successResultOf(self.ask(basic())).user, "alice")
        # Not another password, nor another user.
        self.assertNoResult(self.ask(basic("alice", "other")))
        self.assertNoResult(self.ask(basic("bob", "wonderland", "192.0.2.2")))
        self.clock.advance(1)
        self.assertNoResult(self.ask(basic(peer="192.0.2.3")))

    def test_removed_user(self) -> None:
        """A user who is taken out of the file is out as soon as nothing is remembered."""
        self.log_in(basic())
        self.htpasswd.write_text(f"bob:{hashed('x')}")
        self.clock.advance(MEMORY)
        asked = self.ask(basic())
        self.threads.finish()
        self.failureResultOf(asked, Unauthorized)

    def test_bounded_memory(self) -> None:
        """However many log in, few are remembered."""
        self.patch(self.source._files.current().__class__, "right", lambda *args: True)
        for number in range(MAX_MEMORY + 10):
            self.log_in(basic(f"user{number}", "x"))
        self.assertEqual(len(self.source._right), MAX_MEMORY)

    def test_one_by_one(self) -> None:
        """Many at once guess no faster: of each address one after the other, five in all."""
        asked = [self.ask(basic(password=f"guess{n}")) for n in range(MAX_LINE)]
        for _ in range(5):
            self.assertEqual(len(self.threads.jobs), 1)
            self.threads.finish()
        self.assertEqual(self.threads.jobs, [])
        for number, result in enumerate(asked):
            self.failureResultOf(result, Unauthorized if number < 5 else TooManyFailures)
        self.failureResultOf(self.ask(basic()), TooManyFailures)
        self.assertEqual(self.log_in(basic(peer="192.0.2.2")).user, "alice")

    def test_network(self) -> None:
        """All addresses of one IPv6 site stand in one line: sixty guesses are five."""
        asked = [self.ask(basic(password=f"guess{n}", peer=f"2001:db8::{n:x}")) for n in range(60)]
        while self.threads.jobs:
            self.assertEqual(len(self.threads.jobs), 1)
            self.threads.finish()
        refused = [self.failureResultOf(result).type for result in asked]
        self.assertEqual((refused.count(Unauthorized), refused.count(TooManyFailures)), (5, 55))
        self.assertEqual(self.source._lines, {})

    def test_same_at_once(self) -> None:
        """A page that asks many things at once costs one hash."""
        asked = [self.ask(basic()) for _ in range(8)]
        self.threads.finish()
        self.assertEqual(self.threads.jobs, [])
        for result in asked:
            self.assertEqual(self.successResultOf(result).user, "alice")

    def test_long_lines(self) -> None:
        """Who brings too many at once is told to wait; other addresses are not."""
        asked = [self.ask(basic()) for _ in range(MAX_LINE + 2)]
        error = self.failureResultOf(asked.pop(), TooManyFailures).value
        self.assertEqual(error.retry_after, 1)
        other = self.ask(basic(peer="192.0.2.2"))
        self.assertNoResult(other)
        self.threads.finish()
        for result in asked:
            self.successResultOf(result)
        self.threads.finish()
        self.successResultOf(other)

    def test_bounded_lines(self) -> None:
        """However many addresses come, a bounded number waits, and nothing is left of them."""
        for number in range(MAX_WAITING):
            self.ask(basic(password="x", peer=f"10.0.0.{number}")).addErrback(lambda _: None)
        self.failureResultOf(self.ask(basic(peer="10.1.0.1")), TooManyFailures)
        while self.threads.jobs:
            self.threads.finish()
        self.assertEqual(self.source._lines, {})
        self.assertEqual(self.log_in(basic(peer="10.1.0.1")).user, "alice")

    def test_hung_up(self) -> None:
        """Who hangs up while it waits, in the line or at its head, is counted no more."""
        for number in range(MAX_WAITING + 1):
            asked = [self.ask(basic(password="x", peer=f"10.0.0.{number}")) for _ in range(3)]
            for result in reversed(asked):
                result.cancel()
                self.failureResultOf(result, CancelledError)
        self.assertEqual(self.source._lines, {})
        self.assertNoResult(self.ask(basic(peer="10.1.0.1")))

    def test_broken_thread(self) -> None:
        """A check that fails by itself lets nobody in, and the next one has its turn."""
        self.patch(self.source._files, "current", lambda: 1 / 0)
        asked = [self.ask(basic()), self.ask(basic())]
        for result in asked:
            self.threads.finish()
            self.failureResultOf(result, ZeroDivisionError)
        self.assertEqual(len(self.failures), 0)
