"""Certificate and key from PEM files."""

from __future__ import annotations

import re
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL
from OpenSSL.crypto import X509, PKey
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.ssl import CertificateOptions, TLSVersion
from zope.interface import implementer

from wsserver.errors import ConfigError

#: ``SSL_MODE_ENABLE_PARTIAL_WRITE``, which pyOpenSSL sets and does not name.
_PARTIAL_WRITE = 1


@implementer(IOpenSSLContextFactory)
class Certificate:
    """What a TLS listener uses for new connections; ``reload`` reads the files again."""

    def __init__(self, cert: str, key: str | None = None) -> None:
        self._files = cert, key
        self.reload()

    def reload(self) -> None:
        """Read certificate and key, or raise ConfigError and keep what was read before."""
        self._options = context_factory(*self._files)

    def getContext(self) -> SSL.Context:  # noqa: N802
        """Return the context of a new connection."""
        return self._options.getContext()


def context_factory(cert: str, key: str | None = None) -> CertificateOptions:
    """Return what a TLS listener needs: TLS 1.2 and newer.

    ``cert`` holds the certificate, then those that signed it; ``key`` may stand in the
    same file.

    Raises:
        ConfigError: a file cannot be read, or holds no PEM of that kind; or the key is
            that of another certificate.
    """
    try:
        chain = [X509.from_cryptography(c) for c in load_pem_x509_certificates(_read(cert))]
    except ValueError:
        raise ConfigError([f"settings.cert: {cert} holds no certificate"]) from None
    try:
        secret = load_pem_private_key(_only_key(_read(key or cert)), password=None)
        private = PKey.from_cryptography_key(secret)  # type: ignore[arg-type]
    except (ValueError, TypeError):
        raise ConfigError([f"settings.key: {key or cert} holds no key without password"]) from None
    options = CertificateOptions(
        privateKey=private,
        certificate=chain[0],
        extraCertChain=chain[1:],
        raiseMinimumTo=TLSVersion.TLSv1_2,
    )
    try:
        # Twisted would do this for the first client, and tell the log alone.
        context = options.getContext()
    except SSL.Error:
        raise ConfigError(
            [f"settings.key: {key or cert} does not belong to the certificate in {cert}"]
        ) from None
    # Records are written into memory, which is never full: all of a write at once.
    if hasattr(context, "clear_mode"):
        context.clear_mode(_PARTIAL_WRITE)
    return options


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error


def _only_key(pem: bytes) -> bytes:
    found = re.search(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.+?-----END \1-----", pem, re.S)
    return found.group() if found else b""
