from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import psutil
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import wait_until
from wsserver import processes
from wsserver.family import Family, Leader
from wsserver.processes import TAIL_SIZE, ProcessGroup


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that merely waits to be reaped does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class ProcessTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.family = Family()
        self.addCleanup(self.family.close, 0)

    def group(self, script: str, *args: str, **rest: Any) -> ProcessGroup:
        """Start a shell script; it is gone after the test."""
        return ProcessGroup(self.family, ["sh", "-c", script, "sh", *args], **rest)

    def printed(self, group: ProcessGroup) -> str:
        """Return the output once there is a whole line of it."""
        wait_until(lambda: group.output().endswith("\n"))
        return group.output()


class StatusTests(ProcessTestCase):
    def test_exit_status(self) -> None:
        """A program that ends by itself leaves its exit status."""
        group = self.group("exit 3")
        wait_until(lambda: not group.running)
        self.assertEqual(group.status(), 3)
        group.stop(0)
        self.assertEqual((group.status(), group.running), (3, False))

    def test_signal(self) -> None:
        """A program that a signal ends has its number, below zero."""
        group = self.group("kill -KILL $$")
        wait_until(lambda: not group.running)
        self.assertEqual(group.status(), -9)

    def test_running(self) -> None:
        """A running program has no status, and a group of its own."""
        group = self.group("echo on; exec sleep 60")
        self.printed(group)
        self.assertEqual((group.running, group.status()), (True, None))
        self.assertEqual(os.getpgid(group.pid), group.pid)
        self.assertNotEqual(os.getpgid(0), group.pid)

    def test_cannot_start(self) -> None:
        """What cannot be started is an OSError."""
        self.assertRaises(OSError, ProcessGroup, self.family, ["/no/such/program"])
        self.assertRaises(OSError, ProcessGroup, self.family, ["sh"], cwd="/no/such/folder")


class OutputTests(ProcessTestCase):
    def test_both_streams(self) -> None:
        """Output and errors are kept together; the standard input is empty."""
        group = self.group("cat; echo out; echo err >&2")
        wait_until(lambda: group.output().count("\n") == 2)
        self.assertEqual(group.output(), "out\nerr\n")
        self.assertEqual(group.name, "sh")

    def test_tail(self) -> None:
        """However much a program prints, the end of it is kept and no more."""
        group = self.group("head -c 300000 /dev/zero | tr '\\0' x; echo; echo the end")
        wait_until(lambda: group.output().endswith("the end\n"))
        self.assertEqual(len(group.output()), TAIL_SIZE)

    def test_no_text(self) -> None:
        """Output that is no UTF-8 does no harm."""
        self.assertEqual(self.printed(self.group("printf 'a\\377b\\n'")), "a\ufffdb\n")

    def test_environment_and_folder(self) -> None:
        """A program runs with the environment and in the folder that it is given."""
        folder = Path(self.mktemp())
        folder.mkdir()
        env = {"PATH": os.environ["PATH"], "GREETING": "hello"}
        group = self.group('echo "$GREETING $HOME $(pwd)"', env=env, cwd=str(folder))
        self.assertEqual(self.printed(group), f"hello  {folder.resolve()}\n")


class StopTests(ProcessTestCase):
    def test_term(self) -> None:
        """A program is asked to end first, and may tidy up."""
        group = self.group("trap 'echo tidy; exit 4' TERM; echo on; while :; do sleep 0.01; done")
        self.printed(group)
        group.stop(20)
        self.assertEqual(group.status(), 4)
        wait_until(lambda: group.output().endswith("tidy\n"))

    def test_grandchild(self) -> None:
        """What a program starts ends with it."""
        group = self.group("sleep 60 & echo $!; wait")
        grandchild = int(self.printed(group))
        self.assertTrue(alive(grandchild))
        group.stop(20)
        self.assertEqual((alive(grandchild), group.status()), (False, -15))

    def test_orphan(self) -> None:
        """What a program left behind ends as well."""
        group = self.group("sleep 60 & echo $!")
        orphan = int(self.printed(group))
        wait_until(lambda: not group.running)
        self.assertTrue(alive(orphan))
        group.stop(20)
        self.assertFalse(alive(orphan))
        self.assertEqual(group.status(), 0)

    def test_deaf(self) -> None:
        """A program that does not want to end is killed after a while, with its children."""
        group = self.group("trap '' TERM; sleep 60 & echo $!; wait; exec sleep 60")
        grandchild = int(self.printed(group))
        group.stop(0.05)
        self.assertEqual((group.status(), alive(grandchild)), (-9, False))

    def test_few_looks(self) -> None:
        """While the leader runs nobody looks through all processes of the host."""
        looks: list[bool] = []
        tell = Leader.signal

        def signal(leader: Leader, number: int) -> int:
            if number == 0:
                looks.append(leader.status() is None)
            return tell(leader, number)

        self.patch(Leader, "signal", signal)
        group = self.group("trap '' TERM; echo on; exec sleep 60")
        self.printed(group)
        group.stop(0.2)
        self.assertNotIn(True, looks)
        self.assertIn(False, looks)

    def test_frozen(self) -> None:
        """A stopped program sees the request to end."""
        group = self.group("kill -STOP $$; exec sleep 60")
        wait_until(lambda: psutil.Process(group.pid).status() == psutil.STATUS_STOPPED)
        self.assertTrue(group.running)
        group.stop(20)
        self.assertEqual(group.status(), -15)

    def test_frozen_and_deaf(self) -> None:
        """A stopped program that ignores the request is killed."""
        group = self.group("trap '' TERM; kill -STOP $$; while :; do sleep 0.01; done")
        wait_until(lambda: psutil.Process(group.pid).status() == psutil.STATUS_STOPPED)
        group.stop(0.05)
        self.assertEqual(group.status(), -9)

    def test_twice(self) -> None:
        """Stopping again does nothing, least of all to whoever got the number since."""
        group = self.group("exec sleep 60")
        group.stop(20)
        signals: list[object] = []
        self.patch(group._leader, "signal", signals.append)
        group.stop(20)
        self.assertEqual(signals, [])


class InputTests(ProcessTestCase):
    def test_ends_with_its_input(self) -> None:
        """A program with an input of its own is told by its end, and may end by itself."""
        group = self.group("cat; echo goodbye; exit 7", stdin=b"hello ")
        wait_until(lambda: group.output() == "hello ")
        self.assertTrue(group.running)
        group.stop(20)
        self.assertEqual((group.status(), group.output()), (7, "hello goodbye\n"))
        group.stop(20)

    def test_ignores_its_input(self) -> None:
        """One that does not is ended as any other."""
        group = self.group("exec sleep 60", stdin=b"")
        group.stop(0)
        self.assertEqual(group.status(), -15)

    def test_reads_nothing(self) -> None:
        """A program that has closed its input already is no failure."""
        group = self.group("exec <&-; exec sleep 60", stdin=b"")
        group.stop(0)
        self.assertFalse(group.running)

    def test_gone_before_its_input(self) -> None:
        """A program that has ended before its input came is no failure."""

        group = self.group("exit 5", stdin=b"")
        wait_until(lambda: not group.running)
        self.patch(self.family, "start", lambda *_: group._leader)
        # Nobody has the other end of this pipe any more.
        other = ProcessGroup(self.family, ["sh"], stdin=b"secret")
        other.stop(0)
        self.assertEqual(other.status(), 5)

    def test_not_stopped(self) -> None:
        """An input that nobody has ended takes no file when its program is forgotten."""
        before = len(os.listdir("/proc/self/fd"))
        group = self.group("cat", stdin=b"")
        self.family.end(20)
        del group
        gc.collect()
        wait_until(lambda: len(os.listdir("/proc/self/fd")) == before)

    def test_no_thread(self) -> None:
        """Where the host allows no more threads, that is an error, and no file stays open."""

        def start(thread: object) -> None:
            raise RuntimeError("can't start new thread")

        self.group("exit 0").stop(0)
        before = len(os.listdir("/proc/self/fd"))
        self.patch(processes.Thread, "start", start)
        self.assertRaises(RuntimeError, self.group, "sleep 60", stdin=b"")
        self.assertRaises(RuntimeError, processes.run, self.family, ["sleep", "60"], 1)
        gc.collect()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_last_words(self) -> None:
        """What a program said at its very end is in its output."""
        for _ in range(20):
            group = self.group("echo last words")
            wait_until(lambda group=group: not group.running)
            self.assertEqual(group.output(), "last words\n")


class RunTests(ProcessTestCase):
    """A short program, run to its end."""

    def run_script(self, script: str, timeout: float = 20.0) -> tuple[int, bytes, bytes]:
        return processes.run(self.family, ["sh", "-c", script], timeout)

    def test_answer(self) -> None:
        """Status, output and complaints come apart, whole."""
        self.assertEqual(self.run_script("echo out; echo err >&2; exit 3"), (3, b"out\n", b"err\n"))
        status, printed, _ = self.run_script("head -c 300000 /dev/zero")
        self.assertEqual((status, len(printed)), (0, 300_000))

    def test_leaves_something(self) -> None:
        """What it leaves running is not waited for, and belongs to the family."""
        status, printed, _ = self.run_script("sleep 60 & echo $!")
        self.assertEqual(status, 0)
        self.assertEqual(self.family.left(), [f"sleep {int(printed)}"])

    def test_too_long(self) -> None:
        """One that takes too long is killed, with what it has started."""
        self.assertRaises(TimeoutError, self.run_script, "sleep 60 & sleep 60", 0.1)
        wait_until(lambda: not self.family.left())

    def test_cannot_start(self) -> None:
        """One that cannot be started leaves no open file behind."""
        self.run_script("exit 0")
        before = len(os.listdir("/proc/self/fd"))
        self.assertRaises(OSError, processes.run, self.family, ["/no/such/program"], 1)
        self.assertRaises(OSError, ProcessGroup, self.family, ["/no/such/program"], stdin=b"x")
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
