"""Which keys there are, and which algorithms each may verify."""

from __future__ import annotations

import json

from jwt.algorithms import RSAAlgorithm
from twisted.trial.unittest import SynchronousTestCase

from tests.signers import (
    SECRET,
    certificate_pem,
    ec_key,
    ed_key,
    jwk,
    jwks,
    private_pem,
    public_pem,
    rsa_key,
)
from wsserver.jwks import read_jwks, read_keys, secret_key

RSA = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}


class KindTests(SynchronousTestCase):
    def test_secret(self) -> None:
        """A secret verifies what it is long enough for."""
        for size, algorithms in (
            (32, {"HS256"}),
            (48, {"HS256", "HS384"}),
            (64, {"HS256", "HS384", "HS512"}),
        ):
            self.assertEqual(secret_key(b"x" * size).algorithms, algorithms)
        self.assertRaises(ValueError, secret_key, b"x" * 31)

    def test_no_public_key_as_secret(self) -> None:
        """A public key is never taken for a secret: everybody knows it."""
        for text in (public_pem(rsa_key()), certificate_pem(rsa_key())):
            self.assertRaisesRegex(ValueError, "no shared secret", secret_key, text.encode())

    def test_pem(self) -> None:
        """Public keys and certificates, several in one file; the kind decides what they verify."""
        text = public_pem(rsa_key()) + "\n" + certificate_pem(ec_key()) + public_pem(ed_key())
        text += public_pem(ec_key("SECP384R1")) + public_pem(ec_key("SECP521R1"))
        found = [set(key.algorithms) for key in read_keys(text)]
        self.assertEqual(found, [RSA, {"ES256"}, {"EdDSA"}, {"ES384"}, {"ES512"}])

    def test_refused(self) -> None:
        """What must not or cannot be used says why."""
        for text, why in (
            (private_pem(rsa_key()), "private key"),
            (public_pem(rsa_key(1024)), "2048 bits"),
            (public_pem(ec_key("SECP224R1")), "not known"),
            ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", ""),
            ("", "neither PEM nor a JWK set"),
            ("[]", "neither PEM nor a JWK set"),
            ('{"keys": 1}', "neither PEM nor a JWK set"),
            ('{"keys": []}', "no key"),
            (SECRET, "neither PEM nor a JWK set"),
            ("[" * 100_000, "neither PEM nor a JWK set"),
        ):
            self.assertRaisesRegex(ValueError, why, read_keys, text)


class SetTests(SynchronousTestCase):
    def test_set(self) -> None:
        """A JWK names the key; its algorithm, where there is one, is the only one."""
        text = jwks(
            jwk(rsa_key(), "r"),
            jwk(rsa_key(), "s", alg="PS256"),
            jwk(ec_key(), "e", alg="ES256", use="sig"),
            jwk(ed_key()),
        )
        found = [(key.kid, set(key.algorithms)) for key in read_jwks(text)]
        expected = [("r", RSA), ("s", {"PS256"}), ("e", {"ES256"}), (None, {"EdDSA"})]
        self.assertEqual(found, expected)

    def test_passed_over(self) -> None:
        """What is for something else, or not understood, does not spoil the rest."""
        strange = [
            {"kty": "new"},
            {},
            jwk(rsa_key(), "e", use="enc"),
            jwk(rsa_key(), "o", alg="RSA-OAEP"),
            jwk(rsa_key(), "h", alg="HS256"),
            jwk(rsa_key(1024), "short"),
            jwk(ec_key(), "other curve", alg="ES384"),
            {"kty": "RSA", "n": "!", "e": "AQAB"},
        ]
        text = json.dumps({"keys": [*strange, "x", jwk(ec_key(), "good")]})
        self.assertEqual([key.kid for key in read_jwks(text)], ["good"])
        self.assertRaisesRegex(ValueError, "no key", read_jwks, json.dumps({"keys": strange}))

    def test_secrets(self) -> None:
        """A secret in a file of ours counts, one that is published does not."""
        text = jwks({"kty": "oct", "k": "eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eHh4eA"})
        self.assertEqual(read_keys(text)[0].algorithms, {"HS256"})
        self.assertRaises(ValueError, read_jwks, text)

    def test_private_halves(self) -> None:
        """Of a private key in a set the public half is used."""
        private = json.loads(RSAAlgorithm.to_jwk(rsa_key()))
        (key,) = read_keys(jwks(private))
        self.assertFalse(hasattr(key.material, "private_numbers"))

    def test_fits(self) -> None:
        """A token finds its key by algorithm and, where both have one, by name."""
        (named,), (unnamed,) = read_jwks(jwks(jwk(ec_key(), "a"))), read_jwks(jwks(jwk(ec_key())))
        for key, algorithm, kid, fits in (
            (named, "ES256", "a", True),
            (named, "ES256", None, True),
            (named, "ES256", "b", False),
            (unnamed, "ES256", "b", True),
            (unnamed, "RS256", None, False),
            (unnamed, "none", None, False),
            (unnamed, None, None, False),
            (unnamed, {}, None, False),
        ):
            self.assertEqual(key.fits(algorithm, kid), fits)
