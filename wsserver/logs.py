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
    LogLevel,
    LogLevelFilterPredicate,
    formatEventAsClassicLogText,
)

# A name that is written with percent signs may be anything, so its value is hidden, too.
_SECRETS = re.compile(
    r"""(?ix)
    ( \b(?:security_)?token= | [?&][^=&\s]*%[^=&\s]*= | /v1/release/
    | /wsserver/events/ | \bbearer[ ] )
    [^&\s"'<>)]+"""
)

#: By verbosity: the level of our own messages, and that of everybody else's.
_LEVELS = (
    (LogLevel.info, LogLevel.warn),
    (LogLevel.debug, LogLevel.info),
    (LogLevel.debug, LogLevel.debug),
)


def redact(text: str) -> str:
    """Return a text without the tokens in it."""
    return _SECRETS.sub(r"\1***", text)


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
