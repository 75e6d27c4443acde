"""The sources of identity that the settings name: files read, keys fetched, threads kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from wsserver.bearer import BearerTokens, FixedKeys, Keys, Rules
from wsserver.config import Settings
from wsserver.errors import ConfigError, ShuttingDown
from wsserver.failures import Failures
from wsserver.forwarded import Proxies
from wsserver.htpasswd import UserFiles
from wsserver.identity import Identity, ProxyHeaders, SecurityToken, Source
from wsserver.jwks import Key, read_keys, secret_key
from wsserver.passwords import Passwords
from wsserver.remote_keys import RemoteKeys, fetcher
from wsserver.threads import in_own_thread

T = TypeVar("T")

_log = Logger(namespace="wsserver.identity")

#: Threads that check passwords: two users at a time do not wait for each other.
THREADS = 2


@dataclass(frozen=True)
class Files:
    """What was read of the files that the settings name."""

    users: UserFiles | None = None
    keys: list[Key] = field(default_factory=list)


def read_files(settings: Settings) -> Files:
    """Read every file; blocks.  Raises ConfigError with all problems."""
    problems: list[str] = []

    def get(path: str | None, read: Callable[[str], T]) -> T | None:
        try:
            return None if path is None else read(path)
        except ConfigError as error:
            problems.extend(error.problems)
        except (OSError, ValueError) as error:
            problems.append(f"{path}: {getattr(error, 'strerror', None) or error}")
        return None

    users = get(settings.htpasswd, lambda path: UserFiles(path, settings.htgroup))
    public = None if settings.jwt_keys_url else settings.jwt_keys
    keys = get(public, lambda path: read_keys(Path(path).read_text("utf-8"))) or []
    secret = get(settings.jwt_secret_file, lambda path: secret_key(_line(path)))
    if problems:
        raise ConfigError(problems)
    return Files(users, [*keys, *([secret] if secret is not None else [])])


def _line(path: str) -> bytes:
    """Return the bytes of a file without the end of its line, which editors add."""
    return Path(path).read_bytes().rstrip(b"\r\n")


class Sources(Service):
    """Makes identities of what was read; keeps what outlives a reload.

    These are the failures, so that a reload pardons nobody, and the keys from afar.
    """

    def __init__(self, reactor: Any, settings: Settings, proxies: Proxies) -> None:
        self._reactor = reactor
        self._settings = settings
        self._proxies = proxies
        self._threads: ThreadPool | None = None
        limits = settings.failure_limit, settings.failure_memory
        self._failures = Failures(reactor.seconds, *limits, self._shut_out)
        url = settings.jwt_keys_url
        self._remote = RemoteKeys(url, reactor, fetcher(reactor)) if url is not None else None

    def startService(self) -> None:
        """Be ready before the first caller comes."""
        super().startService()
        # One that has stopped cannot start again, and a server can.
        self._threads = ThreadPool(0, THREADS, "passwords")
        self._threads.start()
        self.renew()

    def stopService(self) -> Deferred[None]:
        """Check no more passwords; the Deferred fires when those under way are checked."""
        super().stopService()
        threads, self._threads = self._threads, None
        if threads is None:
            return succeed(None)
        # It waits for its threads, which the reactor's own thread must not.
        return in_own_thread(self._reactor, threads.stop)

    def renew(self) -> None:
        """Fetch again what comes from afar."""
        if self._remote is not None:
            self._remote.refresh(at_once=True)

    def identity(self, files: Files) -> Identity:
        """Return the sources of the settings with what is in these files."""
        return Identity(self._sources(files))

    def _sources(self, files: Files) -> Iterator[Source]:
        """Yield every source: who shows a secret is who that says, whatever a proxy adds."""
        settings, failures = self._settings, self._failures
        keys: list[Keys] = [FixedKeys(files.keys)] if files.keys else []
        keys += [self._remote] if self._remote is not None else []
        if settings.security_token is not None:
            yield SecurityToken(settings.security_token, failures, alone=not keys)
        if keys:
            yield BearerTokens(keys, _rules(settings))
        if files.users is not None:
            yield Passwords(files.users, self._in_thread, self._reactor, failures)
        if settings.user_header is not None:
            trusts = self._proxies.trusts
            yield ProxyHeaders(trusts, settings.user_header, settings.groups_header)

    def _shut_out(self, address: str, kind: str) -> None:
        _log.warn(
            "{address} waits {wait:g} s: too many wrong secrets ({kind})",
            address=address,
            wait=self._settings.failure_memory,
            kind=kind,
        )

    def _in_thread(self, job: Callable[[], T]) -> Any:
        if self._threads is None:
            raise ShuttingDown
        return deferToThreadPool(self._reactor, self._threads, job)


def _rules(settings: Settings) -> Rules:
    return Rules(
        settings.jwt_audience,
        settings.jwt_issuer,
        settings.jwt_leeway,
        settings.jwt_user_claim,
        settings.jwt_groups_claim,
    )
