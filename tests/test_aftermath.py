"""What a dead server has left is ended; nobody else is touched."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import wait_until
from wsserver import aftermath
from wsserver.aftermath import clean, survivors
from wsserver.family import MARK
from wsserver.journal import Supervised, boot_id
from wsserver.proc import look


class AftermathTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.mark = secrets.token_hex(8)
        self.patch(aftermath, "WAIT", 0.2)

    def program(self, mark: str | None = None, code: str = "") -> subprocess.Popen[bytes]:
        """Start a program that carries a mark."""
        code += "\nprint(flush=True)\nimport time; time.sleep(60)"
        argv = [sys.executable, "-S", "-c", code]
        env = {} if mark is None else {MARK: mark}
        process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def journal(
        self, pid: int = 1, start: int = 1, server: str = "1.1", boot: str = "", text: bytes = b""
    ) -> Path:
        """Write the journal of a server that had one session with this supervisor."""
        path = self.directory / f"{server}.{boot or boot_id()}.{secrets.token_hex(4)}.journal"
        line = json.dumps({"session": self.mark, "pid": pid, "start": start}).encode()
        path.write_bytes(text or b"\n" + line)
        return path

    def clean(self) -> str:
        with capturedLogs() as events:
            clean(self.directory)
        return "\n".join(map(formatEvent, events))

    def start_of(self, pid: int) -> int:
        now = look(pid)
        assert now is not None
        return now.start

    def test_marked(self) -> None:
        """Survivors are found by their mark, and killed; the log has one line of it."""
        mine, other = self.program(self.mark), self.program("other")
        path = self.journal()
        said = self.clean()
        self.assertEqual((mine.wait(20), other.poll()), (-9, None))
        self.assertFalse(path.exists())
        self.assertEqual(
            said, "server 1 died: it had 1 sessions; 1 processes were left, and are killed"
        )

    def test_below_a_supervisor(self) -> None:
        """What is below a supervisor that is known for certain needs no mark."""
        code = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True)"
        supervisor = self.program(None, code)
        found = survivors([Supervised("x", supervisor.pid, self.start_of(supervisor.pid))])
        self.assertEqual([process.name for process in found][-1], "sleep")
        self.journal(supervisor.pid, self.start_of(supervisor.pid))
        self.clean()
        self.assertEqual(supervisor.wait(20), -9)
        wait_until(lambda: (now := look(found[-1].pid)) is None or now.zombie)

    def test_foreign(self) -> None:
        """A process that has got the number of a supervisor is never signalled."""
        foreign = self.program()
        self.journal(foreign.pid, self.start_of(foreign.pid) + 1)
        self.assertIn("0 processes were left", self.clean())
        self.assertIsNone(foreign.poll())

    def test_ends_by_itself(self) -> None:
        """What is about to end is given the time for it."""
        self.patch(aftermath, "WAIT", 20)
        mine = self.program(self.mark)
        os.kill(mine.pid, signal.SIGTERM)
        self.journal()
        self.assertIn("0 processes were left", self.clean())
        self.assertEqual(mine.wait(20), -15)

    def test_other_boot(self) -> None:
        """After a restart of the machine there is nothing to end."""
        foreign = self.program(self.mark)
        path = self.journal(foreign.pid, self.start_of(foreign.pid), boot="another")
        self.assertIn("0 processes were left", self.clean())
        self.assertIsNone(foreign.poll())
        self.assertFalse(path.exists())

    def test_live_server(self) -> None:
        """The journal of a server that runs is its own business."""
        mine = self.program(self.mark)
        pid = os.getpid()
        path = self.journal(server=f"{pid}.{self.start_of(pid)}")
        self.assertEqual(self.clean(), "")
        self.assertEqual((mine.poll(), path.exists()), (None, True))

    def test_server_with_the_same_number(self) -> None:
        """A server whose number has gone to somebody else is dead."""
        mine = self.program(self.mark)
        pid = os.getpid()
        self.journal(server=f"{pid}.{self.start_of(pid) - 1}")
        self.assertIn(f"server {pid} died", self.clean())
        self.assertEqual(mine.wait(20), -9)

    def test_zombie_server(self) -> None:
        """A server that is only waited for is dead."""
        server = self.program()
        name = f"{server.pid}.{self.start_of(server.pid)}"
        server.kill()
        wait_until(lambda: (now := look(server.pid)) is not None and now.zombie)
        self.journal(server=name)
        self.assertIn("died", self.clean())

    def test_does_not_end(self) -> None:
        """What cannot be ended is told, does not keep the server, and stays in the journal."""
        self.patch(aftermath, "KILL_WAIT", 0.1)
        self.patch(aftermath, "tell", lambda *_: None)
        self.program(self.mark)
        path = self.journal()
        began = time.monotonic()
        self.assertEqual(self.clean(), "server 1 died: 1 processes of its sessions do not end")
        self.assertLess(time.monotonic() - began, 10)
        self.assertTrue(path.exists())

    def test_other_files(self) -> None:
        """Files that are no journals are left alone; a directory that is not there is no error."""
        (self.directory / "notes.txt").touch()
        self.assertEqual(self.clean(), "")
        self.assertTrue((self.directory / "notes.txt").exists())
        self.directory = self.directory / "none"
        self.assertEqual(self.clean(), "")

    def test_unreadable(self) -> None:
        """A journal that cannot be read is told, and left."""
        path = self.journal()
        path.unlink()
        path.mkdir()
        self.assertIn("Is a directory", self.clean())
        self.assertTrue(path.exists())
