"""The supervisor as a process, spoken to as the server does; and in parts."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import wsserver
from tests.fakes import wait_until
from wsserver.messages import receive, send
from wsserver.proc import Process, below, look
from wsserver.supervisor import PROGRAM, Supervisor

#: Runs away from its parent: a new session, and a parent that is gone.
RUN_AWAY = "import os; os.fork() and os._exit(0); os.setsid(); os.fork() and os._exit(0); "
FOLDER = str(Path(wsserver.__file__).parents[1])
ENV = {b"PATH": os.environb[b"PATH"]}


class SupervisorTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.peer, theirs = socket.socketpair()
        self.peer.settimeout(20)
        with theirs:
            # As the server does but for -I -S, which keep the measuring of coverage away.
            argv = [sys.executable, "-c", PROGRAM, FOLDER, str(os.getpid())]
            self.process = subprocess.Popen(argv, stdin=theirs.fileno())
        self.null = os.open(os.devnull, os.O_RDWR)
        self.addCleanup(os.close, self.null)
        self.addCleanup(self.gone)

    def gone(self) -> None:
        """End it all, as a server does that dies, and let the tail be seen."""
        self.peer.close()
        self.process.wait(20)

    def ask(self, *request: object, handles: tuple[int, ...] = ()) -> Any:
        send(self.peer, request, handles)
        return receive(self.peer)[0][0]

    def start(self, *argv: str, cwd: bytes = b"") -> tuple[int, int]:
        words = [word.encode() for word in argv]
        reply: tuple[int, int] = self.ask(
            "start", words, ENV, cwd, handles=(self.null, self.null, self.null)
        )
        return reply

    def python(self, code: str) -> int:
        """Run Python code in a program of the session; return the number of the start."""
        return self.start(sys.executable, "-S", "-c", code)[0]

    def left(self) -> list[Process]:
        return below(self.process.pid)

    def assert_all_gone(self, seconds: float = 20.0) -> None:
        """Assert that the supervisor ends well, and that it ended what was there."""
        found = self.left()
        self.assertEqual(self.process.wait(seconds), 0)
        self.assertEqual([p for p in found if _runs(p)], [])


def _runs(process: Process) -> bool:
    now = look(process.pid)
    return now is not None and now.start == process.start and not now.zombie


class StartTests(SupervisorTestCase):
    def test_status(self) -> None:
        """Exit statuses are kept by the number of the start."""
        first, _ = self.start("sh", "-c", "exit 3")
        second, pid = self.start("sleep", "60")
        wait_until(lambda: self.ask("status", first) is not None)
        self.assertEqual((self.ask("status", first), self.ask("status", second)), (3, None))
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self.ask("status", second) == -9)

    def test_session(self) -> None:
        """A leader has a session of its own, and takes no open file but the standard ones."""
        _, pid = self.start("sleep", "60")
        self.assertEqual(os.getsid(pid), pid)
        # The loader opens some at first.
        wait_until(lambda: sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"])

    def test_signals(self) -> None:
        """A leader ignores no signal that Python ignores, and blocks none."""
        _, pid = self.start("sleep", "60")
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        found = dict(line.split(":\t", 1) for line in status if ":\t" in line)
        self.assertEqual(int(found["SigBlk"], 16), 0)
        self.assertEqual(int(found["SigIgn"], 16) & 1 << signal.SIGPIPE - 1, 0)

    def test_refused(self) -> None:
        """What cannot be started is told with the error, and whether the folder is to blame."""
        missing = errno.ENOENT
        self.assertEqual(self.start("/no/such/program"), (-1, missing, False))
        self.assertEqual(self.start("sh", cwd=b"/no/such/folder"), (-1, missing, True))
        self.assertEqual(self.start("/etc/passwd"), (-1, errno.EACCES, False))
        self.assertEqual(self.ask("start", [b"sh"], ENV, b""), (-1, errno.EMFILE, False))
        wait_until(lambda: not self.left())

    def test_no_more_processes(self) -> None:
        """A fork that fails is told as any other failure, and leaves no file open."""
        pid = self.process.pid
        self.ask("left")
        before = len(os.listdir(f"/proc/{pid}/fd"))
        # Room for a part of what is sent, and for all of it but not for more.
        for room in (1, 4):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (before + room, before + 4))
            self.assertEqual(self.start("sh"), (-1, errno.EMFILE, False))
            wait_until(lambda: len(os.listdir(f"/proc/{pid}/fd")) == before)

    def test_no_fork(self) -> None:
        """Nor does one that the limit on processes forbids."""

        def fork() -> int:
            raise BlockingIOError(errno.EAGAIN, "no more processes")

        self.patch(os, "fork", fork)
        part = Supervisor(self.peer, os.getpid())
        before = os.listdir("/proc/self/fd")
        reply = part.start([b"sh"], ENV, b"", self.null, self.null, self.null)
        self.assertEqual(reply, (-1, errno.EAGAIN, False))
        self.assertEqual(os.listdir("/proc/self/fd"), before)


class SignalTests(SupervisorTestCase):
    def test_whole_session(self) -> None:
        """A signal reaches what the leader has started, and nobody else."""
        first = self.python("import os; os.system('sleep 60 & sleep 60')")
        other, _ = self.start("sleep", "60")
        wait_until(lambda: self.ask("signal", first, 0) == 4)
        self.assertEqual(self.ask("signal", other, 0), 1)
        self.assertEqual(self.ask("signal", first, signal.SIGKILL.value), 4)
        wait_until(lambda: self.ask("signal", first, 0) == 0)
        self.assertEqual(self.ask("signal", other, 0), 1)

    def test_orphans(self) -> None:
        """What the leader has left behind still belongs to it."""
        first, _ = self.start("sh", "-c", "sleep 60 &")
        wait_until(lambda: self.ask("status", first) == 0)
        self.assertEqual(self.ask("signal", first, 0), 1)


def is_deaf(process: Any) -> bool:
    """Tell whether a process ignores TERM (proc_pid_status(5))."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
    return bool(ignored >> signal.SIGTERM - 1 & 1)


class EndTests(SupervisorTestCase):
    def run_away(self) -> None:
        """Start a program that is nobody's child, in a session of its own."""
        start = self.python(f"{RUN_AWAY} import time; time.sleep(60)")
        wait_until(lambda: self.ask("status", start) == 0)
        wait_until(lambda: len(self.left()) == 1)
        wait_until(lambda: self.ask("signal", start, 0) == 0)

    def test_nothing(self) -> None:
        """Where nothing runs the end is at once."""
        self.ask("end", 60.0)
        self.assert_all_gone()

    def test_runaway(self) -> None:
        """What ran away is ended with the rest."""
        self.run_away()
        self.start("sleep", "60")
        self.ask("end", 60.0)
        self.assert_all_gone()

    def test_deaf_and_stopped(self) -> None:
        """What ignores TERM is killed in time, also where it was stopped."""
        deaf = "import signal, time, os; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        self.python(f"{deaf}os.fork(); time.sleep(60)")
        self.python(f"{deaf}os.kill(os.getpid(), signal.SIGSTOP)")
        wait_until(lambda: len(self.left()) == 3 and all(map(is_deaf, self.left())))
        began = time.monotonic()
        self.ask("end", 0.3)
        self.assert_all_gone()
        self.assertGreater(time.monotonic() - began, 0.3)

    def test_stopped(self) -> None:
        """A stopped program sees that it has to end."""
        _, pid = self.start("sh", "-c", "kill -STOP $$; sleep 60")
        wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().split()[2] == "T")
        self.ask("end", 60.0)
        self.assert_all_gone()

    def test_born_while_ending(self) -> None:
        """What is started by programs that are about to end is ended as well."""
        self.start("sh", "-c", "trap 'setsid sleep 60 & exit' TERM; while :; do sleep 0.01; done")
        wait_until(lambda: len(self.left()) == 2)
        # A TERM just between fork and exec is lost.
        self.ask("end", 1.0)
        self.assert_all_gone()

    def test_sooner(self) -> None:
        """An end may be hastened; nothing new is started meanwhile; what is left is named."""
        self.python("import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)")
        wait_until(lambda: self.left() and all(map(is_deaf, self.left())))
        self.ask("end", 60.0)
        self.assertEqual(self.start("sleep", "60"), (-1, errno.ECANCELED, False))
        (name,) = self.ask("left")
        self.assertIn(str(self.left()[0].pid), name)
        self.ask("end", 0.3)
        self.ask("end", 60.0)
        self.assert_all_gone()

    def test_server_gone(self) -> None:
        """The end of the socket is the end of all."""
        self.run_away()
        self.start("sleep", "60")
        self.peer.close()
        self.assert_all_gone()

    def test_half_a_request(self) -> None:
        """So is a request that breaks off."""
        self.start("sleep", "60")
        self.peer.sendall(b"\0\0\1\0half")
        self.peer.close()
        self.assert_all_gone()

    def test_half_a_head(self) -> None:
        """And one that breaks off at once."""
        self.start("sleep", "60")
        self.peer.sendall(b"\0\0")
        self.peer.close()
        self.assert_all_gone()

    def test_told_by_signal(self) -> None:
        """Who ends the supervisor politely ends the session."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self.start("sleep", "60")
            self.process.send_signal(number)
            self.assert_all_gone()
            self.setUp()

    def test_killed(self) -> None:
        """Who kills the supervisor kills the leaders."""
        _, pid = self.start("sleep", "60")
        leader = look(pid)
        assert leader is not None
        self.process.kill()
        wait_until(lambda: not _runs(leader))

    def test_forked_server(self) -> None:
        """A process that the server has forked keeps nothing alive with its copy of the socket."""
        code = (
            "import os, socket, subprocess, sys, time; a, b = socket.socketpair()\n"
            "argv = [sys.executable, '-I', '-S', '-c', *sys.argv[1:], str(os.getpid())]\n"
            "p = subprocess.Popen(argv, stdin=b); b.close()\n"
            "print(p.pid, flush=True)\n"
            "if os.fork() == 0: time.sleep(60)\n"
            "print(os.getpid(), flush=True); time.sleep(60)\n"
        )
        argv = [sys.executable, "-c", code, PROGRAM, FOLDER]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True) as server:
            assert server.stdout is not None
            orphan = look(int(server.stdout.readline()))
            server.stdout.readline()
            self.addCleanup(os.killpg, server.pid, signal.SIGKILL)
            server.kill()
            server.wait()
            assert orphan is not None
            wait_until(lambda: not _runs(orphan))
