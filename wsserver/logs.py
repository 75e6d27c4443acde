"""What is logged: levels by verbosity, and secrets kept out."""

from __future__ import annotations

import re
import sys
from typing import TextIO

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    formatEventAsClassicLogText,
)

# A name that is written with percent signs may be anything, so its value is hidden, too.
_SECRETS = re.compile(
    r"""(?ix)
    ( \b(?:security_)?token= | [?&][^=&\s]*%[^=&\s]*= | /v1/release/
    | /wsserver/events/ | \bbearer[ ] | \bbasic[ ](?=[A-Za-z0-9+/]{6}) )
    [^&\s"'<>)]+"""
)

#: By verbosity: the level of our own messages, and that of everybody else's.
_LEVELS = (
    (LogLevel.info, LogLevel.warn),
    (LogLevel.debug, LogLevel.info),
    (LogLevel.debug, LogLevel.debug),
)


_access = Logger(namespace="wsserver.access")

#: How much of a string from outside is logged, in characters.
MAX_OUTSIDE = 256


def redact(text: str) -> str:
    """Return a text without the tokens in it."""
    return _SECRETS.sub(r"\1***", text)


def log_request(client: str, method: str | bytes, uri: str | bytes, code: int, size: int) -> None:
    """Note an answered request in one line; ``size`` is that of the answer, in bytes."""
    _access.info(
        "{client} {method} {uri} {code} {size}",
        client=client,
        method=one_line(method),
        uri=one_line(uri),
        code=code,
        size=size,
    )


def one_line(outside: str | bytes) -> str:
    """Return what comes from outside as one short line without control characters."""
    if isinstance(outside, bytes):
        outside = outside[:MAX_OUTSIDE].decode("utf-8", "replace")
    return outside[:MAX_OUTSIDE].encode("unicode_escape").decode()


def observer(log_file: str | None = None, verbosity: int = 0) -> ILogObserver:
    """Return where log events go: a file, or standard output.

    Raises OSError where the file cannot be written.
    """
    # line-buffered: a log is read while the server runs
    out: TextIO = open(log_file, "a", 1, "utf-8") if log_file else sys.stdout  # noqa: SIM115
    ours, others = _LEVELS[min(verbosity, len(_LEVELS) - 1)]
    levels = LogLevelFilterPredicate(defaultLogLevel=others)
    levels.setLogLevelForNamespace("wsserver", ours)
    # Refusals are no fault of the server: the client is told, the log need not be.
    levels.setLogLevelForNamespace("autobahn", others if verbosity else LogLevel.error)
    # One line a request: wanted from the first -v on.
    levels.setLogLevelForNamespace("wsserver.access", LogLevel.info if verbosity else LogLevel.warn)
    return FilteringLogObserver(FileLogObserver(out, _line), [levels])


def _line(event: LogEvent) -> str | None:
    text = formatEventAsClassicLogText(event)
    return None if text is None else redact(text)
