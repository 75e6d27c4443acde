"""TLS as it is safe today (RFC 9325): certificate, key, and who signs those of clients."""

from __future__ import annotations

import re
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL
from OpenSSL.crypto import X509, PKey
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.ssl import AcceptableCiphers, CertificateOptions, TLSVersion
from zope.interface import implementer

from wsserver.errors import ConfigError

#: For TLS 1.2: what is forward secret and authenticated.  TLS 1.3 has nothing else.
_CIPHERS = AcceptableCiphers.fromOpenSSLCipherString(  # type: ignore[no-untyped-call]
    "ECDHE+AESGCM:ECDHE+CHACHA20"
)

#: ``SSL_MODE_ENABLE_PARTIAL_WRITE``, which pyOpenSSL sets and does not name.
_PARTIAL_WRITE = 1


@implementer(IOpenSSLContextFactory)
class Certificate:
    """What a TLS listener uses for new connections; ``reload`` reads the files again.

    The arguments are those of ``context_factory``.
    """

    def __init__(
        self,
        cert: str,
        key: str | None = None,
        client_ca: str | None = None,
        required: bool = True,
    ) -> None:
        self._files = cert, key, client_ca, required
        self.reload()

    def reload(self) -> None:
        """Read the files, or raise ConfigError and keep what was read before."""
        self._options = context_factory(*self._files)

    def getContext(self) -> SSL.Context:  # noqa: N802
        """Return the context of a new connection."""
        return self._options.getContext()


def context_factory(
    cert: str, key: str | None = None, client_ca: str | None = None, required: bool = True
) -> CertificateOptions:
    """Return what a TLS listener needs: TLS 1.2 and newer, without renegotiation.

    ``cert`` holds the certificate, then those that signed it; ``key`` may stand in the
    same file.  Clients show a certificate that one of ``client_ca`` has signed, where
    there is such a file: all of them, or, unless ``required``, those that have one.

    Raises:
        ConfigError: a file cannot be read, or holds no PEM of that kind; or the key is
            that of another certificate.
    """
    chain = _certificates("cert", cert)
    signers = _certificates("client_ca", client_ca) if client_ca is not None else []
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
        acceptableCiphers=_CIPHERS,
    )
    try:
        # Twisted would do this for the first client, and tell the log alone.
        context = options.getContext()
    except SSL.Error:
        raise ConfigError(
            [f"settings.key: {key or cert} does not belong to the certificate in {cert}"]
        ) from None
    context.set_options(SSL.OP_NO_RENEGOTIATION)
    if signers:
        _ask_clients(context, signers, required)
    # Records are written into memory, which is never full: all of a write at once.
    if hasattr(context, "clear_mode"):
        context.clear_mode(_PARTIAL_WRITE)
    return options


def _ask_clients(context: SSL.Context, signers: list[X509], required: bool) -> None:
    """Let clients show a certificate; Twisted's own options would demand it always."""
    store = context.get_cert_store()
    assert store is not None
    for signer in signers:
        store.add_cert(signer)
    context.set_client_ca_list([signer.get_subject() for signer in signers])
    context.set_verify(SSL.VERIFY_PEER | (SSL.VERIFY_FAIL_IF_NO_PEER_CERT if required else 0))


def _certificates(setting: str, path: str) -> list[X509]:
    try:
        found = load_pem_x509_certificates(_read(path))
    except ValueError:
        raise ConfigError([f"settings.{setting}: {path} holds no certificate"]) from None
    return [X509.from_cryptography(certificate) for certificate in found]


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error


def _only_key(pem: bytes) -> bytes:
    found = re.search(rb"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.+?-----END \1-----", pem, re.S)
    return found.group() if found else b""
