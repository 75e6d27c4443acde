"""What is logged: levels by verbosity, lines that nobody outside can break, no secrets."""

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
    eventAsText,
)

from wsserver.flood import Flood

# The path of a page's address may hold a query of its own, its signs written with percent signs.
# A name that is written with percent signs may be anything, so its value is hidden, too.
# Outsiders write what this reads: no two parts in a row take the same letter without bound.
_SECRETS = re.compile(
    r"""(?ix)
    ( (?:token|password)(?:=|%(?:25){0,4}3d) | [?&][^=&?%\s]{0,64}%[^=&?\s]{0,64}= | /v1/release/
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
#: How much of any line, in characters, and how many lines of one event.
MAX_LINE = 2000
MAX_LINES = 200

# What breaks a line, moves a cursor, or turns the direction of writing.
_CONTROLS = re.compile(r"[\x00-\x08\n-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


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
    return FilteringLogObserver(Flood(FileLogObserver(out, _line)), [levels])


def _line(event: LogEvent) -> str | None:
    """Return an event as one line; failures, and output of programs, go on below, indented."""
    text = eventAsText(event)
    if not text or not event.get("log_format"):
        return None
    several = "log_failure" in event or "output" in event
    lines = text.rstrip("\n").split("\n") if several else [text]
    cut = lines[:MAX_LINES] + (["..."] if len(lines) > MAX_LINES else [])
    return "\n\t".join(map(_harmless, cut)) + "\n"


def _harmless(line: str) -> str:
    cut = redact(line[:MAX_LINE]) + ("..." if len(line) > MAX_LINE else "")
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), cut)
