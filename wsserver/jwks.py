"""The keys that sign tokens: from PEM, from a JWK set (RFC 7517), or a shared secret.  Pure.

Which algorithms a key may verify follows from its kind alone, never from the token: so
``none`` verifies nothing, and no public key is ever taken for a shared secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cryptography.x509 import load_pem_x509_certificate
from jwt import PyJWK
from jwt.exceptions import PyJWTError

#: The shortest RSA key, in bits (RFC 7518, section 3.3).
MIN_RSA_BITS = 2048

#: The secrets of each algorithm are at least as long as its hash, in bytes (section 3.2).
_HMAC = {"HS256": 32, "HS384": 48, "HS512": 64}
_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
#: What only who holds the private half can sign.
PUBLIC = _RSA | {"EdDSA", *_CURVES.values()}

_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----", re.DOTALL)


@dataclass(frozen=True)
class Key:
    """A key and the algorithms that it may verify; ``kid`` is its name, if it has one."""

    material: Any = field(repr=False)
    algorithms: frozenset[str]
    kid: str | None = None

    def fits(self, algorithm: object, kid: object) -> bool:
        """Tell whether a token with these headers may be signed by this key."""
        if not isinstance(algorithm, str) or algorithm not in self.algorithms:
            return False
        return kid is None or self.kid in (None, kid)


def secret_key(secret: bytes) -> Key:
    """Return the key of a shared secret.  Raises ValueError."""
    if b"-----BEGIN" in secret:
        raise ValueError("holds a PEM key, which is no shared secret")
    algorithms = frozenset(name for name, size in _HMAC.items() if len(secret) >= size)
    if not algorithms:
        raise ValueError(f"a shared secret has {_HMAC['HS256']} bytes or more")
    return Key(secret, algorithms)


def read_keys(text: str) -> list[Key]:
    """Read the keys of a file: public keys or certificates in PEM, or a JWK set.

    Raises ValueError.
    """
    blocks = list(_PEM.finditer(text))
    return [_pem_key(block[1], block[0]) for block in blocks] if blocks else read_jwks(text, True)


def read_jwks(text: str | bytes, secrets: bool = False) -> list[Key]:
    """Read a JWK set; ``secrets`` allows shared ones, which must never be published.

    What is not understood or for another use is passed over.  Raises ValueError where
    nothing is left.
    """
    try:
        found = json.loads(text)
        entries = [entry for entry in found["keys"] if isinstance(entry, dict)]
    except (ValueError, RecursionError, KeyError, TypeError):
        raise ValueError("is neither PEM nor a JWK set") from None
    keys = list(_jwk_keys(entries, secrets))
    if not keys:
        raise ValueError("holds no key that could verify a signature")
    return keys


def _jwk_keys(entries: Iterable[dict[str, Any]], secrets: bool) -> Iterator[Key]:
    for entry in entries:
        if entry.get("use", "sig") != "sig":
            continue
        if entry.get("kty") == "oct" and not secrets:
            continue
        try:
            key = _of(PyJWK(entry).key)
        except (PyJWTError, ValueError):
            continue
        named = entry.get("alg")
        algorithms = key.algorithms & {named} if named is not None else key.algorithms
        if algorithms:
            yield Key(key.material, frozenset(algorithms), entry.get("kid"))


def _pem_key(kind: str, text: str) -> Key:
    if "PRIVATE" in kind:
        raise ValueError("holds a private key; the server needs the public one alone")
    if kind == "CERTIFICATE":
        return _of(load_pem_x509_certificate(text.encode()).public_key())
    return _of(load_pem_public_key(text.encode()))


def _of(material: Any) -> Key:
    """Return a key with the algorithms of its kind.  Raises ValueError."""
    if isinstance(material, bytes):
        return secret_key(material)
    if hasattr(material, "public_key"):
        material = material.public_key()
    if isinstance(material, RSAPublicKey):
        if material.key_size < MIN_RSA_BITS:
            raise ValueError(f"an RSA key has {MIN_RSA_BITS} bits or more")
        return Key(material, _RSA)
    if isinstance(material, EllipticCurvePublicKey) and material.curve.name in _CURVES:
        return Key(material, frozenset({_CURVES[material.curve.name]}))
    if isinstance(material, Ed25519PublicKey | Ed448PublicKey):
        return Key(material, frozenset({"EdDSA"}))
    raise ValueError("holds a key of a kind that is not known")
