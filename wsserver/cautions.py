"""Settings that are sound, and yet unsafe together: what to say of them, and what to do.

One function a rule; files and their permissions have a room of their own (permissions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import PurePath

from wsserver.addresses import is_loopback
from wsserver.config import ServiceSpec, Settings
from wsserver.origins import ANY

#: Networks with more addresses than this are nobody's own proxies.
_MANY = 2**16


@dataclass(frozen=True)
class Case:
    """What the rules look at; ``argv`` is the command line of the process."""

    settings: Settings
    specs: Sequence[ServiceSpec] = ()
    argv: Sequence[str] = ()

    @property
    def public(self) -> bool:
        """Whether others than this machine reach the ports."""
        return not is_loopback(self.settings.address)

    @property
    def guarded(self) -> bool:
        """Whether callers have to show who they are."""
        return self.settings.guarded


def cautions(case: Case) -> list[str]:
    """Return what to say, one line each."""
    return [line for rule in RULES for line in rule(case)]


def open_rest(case: Case) -> Iterator[str]:
    """Everybody in the network may start programs."""
    if case.public and not case.guarded and case.settings.http_port != -1:
        yield (
            "everybody who reaches the HTTP port may reserve: set security_token or a source of "
            "users (docs/identity.md), or interface 127.0.0.1"
        )


def open_tunnel(case: Case) -> Iterator[str]:
    """Everybody in the network reaches the fixed host."""
    if case.public and case.settings.client_port is not None and not case.settings.known_users:
        yield (
            f"everybody who reaches the websocket port is tunnelled to port "
            f"{case.settings.client_port} of {case.settings.client_hostname}: that must ask for a "
            "password itself, or set interface 127.0.0.1"
        )


def no_tls(case: Case) -> Iterator[str]:
    """Tokens, passwords and screens can be read on the way."""
    if case.public and case.settings.cert is None and not case.settings.trusted_proxies:
        yield (
            "tokens and all that is tunnelled cross the network in clear: set cert and key, or "
            "put a proxy with TLS in front and name it in trusted_proxies"
        )


def nobody_in_group(case: Case) -> Iterator[str]:
    """Where nobody can show who they are, a group has no members."""
    for spec in case.specs:
        if spec.groups and not case.guarded:
            yield (
                f"{spec.name} has a group, and nobody can prove to be in it: set security_token "
                "or a source of users (docs/identity.md)"
            )


def any_host(case: Case) -> Iterator[str]:
    """A page may have its own name lead to our address."""
    if ANY in case.settings.allowed_hosts and not case.guarded:
        yield (
            "allowed_hosts is *: a web page whose own name leads to this server (DNS rebinding) "
            "may reserve and connect; list the names that browsers shall use"
        )


def any_origin(case: Case) -> Iterator[str]:
    """Any page that a user opens may use the user's place in the network."""
    if ANY in case.settings.allowed_origins:
        yield (
            "allowed_origins is *: any web page that a user opens may reserve and connect; list "
            "the origins that shall"
        )


def any_reader(case: Case) -> Iterator[str]:
    """Headers that are added by hand undo what allowed_origins does."""
    for name, value in case.settings.headers:
        if name.lower() == "access-control-allow-origin":
            yield (
                f"add_header {name}={value} lets pages of others read every answer, status "
                "and tokens too: use allowed_origins"
            )


def any_frame(case: Case) -> Iterator[str]:
    """A page around ours can lead clicks and keys into it."""
    if "*" in case.settings.frame_ancestors:
        yield (
            "frame_ancestors is *: any web page may show a session in a frame and mislead its "
            "user; list the origins that shall"
        )


def secret_on_command_line(case: Case) -> Iterator[str]:
    """Everybody on this machine sees the command line."""
    secret = case.settings.security_token
    if secret is not None and any(secret in word for word in case.argv):
        yield (
            "everybody on this machine can read security_token in the process list: set "
            "WEBSOCKETSERVER_SECURITY_TOKEN, or a settings file that only the server may read"
        )


def short_secret(case: Case) -> Iterator[str]:
    """A short secret can be guessed."""
    secret = case.settings.security_token
    if secret is not None and len(secret) < 16:
        yield (
            "security_token is shorter than 16 characters and may be guessed: "
            "make one with openssl rand -hex 16"
        )


def everybody_a_proxy(case: Case) -> Iterator[str]:
    """Who is believed may say that they are anybody."""
    for text in case.settings.trusted_proxies:
        if ip_network(text).num_addresses > _MANY:
            yield f"trusted_proxies {text} believes very many: list the addresses of your proxies"


def served_secrets(case: Case) -> Iterator[str]:
    """What stands below the HTTP directory is there for everybody."""
    settings = case.settings
    if settings.http_directory is None:
        return
    key = "key" if settings.key is not None else "cert"
    for name in (key, "remote_session_config", "settings", "jwt_secret_file", "htpasswd"):
        path = getattr(settings, name)
        if path is not None and PurePath(path).is_relative_to(PurePath(settings.http_directory)):
            yield f"{name} stands below http_directory, where everybody may read it: move it"


def silent_websockets(case: Case) -> Iterator[str]:
    """A browser sends the password of a page to the port of the page alone."""
    settings = case.settings
    asked = settings.bind_user or settings.client_port is not None
    if settings.htpasswd and asked and not settings.one_port:
        yield (
            "browsers send no password to a websocket port of its own: let websockets come in "
            "on the HTTP port (docs/identity.md)"
        )


def bound_to_nobody(case: Case) -> Iterator[str]:
    """A browser shows no token with a websocket; a proxy may add it."""
    settings = case.settings
    made = settings.known_users or settings.act_for_users
    shown = settings.htpasswd or settings.user_header
    added = (settings.jwt_keys or settings.jwt_secret_file) and settings.trusted_proxies
    if settings.bind_user and made and not (shown or added):
        yield (
            "no browser can open what bind_user binds, as users have no way to show who they are "
            "with a websocket: set htpasswd or user_header (docs/identity.md)"
        )


Rule = Callable[[Case], Iterable[str]]

RULES: Sequence[Rule] = (
    open_rest,
    open_tunnel,
    no_tls,
    nobody_in_group,
    any_host,
    any_origin,
    any_reader,
    any_frame,
    secret_on_command_line,
    short_secret,
    everybody_a_proxy,
    served_secrets,
    silent_websockets,
    bound_to_nobody,
)
