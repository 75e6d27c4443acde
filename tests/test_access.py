from __future__ import annotations

from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import make_spec
from wsserver import access
from wsserver.access import ANYBODY, APPLICATION, Caller
from wsserver.errors import Forbidden
from wsserver.lifecycle import Reservation

ALICE = Caller(user="alice", groups=frozenset({"staff", "guests"}))
BOB = Caller(user="bob")


class SecretTests(SynchronousTestCase):
    def test_mint(self) -> None:
        """Tokens are short, URL-safe, never the same, and of more than 122 random bits."""
        tokens = [access.mint_token() for _ in range(20_000)]
        self.assertEqual(len(set(tokens)), len(tokens))
        for token in tokens:
            self.assertRegex(token, r"\A[A-Za-z0-9_-]{27}\Z")
        self.assertGreaterEqual(access.TOKEN_BYTES * 8, 122)
        # 63 degrees of freedom: it would be above 150 by chance once in 10**8 runs.
        # The last character holds four of its six bits alone.
        counts = Counter("".join(token[:-1] for token in tokens))
        expected = sum(counts.values()) / 64
        self.assertLess(sum((n - expected) ** 2 / expected for n in counts.values()), 150)

    def test_digest(self) -> None:
        """Secrets have the same digest when every character is; any text may be one."""
        same = [("s3cret", "s3cret"), ("", ""), ("\udc80\ud800ä", "\udc80\ud800ä")]
        other = [("s3cret", "s3creT"), ("s3cret", "s3cret "), ("", "x"), ("\udc80", "\udc81")]
        for one, two in same:
            self.assertTrue(access.same_digest(access.digest(one), access.digest(two)), one)
        for one, two in other:
            self.assertFalse(access.same_digest(access.digest(one), access.digest(two)), one)


class RightsTests(SynchronousTestCase):
    def test_groups(self) -> None:
        """A service of groups is for their members, and for who vouches for its users."""
        free = make_spec()
        closed = make_spec(options={"group": ["staff", "admins"]})
        for caller in (ANYBODY, APPLICATION, ALICE, BOB):
            access.check_may_use(free, caller)
        for caller, may in ((APPLICATION, True), (ALICE, True), (BOB, False), (ANYBODY, False)):
            self.assertEqual(access.may_use(closed, caller), may, caller)
        error = self.assertRaises(Forbidden, access.check_may_use, closed, BOB)
        self.assertEqual(str(error), "Demo is for members of its group only")

    def test_acting(self) -> None:
        """Who acts for a user may use what that user may; it stays who it is."""
        closed = make_spec(options={"group": "staff"})
        for groups, may in ((None, True), (frozenset({"staff"}), True), (frozenset(), False)):
            caller = APPLICATION.acting_for("alice", groups)
            self.assertEqual((caller.user, caller.trusted), ("alice", True))
            self.assertEqual(access.may_use(closed, caller), may, groups)

    def test_reservations(self) -> None:
        """A reservation is the business of its user and of operators; nobody's, of these alone."""
        for user, expected in (
            ("alice", (True, True, True, False)),
            (None, (True, True, False, False)),
        ):
            made = Reservation("token", "Demo", 0, {}, 0.0, 0.0, user=user)
            callers = (ANYBODY, APPLICATION, ALICE, BOB)
            self.assertEqual(tuple(access.may_have(made, c) for c in callers), expected)

    def test_operators(self) -> None:
        """Users may not do what concerns everybody."""
        for caller in (ANYBODY, APPLICATION):
            access.check_operator(caller)
        self.assertRaises(Forbidden, access.check_operator, ALICE)
