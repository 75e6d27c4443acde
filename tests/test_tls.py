"""Certificates and keys from PEM files."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from wsserver.errors import ConfigError
from wsserver.tls import context_factory


def make(name: str, password: bytes | None = None) -> tuple[bytes, bytes]:
    """Return a certificate and its key as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1)
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    pem = serialization.Encoding.PEM
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        protection = serialization.BestAvailableEncryption(password)
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, protection)
    return builder.sign(key, hashes.SHA256()).public_bytes(pem), secret


class ContextTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.cert, self.key = make("server")

    def file(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        return str(path)

    def assert_problem(self, text: str, cert: str, key: str | None = None) -> None:
        with self.assertRaises(ConfigError) as caught:
            context_factory(cert, key)
        self.assertIn(text, str(caught.exception))

    def test_two_files(self) -> None:
        """Certificate and key stand in two files."""
        made = context_factory(self.file("c", self.cert), self.file("k", self.key))
        self.assertEqual(made.certificate.get_subject().CN, "server")
        self.assertIsInstance(made.getContext(), SSL.Context)

    def test_one_file(self) -> None:
        """Or in one, in any order, with those that signed it."""
        other, _ = make("authority")
        made = context_factory(self.file("all", self.key + self.cert + other))
        self.assertEqual([c.get_subject().CN for c in made.extraCertChain], ["authority"])

    def test_key_of_another(self) -> None:
        """A key that does not belong to the certificate is told before anything listens."""
        _, other = make("other")
        cert, key = self.file("c", self.cert), self.file("k", other)
        self.assert_problem(f"{key} does not belong to the certificate in {cert}", cert, key)

    def test_old_clients(self) -> None:
        """TLS 1.1 and older are not spoken."""
        context = context_factory(self.file("all", self.cert + self.key)).getContext()
        refused = context.set_options(0)
        for old in (SSL.OP_NO_SSLv3, SSL.OP_NO_TLSv1, SSL.OP_NO_TLSv1_1):
            self.assertTrue(refused & old)
        self.assertFalse(refused & SSL.OP_NO_TLSv1_2)

    def test_clients(self) -> None:
        """Clients are asked for a certificate: all of them, or those that have one."""
        both, signers = self.file("all", self.cert + self.key), self.file("ca", make("ca")[0])
        for required, mode in ((True, SSL.VERIFY_FAIL_IF_NO_PEER_CERT), (False, 0)):
            context = context_factory(both, None, signers, required).getContext()
            self.assertEqual(context.get_verify_mode(), SSL.VERIFY_PEER | mode)
        self.assertEqual(context_factory(both).getContext().get_verify_mode(), SSL.VERIFY_NONE)
        with self.assertRaises(ConfigError) as caught:
            context_factory(both, None, self.file("empty", b""))
        self.assertIn("settings.client_ca: ", str(caught.exception))

    def test_bad_files(self) -> None:
        """What cannot be used is named, with its file."""
        cert, junk = self.file("c", self.cert), self.file("junk", b"junk")
        _, locked = make("x", b"password")
        self.assert_problem("junk holds no certificate", junk)
        self.assert_problem("c holds no key", cert)
        self.assert_problem("junk holds no key", cert, junk)
        self.assert_problem(
            "locked holds no key without password", cert, self.file("locked", locked)
        )
        self.assert_problem("No such file", str(self.folder / "none"))
        self.assert_problem("No such file", cert, str(self.folder / "none"))
        broken = self.cert.replace(b"M", b"!", 3)
        self.assert_problem("holds no certificate", self.file("broken", broken))
