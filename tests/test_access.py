from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import make_spec
from wsserver import access
from wsserver.errors import Forbidden, Unauthorized


class SecretTests(SynchronousTestCase):
    def test_mint(self) -> None:
        """Tokens are short, URL-safe, never the same, and of more than 122 random bits."""
        tokens = {access.mint_token() for _ in range(200)}
        self.assertEqual(len(tokens), 200)
        for token in tokens:
            self.assertRegex(token, r"\A[A-Za-z0-9_-]{27}\Z")
        self.assertGreaterEqual(access.TOKEN_BYTES * 8, 122)

    def test_same_secret(self) -> None:
        """Secrets are the same when every character is; bytes that are no text may be in them."""
        same = [("s3cret", "s3cret"), ("", ""), ("\udc80ä", "\udc80ä")]
        other = [("s3cret", "s3creT"), ("s3cret", "s3cret "), ("", "x"), ("\udc80", "\udc81")]
        for pair in same:
            self.assertTrue(access.same_secret(*pair), pair)
        for pair in other:
            self.assertFalse(access.same_secret(*pair), pair)


class CallerTests(SynchronousTestCase):
    def test_no_token_configured(self) -> None:
        """Without a security token everybody is let in, and nobody is trusted."""
        self.assertEqual(access.identify(None, None), access.Caller(trusted=False))
        self.assertEqual(access.identify("anything", None), access.Caller(trusted=False))

    def test_right_token(self) -> None:
        """Who shows the security token is trusted."""
        self.assertTrue(access.identify("s3cret", "s3cret").trusted)

    def test_wrong_token(self) -> None:
        """A missing token and a wrong one are refused, each in its own words."""
        for given, words in ((None, "needed"), ("", "wrong"), ("S3cret", "wrong")):
            error = self.assertRaises(Unauthorized, access.identify, given, "s3cret")
            self.assertIn(words, str(error))
            self.assertNotIn("s3cret", str(error))

    def test_groups(self) -> None:
        """A service of a group is for the trusted application only."""
        anybody, trusted = access.Caller(), access.Caller(trusted=True)
        free, closed = make_spec(), make_spec(options={"group": "staff"})
        for spec, caller in ((free, anybody), (free, trusted), (closed, trusted)):
            self.assertTrue(access.may_use(spec, caller))
            access.check_may_use(spec, caller)
        self.assertFalse(access.may_use(closed, anybody))
        error = self.assertRaises(Forbidden, access.check_may_use, closed, anybody)
        self.assertEqual(str(error), "Demo is for members of its group only")
