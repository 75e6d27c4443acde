from __future__ import annotations

import io
import sys
from pathlib import Path

from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from wsserver.logs import observer, redact

LEVELS = (LogLevel.debug, LogLevel.info, LogLevel.warn, LogLevel.error)


class RedactTests(SynchronousTestCase):
    def test_secrets(self) -> None:
        """No token gets into the log, whichever way it is written."""
        for text, clean in (
            ("/v1/status?security_token=abc&x=1", "/v1/status?security_token=***&x=1"),
            ("GET /websockify?token=a-b_c HTTP/1.1", "GET /websockify?token=*** HTTP/1.1"),
            ("TOKEN=abc", "TOKEN=***"),
            ('"/v1/release/abc"', '"/v1/release/***"'),
            ("GET /wsserver/events/a-b_c HTTP/1.1", "GET /wsserver/events/*** HTTP/1.1"),
            ("Authorization: Bearer abc", "Authorization: Bearer ***"),
            ("(token=abc)", "(token=***)"),
            ("/v1/status?security%5Ftoken=abc&x=1", "/v1/status?security%5Ftoken=***&x=1"),
            ("/x?a=1&%74oken=abc", "/x?a=1&%74oken=***"),
            ("a?token=1&security_token=2", "a?token=***&security_token=***"),
        ):
            self.assertEqual(redact(text), clean)

    def test_innocent(self) -> None:
        """What holds no secret is left as it is."""
        for text in ("", "the token is wrong", "token=", "/v1/reserve/Demo", "broken=1"):
            self.assertEqual(redact(text), text)


class ObserverTests(SynchronousTestCase):
    def logged(self, namespace: str, verbosity: int) -> list[str]:
        """Return the levels of a namespace that are written."""
        out = io.StringIO()
        self.patch(sys, "stdout", out)
        log = Logger(namespace, observer=LogPublisher(observer(None, verbosity)))
        for level in LEVELS:
            log.emit(level, level.name)
        return [line.split()[-1] for line in out.getvalue().splitlines()]

    def test_levels(self) -> None:
        """Each -v shows more; refusals and requests are shown from the first one on."""
        names = [level.name for level in LEVELS]
        for namespace, shown in (
            ("wsserver.desk", (1, 0, 0, 0)),
            ("wsserver.access", (2, 1, 1, 1)),
            ("autobahn.x", (3, 1, 0, 0)),
            ("twisted.web", (2, 1, 0, 0)),
        ):
            for verbosity, first in enumerate(shown):
                self.assertEqual(
                    self.logged(namespace, verbosity), names[first:], (namespace, verbosity)
                )

    def test_file(self) -> None:
        """A log file is appended to line by line, and secrets are kept out of it."""
        path = Path(self.mktemp())
        path.write_text("before\n")
        log = Logger("wsserver", observer=LogPublisher(observer(str(path))))
        log.info("called with token=abc")
        before, line = path.read_text("utf-8").splitlines()
        self.assertEqual(before, "before")
        self.assertTrue(line.endswith("[wsserver#info] called with token=***"), line)

    def test_empty_event(self) -> None:
        """An event without a text writes no line."""
        out = io.StringIO()
        self.patch(sys, "stdout", out)
        Logger("wsserver", observer=LogPublisher(observer())).info(None)
        self.assertEqual(out.getvalue(), "")

    def test_unwritable(self) -> None:
        """A log file that cannot be opened is told of at once."""
        self.assertRaises(OSError, observer, self.mktemp() + "/no/such/folder.log")
