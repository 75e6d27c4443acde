from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from twisted.logger import Logger, LogLevel, LogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from wsserver.logs import MAX_LINE, MAX_LINES, MAX_OUTSIDE, observer, one_line, redact

#: How the first, and most often only, line of an event begins.
LINE = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} \[wsserver#\w+\] "

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
            ("/viewer.html?password=abc&host=h", "/viewer.html?password=***&host=h"),
            ("/viewer.html?path=a%3Ftoken%3Dabc&x=1", "/viewer.html?path=a%3Ftoken%3D***&x=1"),
            ("/x?path=a?b=c%26password%3dabc", "/x?path=a?b=c%26password%3d***"),
            (
                "/x?next=viewer%3fpath%3da%253ftoken%253Dabc",
                "/x?next=viewer%3fpath%3da%253ftoken%253D***",
            ),
            ("/v1/status?security%5Ftoken=abc&x=1", "/v1/status?security%5Ftoken=***&x=1"),
            ("/x?a=1&%74oken=abc", "/x?a=1&%74oken=***"),
            ("a?token=1&security_token=2", "a?token=***&security_token=***"),
        ):
            self.assertEqual(redact(text), clean)

    def test_innocent(self) -> None:
        """What holds no secret is left as it is."""
        for text in ("", "the token is wrong", "token=", "/v1/reserve/Demo", "broken=1"):
            self.assertEqual(redact(text), text)

    def test_nothing_to_ponder(self) -> None:
        """What nobody could part, however long, is passed over: no place is tried twice."""
        for text in ("?%" * 8192, "&%" * 8192, "?a%" * 8192, "?" * 16384, "?" + "%" * 16384):
            self.assertEqual(redact(text), text)
        hidden = redact("?%" * 8192 + "?%74oken=canary")
        self.assertTrue(hidden.endswith("?%74oken=***"))
        self.assertEqual(redact(f"?{'a' * 64}%{'a' * 64}=x"), f"?{'a' * 64}%{'a' * 64}=***")


class ObserverTests(SynchronousTestCase):
    def written(self, **event: Any) -> str:
        """Return what is written of an event."""
        out = io.StringIO()
        self.patch(sys, "stdout", out)
        log = Logger("wsserver", observer=LogPublisher(observer()))
        log.emit(event.pop("level", LogLevel.info), event.pop("format", "{text}"), **event)
        return out.getvalue()

    def test_one_event_one_line(self) -> None:
        """Whatever comes from outside neither breaks the line nor moves a cursor."""
        evil = "a\r\n2026-01-01T00:00:00+0000 [wsserver#info] forged"
        evil += "\x1b[2J\x00\x07\x85\u2028\u202e\udc80b"
        for event in ({"text": evil}, {"format": "{text!r}", "text": evil}, {"format": evil}):
            line = self.written(**event)
            self.assertEqual(len(line.splitlines()), 1, line)
            self.assertRegex(line, LINE)
            self.assertTrue(line[:-1].isprintable(), line)
            line.encode()

    def test_four_mebibytes(self) -> None:
        """Nor does it fill the disk."""
        self.assertLess(len(self.written(text="x" * (4 << 20))), MAX_LINE + 10)
        self.assertLess(len(self.written(text="\x1b" * (4 << 20))), 4 * MAX_LINE + 200)
        self.assertTrue(
            self.written(text="x token=" + "y" * MAX_LINE).endswith(" x token=***...\n")
        )

    def test_output(self) -> None:
        """What a program printed goes on below, in lines that cannot be taken for others."""
        output = "one\n2026-01-01T00:00:00+0000 [wsserver#info] forged\r\n\x1b[31mtoken=canary\n"
        first, *rest = self.written(format="failed\n{output}", output=output).splitlines()
        self.assertRegex(first, LINE)
        self.assertEqual(
            rest,
            [
                "\tone",
                "\t2026-01-01T00:00:00+0000 [wsserver#info] forged\\r",
                "\t\\x1b[31mtoken=***",
            ],
        )
        long = self.written(format="failed\n{output}", output="x\n" * (1 << 20))
        self.assertEqual(len(long.splitlines()), MAX_LINES + 1)

    def test_traceback(self) -> None:
        """So does a traceback, whatever its words hold."""
        try:
            raise ValueError("bad\nforged\x1b")
        except ValueError:
            text = self.written(level=LogLevel.critical, text="t", log_failure=Failure())
        first, *rest = text.splitlines()
        self.assertRegex(first, LINE)
        self.assertTrue(all(line.startswith("\t") for line in rest))
        self.assertIn("\tforged\\x1b", rest)

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


class OneLineTests(SynchronousTestCase):
    def test_outside(self) -> None:
        """Text and bytes from outside are short and printable, whatever they were."""
        for outside in (
            "a\r\nb\x1b\x00ä",
            b"a\r\nb\x1b\x00\xff",
            "x" * (4 << 20),
            b"x" * (4 << 20),
        ):
            line = one_line(outside)
            self.assertTrue(line.isprintable() and line.isascii())
            self.assertLessEqual(len(line), 6 * MAX_OUTSIDE)
        self.assertEqual(one_line(b"/v1/status?x=1"), "/v1/status?x=1")
