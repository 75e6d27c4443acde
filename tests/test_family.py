"""Every process of a session is in its family, and ends with it."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable
from threading import Thread
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import wait_until
from wsserver import family as room
from wsserver.errors import ServiceFailed
from wsserver.family import MARK, Family, Gone, Leader, environment, kill_marked, marked
from wsserver.proc import look

#: Runs away from its parent, into a session of its own.
RUN_AWAY = "import os, time; os.fork() and os._exit(0); os.setsid(); time.sleep(60)"


class Diary:
    """A journal that remembers, and may refuse."""

    def __init__(self, full: bool = False) -> None:
        self.full = full
        self.lines: list[tuple[Any, ...]] = []

    def began(self, mark: str, pid: int) -> None:
        if self.full:
            raise ServiceFailed("no space left")
        self.lines.append(("began", mark, pid))

    def ended(self, mark: str) -> None:
        self.lines.append(("ended", mark))


class FamilyTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.null = os.open(os.devnull, os.O_RDWR)
        self.addCleanup(os.close, self.null)
        self.family = self.make()

    def make(self, journal: Diary | None = None) -> Family:
        family = Family(journal)
        self.addCleanup(family.close, 0)
        return family

    def start(self, *argv: str, family: Family | None = None, cwd: str | None = None) -> Leader:
        files = (self.null, self.null, self.null)
        return (family or self.family).start(argv, environment(), cwd, files)

    def run_away(self) -> None:
        """Start a program that ends at once, and leaves another one behind."""
        first = self.start(sys.executable, "-S", "-c", RUN_AWAY)
        wait_until(lambda: first.status() == 0)

    def mine(self) -> list[int]:
        """Return what carries the mark, but for the supervisor."""
        found = [process.pid for process in marked([self.family.mark])]
        return [pid for pid in found if pid != self.family.supervisor_pid]

    def supervisor_pid(self) -> int:
        assert self.family.supervisor_pid is not None
        return self.family.supervisor_pid


class StartTests(FamilyTestCase):
    def test_lazy(self) -> None:
        """There is no supervisor before there is something to supervise, and then just one."""
        self.assertIsNone(self.family.supervisor_pid)
        self.assertEqual(self.family.left(), [])
        self.start("sleep", "60")
        pid = self.supervisor_pid()
        self.start("sleep", "60")
        self.assertEqual(self.supervisor_pid(), pid)
        self.assertEqual(os.getsid(pid), pid)

    def test_mark(self) -> None:
        """Everything carries the mark; the secret of the server is not handed on."""
        self.patch(os, "environ", {**os.environ, "WEBSOCKETSERVER_SECURITY_TOKEN": "canary"})
        leader = self.start("sleep", "60")
        for pid in (leader.pid, self.supervisor_pid()):
            with open(f"/proc/{pid}/environ", "rb") as file:
                variables = file.read().split(b"\0")
            self.assertIn(f"{MARK}={self.family.mark}".encode(), variables)
            self.assertNotIn(b"canary", b"".join(variables))
        self.assertEqual(self.mine(), [leader.pid])
        self.assertNotEqual(self.family.mark, Family().mark)

    def test_cannot_start(self) -> None:
        """The error says what is wrong: the program, or its folder."""
        error = self.assertRaises(FileNotFoundError, self.start, "/no/such/program")
        self.assertEqual(error.filename, "/no/such/program")
        error = self.assertRaises(FileNotFoundError, self.start, "sh", cwd="/no/such/folder")
        self.assertEqual(error.filename, "/no/such/folder")
        self.assertRaises(ValueError, self.start, "sh", "a\0b")
        self.assertRaises(TypeError, self.start, "sleep", 60)

    def test_no_supervisor(self) -> None:
        """Where not even the supervisor can be started, that is the error."""
        self.patch(sys, "executable", "/no/such/python")
        self.assertRaises(FileNotFoundError, self.start, "sh")
        self.assertIsNone(self.family.supervisor_pid)

    def test_large(self) -> None:
        """Arguments and environment may be as large as the system allows."""
        leader = self.start("sh", "-c", "test ${#0} = 100000", "x" * 100_000)
        wait_until(lambda: leader.status() is not None)
        self.assertEqual(leader.status(), 0)

    def test_threads(self) -> None:
        """Many threads may ask at one time."""
        found: list[int | None] = []

        def work() -> None:
            for _ in range(5):
                leader = self.start("sh", "-c", "exit 7")
                wait_until(lambda leader=leader: leader.status() is not None)
                found.append(leader.status())

        threads = [Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(found, [7] * 20)


class EndTests(FamilyTestCase):
    def test_end(self) -> None:
        """Whatever was started is gone, runaways too; then there may be something new."""
        self.run_away()
        self.start("sleep", "60")
        self.assertEqual(len(self.mine()), 2)
        self.assertEqual(len(self.family.left()), 2)
        self.family.end(20)
        self.assertEqual((self.mine(), self.family.left()), ([], []))
        self.assertIsNone(self.family.supervisor_pid)
        self.family.end(20)
        self.start("sleep", "60")
        self.assertEqual(len(self.mine()), 1)

    def test_close(self) -> None:
        """After the last end nothing starts any more."""
        self.start("sleep", "60")
        self.family.close(20)
        self.assertEqual(self.mine(), [])
        self.assertRaises(OSError, self.start, "sleep", "60")
        self.assertIsNone(self.family.supervisor_pid)

    def test_told(self) -> None:
        """Whoever waits for the end is told what does not end."""
        self.patch(room, "LOOK_PERIOD", 0.05)
        code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True)\n"
        reader, writer = os.pipe()
        with open(reader) as said:
            files = (self.null, writer, self.null)
            argv = [sys.executable, "-S", "-c", f"{code}time.sleep(60)"]
            leader = self.family.start(argv, environment(), None, files)
            os.close(writer)
            said.readline()
        told: list[list[str]] = []
        self.family.end(0.5, told.append)
        self.assertIn(str(leader.pid), told[0][0])
        self.assertEqual(leader.status(), -9)

    def test_ends_at_one_time(self) -> None:
        """Two threads may end a family; both come back when it is gone."""
        self.run_away()
        left: list[list[int]] = []

        def end() -> None:
            self.family.end(20)
            left.append(self.mine())

        threads = [Thread(target=end) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(left, [[], []])

    def test_dropped(self) -> None:
        """A family that nobody holds any more ends by itself."""
        family = Family()
        pid = self.start("sleep", "60", family=family).pid
        with contextlib.suppress(ResourceWarning):
            del family
        wait_until(lambda: (now := look(pid)) is None or now.zombie)


class JournalTests(FamilyTestCase):
    def test_noted(self) -> None:
        """A supervisor is noted before it starts anything, and when nothing is left."""
        diary = Diary()
        family = self.make(diary)
        self.assertRaises(OSError, self.start, "/no/such/program", family=family)
        pid = family.supervisor_pid
        self.start("sleep", "60", family=family)
        self.assertEqual(diary.lines, [("began", family.mark, pid)])
        family.end(20)
        self.assertEqual(diary.lines[1:], [("ended", family.mark)])

    def test_full(self) -> None:
        """Where it cannot be noted nothing is started."""
        family = self.make(Diary(full=True))
        self.assertRaises(ServiceFailed, self.start, "sleep", "60", family=family)
        self.assertIsNone(family.supervisor_pid)
        self.assertEqual(list(marked([family.mark])), [])


class KilledTests(FamilyTestCase):
    """Somebody kills or stops the supervisor."""

    def test_killed(self) -> None:
        """The leaders go with it; the rest is found by its mark."""
        leader = self.start("sleep", "60")
        self.run_away()
        os.kill(self.supervisor_pid(), signal.SIGKILL)
        wait_until(lambda: leader.pid not in self.mine())
        self.assertEqual(leader.status(), -9)
        self.assertEqual(leader.signal(signal.SIGTERM), 0)
        error = self.assertRaises(Gone, self.start, "sleep", "60")
        self.assertEqual(error.strerror, "the supervisor of the session has gone")
        (pid,) = self.mine()
        self.assertIn(str(pid), self.family.left()[0])
        self.family.end(20)
        self.assertEqual(self.mine(), [])

    def test_nobody_learns_how_it_ended(self) -> None:
        """Where children that end leave no status, survivors are looked for just the same."""
        self.addCleanup(signal.signal, signal.SIGCHLD, signal.getsignal(signal.SIGCHLD))
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        self.run_away()
        self.assertEqual(len(self.mine()), 1)
        os.kill(self.supervisor_pid(), signal.SIGKILL)
        self.family.end(0)
        self.assertEqual(self.mine(), [])

    def test_stopped(self) -> None:
        """A supervisor that does not answer is killed, and nothing is left of it."""
        self.family = self.make()
        self.start("sleep", "60")
        self.run_away()
        self.patch(room, "ANSWER_TIMEOUT", 0.1)
        self.patch(room, "LOOK_PERIOD", 0.1)
        os.kill(self.supervisor_pid(), signal.SIGSTOP)
        self.family.end(20)
        self.assertEqual(list(marked([self.family.mark])), [])


class MarkTests(SynchronousTestCase):
    def setUp(self) -> None:
        # Others may run these tests on this machine at the same time.
        self.mark = secrets.token_hex(8)

    def program(self, mark: str, code: str = "") -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-S", "-c", f"{code}\nimport time; time.sleep(60)"]
        process = subprocess.Popen(argv, env={MARK: mark}, stdout=subprocess.PIPE)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def test_only_those(self) -> None:
        """Who carries another mark, even one that begins alike, is left alone."""
        marks = (self.mark, f"x{self.mark}", f"{self.mark}1")
        mine, other, longer = (self.program(mark) for mark in marks)
        wait_until(lambda: len(list(marked(marks))) == 3)
        kill_marked([self.mark])
        self.assertEqual((mine.wait(20), other.poll(), longer.poll()), (-9, None, None))
        kill_marked([])
        kill_marked([secrets.token_hex(8)])
        self.assertEqual((other.poll(), longer.poll()), (None, None))

    def test_told(self) -> None:
        """Where something does not end, that is told."""
        process = self.program(self.mark)
        wait_until(lambda: list(marked([self.mark])))
        kills: list[Callable[[], None]] = []
        self.patch(room, "tell", lambda *_: kills.append(process.kill))
        self.patch(room, "LAST_LOOK", room.FIRST_LOOK)
        told: list[list[str]] = []

        def note(names: list[str]) -> None:
            told.append(names)
            kills[0]()

        kill_marked([self.mark], note)
        self.assertIn(str(process.pid), told[0][0])

    def test_foreign(self) -> None:
        """Processes of which the environment cannot be read are none of ours."""

        def forbidden(*_: object) -> None:
            raise PermissionError

        room.open = forbidden  # type: ignore[attr-defined]
        self.addCleanup(delattr, room, "open")
        self.assertEqual(list(marked(["x"])), [])
