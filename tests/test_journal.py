"""The journal tells the next server which sessions there were, whatever happened to it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from wsserver import journal as room
from wsserver.errors import ConfigError, ServiceFailed
from wsserver.journal import (
    Journal,
    Owner,
    Supervised,
    boot_id,
    make_directory,
    owner_of,
    sessions_of,
    state_directory,
)
from wsserver.proc import look

#: JSON that is no line of a journal.
NONSENSE = st.recursive(st.none() | st.text() | st.integers(), st.lists)


def start_of(pid: int) -> int:
    now = look(pid)
    assert now is not None
    return now.start


class JournalTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.me = os.getpid()
        self.directory = Path(self.mktemp()).resolve()
        self.journal = Journal(self.directory)

    def open(self) -> None:
        self.journal.open()
        self.addCleanup(self.journal.close)

    def file(self) -> Path:
        (path,) = self.directory.iterdir()
        return path

    def sessions(self) -> list[str]:
        return [session.mark for session in sessions_of(self.file().read_bytes())]


class WritingTests(JournalTestCase):
    def test_sessions(self) -> None:
        """The file holds the sessions that have not ended, with their supervisors."""
        self.open()
        for mark in ("a1", "b2", "c3"):
            self.journal.began(mark, self.me)
        self.journal.ended("b2")
        found = sessions_of(self.file().read_bytes())
        start = start_of(self.me)
        self.assertEqual(found, [Supervised(mark, self.me, start) for mark in ("a1", "c3")])

    def test_private(self) -> None:
        """Nobody else can read it, or write beside it; its name says whose it is."""
        self.open()
        self.assertEqual(self.file().stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.directory.stat().st_mode & 0o777, 0o700)
        owner = owner_of(self.file())
        self.assertEqual(owner, Owner(self.me, start_of(self.me), boot_id()))
        assert owner is not None
        self.assertTrue(owner.alive)

    def test_end(self) -> None:
        """After an orderly end it is gone; while a session has not ended it stays."""
        self.open()
        self.journal.began("a1", self.me)
        self.journal.close()
        self.assertEqual(self.sessions(), ["a1"])
        self.journal.ended("a1")
        self.assertEqual(list(self.directory.iterdir()), [])
        self.journal.close()

    def test_begin_anew(self) -> None:
        """A server may start again, also where sessions of its former life have not ended."""
        self.open()
        self.journal.began("a1", self.me)
        self.journal.close()
        self.journal.open()
        self.journal.began("b2", self.me)
        self.journal.ended("a1")
        self.assertEqual(self.sessions(), ["b2"])
        self.journal.ended("b2")
        self.journal.close()
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_two_servers(self) -> None:
        """Two servers of one process have a journal each."""
        self.open()
        other = Journal(self.directory)
        other.open()
        self.assertEqual(len(list(self.directory.iterdir())), 2)
        other.close()
        self.file()

    def test_cleared(self) -> None:
        """Where somebody clears the directory the journal begins anew, with all that lives."""
        self.open()
        for mark in ("a1", "b2"):
            self.journal.began(mark, self.me)
        self.journal.ended("a1")
        self.file().unlink()
        self.journal.began("c3", self.me)
        self.assertEqual(self.sessions(), ["b2", "c3"])
        for mark in ("b2", "c3"):
            self.journal.ended(mark)
        self.journal.close()
        self.assertEqual(list(self.directory.iterdir()), [])

    def test_not_ours(self) -> None:
        """A journal that may not be removed (twistd --uid) does not keep the server from ending."""

        def unlink(*args: object, **rest: object) -> None:
            raise PermissionError("root's")

        self.journal.open()
        self.patch(Path, "unlink", unlink)
        with capturedLogs() as events:
            self.journal.close()
        self.assertIn("cannot be removed", events[-1]["log_format"])

    def test_stays_small(self) -> None:
        """What has ended is left out from time to time."""
        self.patch(room, "SPARE_LINES", 10)
        self.open()
        self.journal.began("long", self.me)
        for number in range(100):
            self.journal.began(str(number), self.me)
            self.journal.ended(str(number))
        self.assertEqual(self.sessions(), ["long"])
        self.assertLess(len(self.file().read_bytes().splitlines()), 20)


class FullTests(JournalTestCase):
    """A disk that is full keeps sessions from starting, and nothing else."""

    def setUp(self) -> None:
        super().setUp()
        self.full = False
        self.room: int | None = None
        create = room._create

        def may_create(path: Path) -> int:
            return os.open("/dev/full", os.O_WRONLY) if self.full else create(path)

        def may_write(file: int, data: bytes) -> int:
            return write(file, data if self.room is None else data[: self.room])

        write = os.write
        self.patch(room, "_create", may_create)
        self.patch(room.os, "write", may_write)

    def refused(self) -> None:
        error = self.assertRaises(ServiceFailed, self.journal.began, "a1", self.me)
        self.assertEqual(str(error), "the journal of the server cannot be written")

    def test_full(self) -> None:
        """The session fails with words; when there is room again the next one does not."""
        self.full = True
        self.open()
        self.refused()
        self.full = False
        self.journal.close()
        self.open()
        self.journal.began("b2", self.me)
        self.assertEqual(self.sessions(), ["b2"])

    def test_torn(self) -> None:
        """A line that has got in in part spoils neither the one before nor the one after."""
        self.open()
        self.journal.began("a1", self.me)
        self.room = 20
        self.assertRaises(ServiceFailed, self.journal.began, "b2", self.me)
        self.room = None
        self.journal.began("c3", self.me)
        self.assertEqual(self.sessions(), ["a1", "c3"])

    def test_no_directory(self) -> None:
        """Where not even the directory can be made, that is logged, and tried again."""
        self.directory.parent.joinpath("file").touch()
        self.journal.directory = self.directory.parent / "file" / "below"
        self.journal.open()
        self.refused()
        self.journal.directory = self.directory
        self.addCleanup(self.journal.close)
        self.journal.began("b2", self.me)
        self.assertEqual(self.sessions(), ["b2"])

    def test_end_not_noted(self) -> None:
        """That an end cannot be noted does no harm."""
        self.patch(room, "SPARE_LINES", 0)
        self.open()
        for mark in ("a1", "b2", "c3"):
            self.journal.began(mark, self.me)
        self.room = 5
        for mark in ("a1", "b2"):
            self.journal.ended(mark)
        self.room = None
        # what is written anew is written whole, or not at all
        self.assertLessEqual({"a1", "b2", "c3"}, set(self.sessions()))
        self.journal.began("d4", self.me)
        self.journal.ended("c3")
        self.assertIn("d4", self.sessions())


class ReadingTests(JournalTestCase):
    def test_truncated_everywhere(self) -> None:
        """Wherever the file breaks off, all lines before count."""
        self.open()
        for mark in ("a1", "b2", "c3"):
            self.journal.began(mark, self.me)
        self.journal.ended("a1")
        whole = self.file().read_bytes()
        lines = whole.split(b"\n")
        for size in range(len(whole) + 1):
            there: list[str] = []
            for line in lines:
                if len(b"\n".join(lines[: lines.index(line) + 1])) > size:
                    break
                fields = json.loads(line or "{}")
                there += [fields["session"]] if "session" in fields else []
                there = [mark for mark in there if mark != fields.get("ended")]
            found = [session.mark for session in sessions_of(whole[:size])]
            self.assertEqual(found, there, size)

    @settings(max_examples=200, deadline=None)
    @given(st.binary() | NONSENSE.map(json.dumps).map(str.encode))
    def test_nonsense(self, journal: bytes) -> None:
        """Whatever else stands there is no session."""
        self.assertEqual(sessions_of(journal), [])

    def test_names(self) -> None:
        """Other files are no journals."""
        for name in (
            "x.journal",
            f"1.2.{boot_id()}.journal",
            f"a.2.{boot_id()}.0.journal",
            f"1.2.{boot_id()}.0.log",
            f"1.2.{boot_id()}.0",
        ):
            self.assertIsNone(owner_of(Path(name)), name)

    def test_dead(self) -> None:
        """A server is dead when its number, start time or boot are others'."""
        start, boot = start_of(self.me), boot_id()
        for dead in (
            Owner(self.me, start + 1, boot),
            Owner(self.me, start, "another"),
            Owner(2**22 + 1, start, boot),
        ):
            self.assertFalse(dead.alive)


class DirectoryTests(JournalTestCase):
    def test_default(self) -> None:
        """The setting, else systemd's directory, else that of the login, else one below /tmp."""
        everything = {"RUNTIME_DIRECTORY": "/run/a:/run/b", "XDG_RUNTIME_DIR": "/run/user/7"}
        self.assertEqual(state_directory("/x", everything), Path("/x"))
        self.assertEqual(state_directory(None, everything), Path("/run/a"))
        del everything["RUNTIME_DIRECTORY"]
        self.assertEqual(state_directory(None, everything), Path("/run/user/7/wsserver"))
        found = state_directory(None, {})
        self.assertEqual(found.name, f".wsserver-{os.geteuid()}")

    def test_not_safe(self) -> None:
        """A directory into which others may write, or that is another user's, is refused."""
        self.directory.mkdir(mode=0o700)
        self.directory.chmod(0o770)
        self.refused(self.directory)
        self.directory.chmod(0o755)
        make_directory(self.directory)
        self.patch(os, "geteuid", lambda: 12345)
        self.refused(self.directory)

    def test_link(self) -> None:
        """So is a link in its place: somebody else may turn it elsewhere."""
        target = Path(self.mktemp()).resolve()
        target.mkdir(mode=0o700)
        self.directory.symlink_to(target)
        self.refused(self.directory)

    def refused(self, directory: Path) -> Any:
        error = self.assertRaises(ConfigError, Journal(directory).open)
        self.assertIn("settings.state_directory: others may write into", str(error))
