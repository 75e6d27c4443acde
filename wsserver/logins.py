"""The settings that say who can log in and how: docs/identity.md explains each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, Field

from wsserver.addresses import is_loopback

_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Logins(BaseModel):
    """Where identity comes from, beside the security token, and what it is good for."""

    #: Headers in which a trusted proxy names the user and, with commas, their groups.
    user_header: str | None = None
    groups_header: str | None = None
    #: Public keys that sign tokens: a PEM or JWKS file, or the URL of a JWKS.
    jwt_keys: str | None = None
    #: A file with the secret that signs tokens (HS256 and its like).
    jwt_secret_file: str | None = None
    jwt_audience: str | None = None
    jwt_issuer: str | None = None
    #: How far clocks may differ, in seconds.
    jwt_leeway: Annotated[float, Field(ge=0, le=600)] = 30.0
    jwt_user_claim: Annotated[str, Field(min_length=1)] = "sub"
    jwt_groups_claim: Annotated[str, Field(min_length=1)] = "groups"
    #: A password file with bcrypt hashes, and a group file as Apache has it.
    htpasswd: str | None = None
    htgroup: str | None = None
    #: A reservation is of use to its own user alone.
    bind_user: bool = False
    #: Reserve takes the fields ``user`` and ``groups`` from who holds the security token.
    act_for_users: bool = False
    #: So many wrong secrets of an address, each within ``failure_memory`` seconds of the last.
    failure_limit: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    failure_memory: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 300.0

    @property
    def known_users(self) -> bool:
        """Whether there are users who can prove who they are."""
        return any((self.user_header, self.jwt_keys, self.jwt_secret_file, self.htpasswd))

    @property
    def jwt_keys_url(self) -> str | None:
        """The URL of the keys, if they have one."""
        return self.jwt_keys if self.jwt_keys and "://" in self.jwt_keys else None


def login_problems(logins: Logins, proxies: bool, security_token: bool) -> Iterator[str]:
    """Yield what is wrong; ``proxies`` and ``security_token`` tell whether there are such."""
    yield from _header_problems(logins, proxies)
    yield from _jwt_problems(logins)
    if logins.htgroup and not logins.htpasswd:
        yield "settings.htgroup: needs htpasswd as well"
    if logins.act_for_users and not security_token:
        yield "settings.act_for_users: needs security_token, or nobody is trusted to"
    if logins.bind_user and not (logins.known_users or security_token):
        yield "settings.bind_user: needs a source of users, such as htpasswd or jwt_keys"


def _header_problems(logins: Logins, proxies: bool) -> Iterator[str]:
    for name, header in (
        ("user_header", logins.user_header),
        ("groups_header", logins.groups_header),
    ):
        if header is not None and not _HEADER.fullmatch(header):
            yield f"settings.{name}: must be the name of a header, not {header!r}"
        if header is not None and header.lower() in ("authorization", "cookie", "host"):
            yield f"settings.{name}: must be a header that the proxy alone writes"
    if logins.user_header and not proxies:
        yield "settings.user_header: needs trusted_proxies, whose word is believed"
    if logins.groups_header and not logins.user_header:
        yield "settings.groups_header: needs user_header as well"


def _jwt_problems(logins: Logins) -> Iterator[str]:
    if logins.jwt_keys and not logins.jwt_audience:
        # The same provider signs tokens for others, who could use them here.
        yield "settings.jwt_keys: needs jwt_audience, the name of this server in the tokens"
    if (logins.jwt_audience or logins.jwt_issuer) and not (
        logins.jwt_keys or logins.jwt_secret_file
    ):
        yield "settings.jwt_audience: needs jwt_keys or jwt_secret_file"
    url = urlsplit(logins.jwt_keys_url or "https://none")
    if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.hostname or "")):
        # Who can change the answer can log in as anybody.
        yield "settings.jwt_keys: must be https, or http on this machine"
