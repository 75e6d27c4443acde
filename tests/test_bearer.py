"""Tokens that somebody has signed for a user."""

from __future__ import annotations

import base64
import hmac
import json
import random
import time
from typing import Any

import jwt
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.signers import (
    AUDIENCE,
    ISSUER,
    SECRET,
    ec_key,
    ed_key,
    jwk,
    jwks,
    public_pem,
    rsa_key,
    token,
)
from tests.test_identity import shown
from wsserver.access import Caller
from wsserver.bearer import BearerTokens, FixedKeys, Rules
from wsserver.errors import Unauthorized
from wsserver.jwks import read_jwks, read_keys, secret_key


class BearerCase(SynchronousTestCase):
    rules: dict[str, Any] = {"audience": AUDIENCE, "issuer": ISSUER}

    def setUp(self) -> None:
        self.keys = [
            secret_key(SECRET.encode()),
            *read_keys(public_pem(rsa_key()) + public_pem(ed_key())),
            *read_jwks(jwks(jwk(ec_key(), "e"), jwk(rsa_key(number=1), "r"))),
        ]

    def identify(self, given: str, **rules: Any) -> Deferred[Caller | None]:
        source = BearerTokens([FixedKeys(self.keys)], Rules(**{**self.rules, **rules}))
        return Deferred.fromCoroutine(source.identify(shown(Authorization=f"Bearer {given}")))

    def caller(self, given: str, **rules: Any) -> Caller:
        caller: Caller = self.successResultOf(self.identify(given, **rules))
        return caller

    def refusal(self, given: str, **rules: Any) -> str:
        return str(self.failureResultOf(self.identify(given, **rules), Unauthorized).value)


class SignatureTests(BearerCase):
    def test_algorithms(self) -> None:
        """Each kind of key is good for its algorithms."""
        for key, algorithm, kid in (
            (SECRET, "HS256", None),
            (SECRET, "HS512", None),
            (rsa_key(), "RS256", None),
            (rsa_key(), "PS512", None),
            (rsa_key(number=1), "RS384", "r"),
            # The second of two that fit.
            (rsa_key(number=1), "RS384", None),
            (ec_key(), "ES256", "e"),
            (ed_key(), "EdDSA", None),
        ):
            self.assertEqual(self.caller(token(key, algorithm, kid)).user, "alice", algorithm)

    def test_wrong_signature(self) -> None:
        """A signature of somebody else is nobody's."""
        good = token()
        for given in (
            token("another secret of thirty-two bytes or more"),
            token(rsa_key(number=2), "RS256"),
            token(rsa_key(number=2), "RS256", "r"),
            good[:-2] + ("AA" if good[-2:] != "AA" else "BB"),
            good.rpartition(".")[0] + ".",
        ):
            self.assertIn("known signer", self.refusal(given))

    def test_none(self) -> None:
        """A token without a signature is nobody's."""
        for name in ("none", "None", "nOnE"):
            head = base64.urlsafe_b64encode(json.dumps({"alg": name}).encode()).rstrip(b"=")
            body = token().split(".")[1]
            for signature in ("", token().split(".")[2]):
                self.assertIn("not known", self.refusal(f"{head.decode()}.{body}.{signature}"))

    def test_confusion(self) -> None:
        """A public key is no secret: tokens signed with it as if it were one are refused."""
        for key in (rsa_key(), ec_key()):
            body = token().split(".")
            head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=").decode()
            message = f"{head}.{body[1]}".encode()
            digest = hmac.digest(public_pem(key).encode(), message, "sha256")
            signature = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            self.keys = read_keys(public_pem(key))
            self.assertIn("not known", self.refusal(f"{message.decode()}.{signature}"))

    def test_unknown_key(self) -> None:
        """A token of a key that is not there is refused."""
        for given in (token(ec_key(), "ES256", "gone"), token(ec_key("SECP384R1"), "ES384")):
            self.assertIn("not known", self.refusal(given))

    def test_garbage(self) -> None:
        """What is no token is refused."""
        for given in ("", "x", "a.b", "a.b.c", "..", "sesame", "e30.e30.", "W10.e30.x"):
            self.refusal(given)

    def test_spoilt(self) -> None:
        """However a token is spoilt, it is refused; nothing else ever happens."""
        good = [token(), token(ec_key(), "ES256", "e"), token(rsa_key(), "RS256")]
        for seed in range(1000):
            chance = random.Random(seed)
            parts = chance.choice(good).split(".")
            which = chance.randrange(3)
            raw = bytearray(base64.urlsafe_b64decode(parts[which] + "=="))
            for _ in range(chance.randint(1, 3)):
                raw[chance.randrange(len(raw))] = chance.randrange(256)
            spoilt = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
            if spoilt != parts[which]:
                parts[which] = spoilt
                self.refusal(".".join(parts))

    def test_strange(self) -> None:
        """JSON that is too deep, or not what it should be, is no token, whoever signed it."""
        body, signature = token().split(".")[1:]
        for text in ("[" * 6000, "1", "null", '"x"', '{"alg": {}}', '{"alg": "HS256", "kid": 7}'):
            head = base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()
            self.refusal(f"{head}.{body}.{signature}")
        for text in ("[" * 6000, '{"a": ' * 3000, "1", "[]", '{"exp": 1e400}', '{"exp": "x"}'):
            signed = jwt.PyJWS().encode(text.encode(), SECRET, "HS256")
            self.refusal(signed, audience=None, issuer=None)

    def test_not_shown(self) -> None:
        """Credentials of another scheme are not for this source."""
        source = BearerTokens([FixedKeys(self.keys)], Rules())
        for given in (shown(), shown(Authorization="Basic x"), shown(token=token())):
            self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(source.identify(given))))


class ClaimTests(BearerCase):
    def test_time(self) -> None:
        """A token has an end; it is not over, nor yet to come, though clocks differ a little."""
        now = int(time.time())
        self.assertIn("exp", self.refusal(token(exp=None)))
        self.assertIn("expired", self.refusal(token(exp=now - 60)))
        self.assertIn("not yet valid", self.refusal(token(nbf=now + 60)))
        self.assertEqual(self.caller(token(exp=now - 60), leeway=120.0).user, "alice")
        self.assertEqual(self.caller(token(nbf=now + 60), leeway=120.0).user, "alice")
        self.refusal(token(exp="soon"))
        # Its owner has done nothing wrong.
        self.refusal(token(exp=now - 60))

    def test_audience(self) -> None:
        """A token for somebody else is not for us."""
        self.assertEqual(self.caller(token(aud=["other", AUDIENCE])).user, "alice")
        for audience in ("other", ["other"], None, ""):
            self.assertTrue(self.refusal(token(aud=audience)), audience)
        # Where none is expected, one that is named was meant for somebody.
        self.assertTrue(self.refusal(token(), audience=None))
        self.assertEqual(self.caller(token(aud=None), audience=None).user, "alice")

    def test_issuer(self) -> None:
        """A token of somebody else does not count, where it is said whose do."""
        for issuer in ("https://evil.example", None):
            self.assertTrue(self.refusal(token(iss=issuer)), issuer)
        self.assertEqual(self.caller(token(iss="https://any"), issuer=None).user, "alice")

    def test_user(self) -> None:
        """Who it is stands in the claim that is set."""
        caller = self.caller(token(email="a@b.example"), user_claim="email")
        self.assertEqual(
            (caller.user, caller.trusted, caller.operator), ("a@b.example", False, False)
        )
        for claims in (
            {"sub": None},
            {"sub": ""},
            {"sub": "a\n"},
            {"sub": "x" * 257},
            {"sub": "\ud800"},
        ):
            self.assertTrue(self.refusal(token(**claims)), claims)
        self.assertTrue(self.refusal(token(id=7), user_claim="id"))

    def test_groups(self) -> None:
        """The groups are a list of names, or one name, perhaps deeper inside."""
        deep = {"realm_access": {"roles": ["a", "b"]}, "https://x.y/roles": ["c"]}
        for claim, claims, expected in (
            ("groups", {"groups": ["a", "b"]}, {"a", "b"}),
            ("groups", {"groups": "a b"}, {"a b"}),
            ("groups", {}, set()),
            ("groups", {"groups": []}, set()),
            ("realm_access.roles", deep, {"a", "b"}),
            ("https://x.y/roles", deep, {"c"}),
            ("realm_access.none.x", deep, set()),
        ):
            self.assertEqual(self.caller(token(**claims), groups_claim=claim).groups, expected)
        for groups in ({"a": 1}, [1], 7, ["a\n"]):
            self.assertTrue(self.refusal(token(groups=groups)), groups)
