"""Messages of one kind do not drown the log, and how many were left out is told."""

from __future__ import annotations

from twisted.logger import LogEvent, Logger, LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from wsserver.flood import KINDS, MOST, PERIOD, Flood


class FloodTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 0.0
        self.passed: list[LogEvent] = []
        self.flood = Flood(self.passed.append, lambda: self.now)
        self.log = Logger("wsserver", observer=self.flood)

    def take(self) -> list[str | None]:
        """Return what was passed on since the last call."""
        taken = [formatEvent(event) for event in self.passed]
        self.passed.clear()
        return taken

    def test_usual(self) -> None:
        """What is not too much is passed on unchanged, period by period."""
        for _ in range(3):
            for n in range(MOST):
                self.log.info("{n}", n=n)
            self.now += PERIOD
            self.assertEqual(self.take(), [str(n) for n in range(MOST)])

    def test_too_much(self) -> None:
        """What is too much is counted, and told once, when the period is over."""
        for n in range(MOST + 500):
            self.log.info("request {n}", n=n)
        self.assertEqual(len(self.take()), MOST)
        self.now += PERIOD
        self.log.info("something else")
        self.assertEqual(
            self.take(), ["500 more were not logged of wsserver: request {n}", "something else"]
        )
        self.now += PERIOD
        self.log.info("request {n}", n=1)
        self.assertEqual(self.take(), ["request 1"])

    def test_others(self) -> None:
        """A flood of one kind keeps no other from the log."""
        for n in range(2 * MOST):
            self.log.info("request {n}", n=n)
        self.take()
        self.log.warn("something else")
        self.assertEqual(self.take(), ["something else"])

    def test_kinds(self) -> None:
        """Kinds without end cost no memory without end."""
        for n in range(KINDS + 2 * MOST):
            self.log.info(f"kind {n}")
        self.assertEqual(len(self.take()), KINDS + MOST)
        self.assertEqual(len(self.flood._counts), KINDS + 1)
        self.now += PERIOD
        self.log.info("x")
        self.assertEqual(self.take()[0], f"{MOST} more were not logged of messages of all kinds")

    def test_level(self) -> None:
        """That lines are missing is a warning."""
        for _ in range(MOST + 1):
            self.log.info("x")
        self.now += PERIOD
        self.log.info("y")
        self.assertIs(self.passed[-2]["log_level"], LogLevel.warn)
