"""A password file with bcrypt hashes, and the group file beside it, as Apache has them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import bcrypt
from twisted.logger import Logger

from wsserver.errors import ConfigError

T = TypeVar("T")

#: bcrypt itself reads no more, in bytes.
MAX_PASSWORD = 72

# bcrypt raises, or never matches, where bits are set that no hash has; a cost beyond these
# can be guessed at, or takes seconds.
_COST = r"(?:0[4-9]|1[0-6])"
_BCRYPT = re.compile(
    rf"\$2[aby]\${_COST}\$[./A-Za-z0-9]{{21}}[.Oeu][./A-Za-z0-9]{{30}}[.CGKOSWaeimquy26]"
)

_log = Logger(namespace="wsserver.passwords")


@dataclass(frozen=True)
class Users:
    """Hashes and groups by the name of the user."""

    hashes: dict[str, bytes] = field(repr=False)
    groups: dict[str, frozenset[str]]

    def right(self, user: str, password: bytes) -> bool:
        """Tell whether that is the password of the user; takes as long for one unknown."""
        known = self.hashes.get(user)
        hashed = known or next(iter(self.hashes.values()), _NOBODY)
        if b"\0" in password or len(password) > MAX_PASSWORD:
            password, known = b"", None
        return bcrypt.checkpw(password, hashed) and known is not None


#: A hash of nothing, where there are no users at all.
_NOBODY = b"$2b$10$" + b"." * 53


def read_users(text: str) -> dict[str, bytes]:
    """Read a file as ``htpasswd -B`` writes it.  Raises ConfigError with every problem."""
    users: dict[str, bytes] = {}
    problems = []
    for number, line in _lines(text):
        user, colon, hashed = line.partition(":")
        if not (user and colon):
            problems.append(f"line {number}: must be USER:HASH")
        elif not _BCRYPT.fullmatch(hashed):
            problems.append(
                f"line {number}: no bcrypt hash of cost 4 to 16; make it by htpasswd -B"
            )
        else:
            users[user] = hashed.encode()
    if problems:
        raise ConfigError(problems)
    return users


def read_groups(text: str) -> dict[str, frozenset[str]]:
    """Read a group file of Apache, ``GROUP: USER USER``, into the groups of each user.

    Raises ConfigError with every problem.
    """
    members: dict[str, set[str]] = {}
    problems = []
    for number, line in _lines(text):
        group, colon, users = line.partition(":")
        if not (group.strip() and colon):
            problems.append(f"line {number}: must be GROUP: USER ...")
        for user in users.split():
            members.setdefault(user, set()).add(group.strip())
    if problems:
        raise ConfigError(problems)
    return {user: frozenset(groups) for user, groups in members.items()}


def _lines(text: str) -> list[tuple[int, str]]:
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [(number, line) for number, line in lines if line and not line.startswith("#")]


class UserFiles:
    """A password file and perhaps a group file, read again when they have changed.

    Raises ConfigError where they cannot be read at first; later they stay as they were.
    """

    def __init__(self, htpasswd: str, groups: str | None = None) -> None:
        self._htpasswd = Path(htpasswd)
        self._groups = Path(groups) if groups is not None else None
        self._seen = self._state()
        self._users = self._read()

    def current(self) -> Users:
        """Return the users of this moment; blocks a little."""
        try:
            state = self._state()
            if state != self._seen:
                self._seen = state
                self._users = self._read()
        except (ConfigError, OSError) as error:
            _log.error("users stay as they are: {why}", why=str(error))
        return self._users

    def _state(self) -> list[tuple[int, int, int]]:
        paths = [self._htpasswd, *([self._groups] if self._groups is not None else [])]
        found = []
        for path in paths:
            try:
                stat = path.stat()
            except OSError as error:
                raise ConfigError([f"{path}: {error.strerror}"]) from None
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return found

    def _read(self) -> Users:
        hashes = _parsed(self._htpasswd, read_users)
        return Users(hashes, _parsed(self._groups, read_groups) if self._groups else {})


def _parsed(path: Path, parse: Callable[[str], T]) -> T:
    try:
        return parse(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: no UTF-8 at byte {error.start}"]) from None
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from None
