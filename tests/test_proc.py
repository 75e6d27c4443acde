"""Processes in /proc, and signals that reach the right one."""

from __future__ import annotations

import builtins
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import wait_until
from wsserver import proc
from wsserver.proc import look, processes, running, tell


class ProcTests(SynchronousTestCase):
    def test_look(self) -> None:
        """A process is known by number and start time, whatever its name."""
        folder = Path(self.mktemp())
        folder.mkdir()
        odd = folder / ") Z 1 (x"
        odd.symlink_to("/bin/sleep")
        with subprocess.Popen([str(odd.absolute()), "60"]) as process:
            wait_until(lambda: (now := look(process.pid)) is not None and "Z 1" in now.name)
            found = look(process.pid)
            assert found is not None
            self.assertEqual((found.pid, found.parent), (process.pid, os.getpid()))
            self.assertEqual((found.session, found.zombie), (os.getsid(0), False))
            self.assertEqual(str(found), f") Z 1 (x {process.pid}")
            process.kill()
            wait_until(lambda: (now := look(process.pid)) is not None and now.zombie)
            self.assertNotIn(process.pid, [other.pid for other in processes()])
        self.assertIsNone(look(process.pid))

    def test_first_thread_ended(self) -> None:
        """A process whose first thread has ended runs as long as another thread does."""
        code = """if True:
            import ctypes, threading, time
            threading.Thread(target=time.sleep, args=[60]).start()
            ctypes.CDLL(None).pthread_exit(None)
        """
        with subprocess.Popen([sys.executable, "-c", code]) as process:
            self.addCleanup(process.kill)
            stat = Path(f"/proc/{process.pid}/stat")
            wait_until(lambda: b") Z " in stat.read_bytes())
            self.assertIn(process.pid, [other.pid for other in processes()])
            now = look(process.pid)
            assert now is not None
            tell(now, signal.SIGKILL)
            self.assertEqual(process.wait(20), -9)

    def test_hidden(self) -> None:
        """What /proc hides of other users' processes (hidepid) is as if it were not there."""
        real = builtins.open

        def guarded(path: Any, *rest: Any) -> Any:
            if path == "/proc/1/stat":
                raise PermissionError
            return real(path, *rest)

        self.patch(builtins, "open", guarded)
        self.assertIsNone(look(1))
        found = [process.pid for process in processes()]
        self.assertNotIn(1, found)
        self.assertIn(os.getpid(), found)

    def test_tell_the_right_one(self) -> None:
        """A process that has got the number of another is never signalled."""
        with subprocess.Popen(["sleep", "60"]) as process:
            now = look(process.pid)
            assert now is not None
            now.start += 1
            tell(now, signal.SIGKILL)
            self.assertIsNone(process.poll())
            now.start -= 1
            tell(now, signal.SIGKILL)
            self.assertEqual(process.wait(20), -9)
        tell(now, signal.SIGKILL)

    def test_running(self) -> None:
        """A process runs while it is the one that started then, and no zombie."""
        with subprocess.Popen(["sleep", "60"]) as process:
            now = look(process.pid)
            assert now is not None
            self.assertEqual(str(running(now.pid, now.start)), str(now))
            self.assertIsNone(running(now.pid, now.start - 1))
            process.kill()
            wait_until(lambda: running(now.pid, now.start) is None)

    def test_not_allowed(self) -> None:
        """A process of another user is left alone, without a fuss."""

        def forbidden(*_: object) -> None:
            raise PermissionError

        now = look(os.getpid())
        assert now is not None
        self.patch(proc.signal, "pidfd_send_signal", forbidden)
        tell(now, signal.SIGKILL)
