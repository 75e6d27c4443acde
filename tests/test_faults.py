"""The judges of the fault tests find what they are there to find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.__main__ import plan
from tests.faults.double_session import MARK
from tests.faults.rows_desk import check_leases
from tests.faults.table import ROWS
from tests.faults.wire import frame
from tests.faults.world import Notes, Session, Violation, World, log_problem, marked


class LogTests(SynchronousTestCase):
    def test_clean(self) -> None:
        """What was done on purpose, and what scripts say of themselves, is no problem."""
        text = (
            "t [x#info] Double 1: open\n"
            "t [x#warn] failed: Traceback (most recent)\n\t  a\n\tOnPurpose: on purpose\n"
            "t [x#warn] failed: Traceback (most recent)\n\twsserver.errors.ServiceFailed\n"
        )
        self.assertIsNone(log_problem(text, ["canary"]))

    def test_problems(self) -> None:
        """Errors that nobody made, unhandled ones, and secrets are found."""
        good = "t [x#warn] Traceback on purpose\n"
        for text in (
            "t [x#critical] Traceback (most recent call last):\n\tKeyError\n" + good,
            "t [x#critical] Unhandled error in Deferred\n\ton purpose\n",
            "t [x#info] GET /?token=canary-1\n",
        ):
            self.assertIsNotNone(log_problem(good + text, ["other", "canary-1"]), text)


class NotesTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.world = object.__new__(World)
        self.world.notes = Notes(self.path)

    def note(self, *words: object) -> None:
        with self.path.open("a") as file:
            file.write("\t".join(map(str, words)) + "\n")


class LeaseTests(NotesTestCase):
    def held(self, *spans: tuple[int, int, int]) -> None:
        for mark, (begin, end, index) in enumerate(spans):
            self.note(begin, "start", mark, "Few", index)
            self.note(end, "stopped", mark, "Few", index)

    def test_within(self) -> None:
        """Two at once, and one index after the other, are what a count of two allows."""
        self.held((0, 5, 0), (1, 9, 1), (6, 8, 0))
        check_leases(self.world, "Few", 2)

    def test_too_many(self) -> None:
        """Three at once are found."""
        self.held((0, 5, 0), (1, 9, 1), (4, 8, 2))
        self.assertRaises(Violation, check_leases, self.world, "Few", 2)

    def test_one_index_twice(self) -> None:
        """So is an index that was given away before it was free."""
        self.held((0, 5, 0), (4, 8, 0))
        self.assertRaises(Violation, check_leases, self.world, "Few", 2)


class CallsTests(NotesTestCase):
    def problem(self, calls: str, starts: int | None = 1) -> bool:
        session = Session(self.world, "Double", calls, None)  # type: ignore[arg-type]
        for time, what in enumerate(calls.split()):
            self.note(time, what, calls, "Double", 0)
        try:
            session._check_calls(starts)
        except Violation:
            return True
        return False

    def test_calls(self) -> None:
        """No start, a start without its stop, a stop without another after a late start: found."""
        self.assertFalse(self.problem("start started stop stopped"))
        self.assertFalse(self.problem("start stop stopped started stop stopped"))
        for wrong in (
            "",
            "start started",
            "start started stop",
            "start stop stopped started",
            "start stop started stopped",
            "stop stopped",
            "start started start started stop stopped",
        ):
            self.assertTrue(self.problem(wrong), wrong)


class PlanTests(SynchronousTestCase):
    def test_each_once_then_by_weight(self) -> None:
        """Every row comes; the seed decides on the rest."""
        rows = list(ROWS.values())
        order = plan(rows, 500, Random(3))
        self.assertEqual(len(order), 500)
        self.assertEqual({row.number for row in order[: len(rows)]}, set(ROWS))
        self.assertEqual(order, plan(rows, 500, Random(3)))
        self.assertNotEqual(order, plan(rows, 500, Random(4)))

    def test_titles(self) -> None:
        """Every row says what is expected of it."""
        for row in ROWS.values():
            self.assertGreater(len(row.title), 20, row.number)


class PartsTests(SynchronousTestCase):
    def test_marked(self) -> None:
        """A process is found by its mark, and by it alone."""
        argv = [sys.executable, "-S", "-c", "print('here', flush=True); input()"]
        with subprocess.Popen(
            argv, env={MARK: "mine"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            self.assertEqual([pid for pid, _ in marked({"mine"})], [process.pid])
            self.assertEqual(marked({"other"}), [])
            process.communicate(b"\n")
        self.assertEqual(marked({"mine"}), [])

    def test_frame(self) -> None:
        """Frames are masked as the standard says."""
        for size in (0, 1, 125, 126, 65535, 65536):
            data = Random(size).randbytes(size)
            made = frame(data)
            start = {0: 2, 1: 4, 2: 10}[(size > 125) + (size > 65535)]
            mask, body = made[start : start + 4], made[start + 4 :]
            self.assertEqual(bytes(b ^ mask[i % 4] for i, b in enumerate(body)), data)
