"""Who sends a request, as the sources together tell."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import Shows
from wsserver.access import ANYBODY, APPLICATION, Caller
from wsserver.errors import BadRequest, Forbidden, TooManyFailures, Unauthorized, WSServerError
from wsserver.failures import Failures
from wsserver.identity import (
    Credentials,
    Identity,
    ProxyHeaders,
    SecurityToken,
    Source,
    acting,
    split_groups,
)

PROXY = "10.0.0.1"


def shown(
    peer: str = "192.0.2.1", token: str | None = None, **headers: str | list[str]
) -> Credentials:
    """What a request shows; a list is a header that stands several times."""

    def values(name: str) -> list[str]:
        found = headers.get(name.replace("-", "_"), [])
        return [found] if isinstance(found, str) else found

    return Credentials(peer, peer, values, token)


class IdentityCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.failures = Failures(lambda: 0.0, limit=3)

    def sources(self) -> list[Source]:
        return [
            SecurityToken("sesame", self.failures),
            Shows(alice=Caller(user="alice")),
            ProxyHeaders(lambda peer: peer == PROXY, "X-User", "X-Groups"),
        ]

    def ask(self, given: Credentials, *sources: Source) -> Caller:
        identity = Identity(sources or self.sources())
        caller: Caller = self.successResultOf(Deferred.fromCoroutine(identity.caller(given)))
        return caller

    def refusal(self, given: Credentials, *sources: Source) -> WSServerError:
        identity = Identity(sources or self.sources())
        asked = Deferred.fromCoroutine(identity.caller(given))
        error: WSServerError = self.failureResultOf(asked, WSServerError).value
        return error


class CombinationTests(IdentityCase):
    def test_no_source(self) -> None:
        """Where nobody can prove who they are, everybody is an operator, whatever they show."""
        identity = Identity([])
        for given in (shown(), shown(token="x"), shown(Authorization="Basic x")):
            asked = Deferred.fromCoroutine(identity.caller(given))
            self.assertEqual(self.successResultOf(asked), ANYBODY)
        self.assertEqual(identity.challenges, [])

    def test_each(self) -> None:
        """Each source knows its own."""
        self.assertEqual(self.ask(shown(token="sesame")), APPLICATION)
        self.assertEqual(self.ask(shown(X_Caller="alice")).user, "alice")
        self.assertEqual(self.ask(shown(PROXY, X_User="bob")).user, "bob")

    def test_nothing(self) -> None:
        """Who shows nothing is not let in."""
        self.assertIsInstance(self.refusal(shown()), Unauthorized)

    def test_wrong(self) -> None:
        """What is shown and wrong is refused, whatever else is shown."""
        for given in (
            shown(PROXY, token="wrong", X_User="bob"),
            shown(PROXY, Authorization="Bearer wrong", X_User="bob"),
            shown(token="wrong", Authorization="Bearer sesame"),
        ):
            self.failures = Failures(lambda: 0.0)
            self.assertIsInstance(self.refusal(given), Unauthorized)
            self.assertEqual(len(self.failures), 1)

    def test_guessing(self) -> None:
        """After some failures of a kind none of that address is looked at; others are served."""
        wrong = shown(token="wrong"), shown(Authorization="Bearer wrong")
        right = shown(token="sesame"), shown(Authorization="Bearer sesame")
        for kind in (0, 1):
            for _ in range(3):
                self.assertIsInstance(self.refusal(wrong[kind]), Unauthorized)
            self.assertIsInstance(self.refusal(right[kind]), TooManyFailures)
            self.assertIsInstance(self.refusal(wrong[kind]), TooManyFailures)
            # A foreign page writes any query, and no header: it shuts nobody else out.
            if kind == 0:
                self.assertEqual(self.ask(right[1]), APPLICATION)
        self.assertEqual(self.ask(shown("192.0.2.2", token="sesame")), APPLICATION)
        # Who shows no secret cannot guess.
        self.assertEqual(self.ask(shown(X_Caller="alice")).user, "alice")

    def test_challenges(self) -> None:
        """What a 401 says to browsers: each way to log in, once."""
        identity = Identity([*self.sources(), *self.sources()])
        self.assertEqual(identity.challenges, ["Bearer", "Test", 'Proxy realm="wsserver"'])


class SecurityTokenTests(IdentityCase):
    def test_places(self) -> None:
        """It stands in the query, or is a bearer token; the query counts first."""
        for given in (
            shown(token="sesame"),
            shown(Authorization="Bearer sesame"),
            shown(Authorization="bearer  sesame "),
            shown(token="sesame", Authorization="Bearer wrong"),
        ):
            self.assertEqual(self.ask(given), APPLICATION)

    def test_wrong(self) -> None:
        """A wrong one is a failure, and is not told back."""
        for given in ("", "Sesame", "sesame ", "s\udc80"):
            self.failures = Failures(lambda: 0.0)
            error = self.refusal(shown(token=given))
            self.assertEqual(str(error), "wrong security token")
            self.assertEqual(len(self.failures), 1)

    def test_not_alone(self) -> None:
        """What looks like a signed token is left to who knows those; nothing else is."""
        for secret in ("sesame", "a.b.c"):
            source = SecurityToken(secret, self.failures, alone=False)
            self.assertEqual(self.ask(shown(Authorization=f"Bearer {secret}"), source), APPLICATION)
        source = SecurityToken("sesame", self.failures, alone=False)
        for given in ("e30.e30.x", "e30.e30."):
            asked = Deferred.fromCoroutine(source.identify(shown(Authorization=f"Bearer {given}")))
            self.assertIsNone(self.successResultOf(asked))
        self.assertEqual(len(self.failures), 0)
        for wrong in (shown(token="e30.e30.x"), shown(Authorization="Bearer guess")):
            self.assertIn("wrong security", str(self.refusal(wrong, source)))
        self.assertEqual(len(self.failures), 2)

    def test_other_schemes(self) -> None:
        """Credentials of another scheme are not for this source."""
        self.assertIn("log in", str(self.refusal(shown(Authorization="Basic sesame"))))
        self.assertEqual(len(self.failures), 0)


class ActingTests(SynchronousTestCase):
    def test_acting(self) -> None:
        """The fields are taken out of the options; groups that are not named are not checked."""
        for given, user, groups in (
            ({"user": "alice", "groups": "a, b"}, "alice", {"a", "b"}),
            ({"user": "alice"}, "alice", None),
            ({"groups": ""}, None, frozenset()),
            ({}, None, None),
        ):
            options = {**given, "colour": "red"}
            caller = acting(APPLICATION, options)
            self.assertEqual((caller.user, caller.groups), (user, groups))
            self.assertEqual(options, {"colour": "red"})
            self.assertTrue(caller.trusted)

    def test_others(self) -> None:
        """Nobody else names a user, be it themselves; without the fields all is as ever."""
        alice = Caller(user="alice")
        for given in ({"user": "alice"}, {"groups": "staff"}):
            self.assertRaises(Forbidden, acting, alice, given)
            self.assertRaises(Forbidden, acting, ANYBODY, given)
        self.assertIs(acting(alice, {"colour": "red"}), alice)


class ProxyHeadersTests(IdentityCase):
    def test_user_and_groups(self) -> None:
        """User and groups are what the proxy says, in UTF-8."""
        for groups, expected in (("a, b,,c ", {"a", "b", "c"}), ("", set()), ("x y", {"x y"})):
            caller = self.ask(shown(PROXY, X_User="j\xc3\xbcrgen", X_Groups=groups))
            self.assertEqual((caller.user, caller.groups), ("jürgen", expected))
            self.assertFalse(caller.operator or caller.trusted)

    def test_anybody_else(self) -> None:
        """From anybody but the proxy the headers say nothing."""
        given = shown("192.0.2.1", X_User="bob", X_Groups="admins")
        self.assertIn("log in", str(self.refusal(given)))
        self.assertEqual(self.ask(shown(X_User="bob", X_Caller="alice")).user, "alice")

    def test_no_user(self) -> None:
        """A proxy that names nobody vouches for nobody."""
        for given in (shown(PROXY), shown(PROXY, X_User=""), shown(PROXY, X_Groups="admins")):
            self.assertIsInstance(self.refusal(given), Unauthorized)

    def test_no_groups(self) -> None:
        """Without a groups header there are users alone."""
        source = ProxyHeaders(lambda peer: True, "X-User")
        caller = self.ask(shown(X_User="bob", X_Groups="admins"), source)
        self.assertEqual((caller.user, caller.groups), ("bob", frozenset()))

    def test_ambiguous(self) -> None:
        """A header that stands twice, for one may be the client's own, is refused."""
        for given in (
            shown(PROXY, X_User=["root", "bob"]),
            shown(PROXY, X_User="bob", X_Groups=["admins", "guests"]),
            shown(PROXY, X_User="b\xff"),
            shown(PROXY, X_User="b\x1bob"),
            shown(PROXY, X_User="b" * 257),
            shown(Authorization=["Bearer sesame", "Bearer sesame"]),
        ):
            self.assertIsInstance(self.refusal(given), BadRequest)

    def test_split_groups(self) -> None:
        """A list of groups has commas; names are names."""
        self.assertEqual(split_groups(" a,b , ,"), {"a", "b"})
        for wrong in ("a,b\0", "a,\ud800"):
            self.assertRaises(BadRequest, split_groups, wrong)
