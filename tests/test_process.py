"""What a process of our own sets for itself."""

from __future__ import annotations

import errno
import gc
import os
import resource
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from wsserver import process
from wsserver.process import (
    SWITCH_INTERVAL,
    WANTED_FILES,
    files_in_use,
    prepare,
    raise_file_limit,
    settle,
)


class PrepareTests(SynchronousTestCase):
    def test_prepare(self) -> None:
        """Timers follow a clock that never steps, and busy threads give way soon."""
        self.addCleanup(sys.setswitchinterval, sys.getswitchinterval())
        reactor = SimpleNamespace()
        prepare(reactor)
        self.assertIs(reactor.seconds, time.monotonic)
        self.assertAlmostEqual(sys.getswitchinterval(), SWITCH_INTERVAL)

    def test_settle(self) -> None:
        """What is there at the start is no garbage that is looked through for ever."""
        self.addCleanup(gc.unfreeze)
        settle()
        self.assertGreater(gc.get_freeze_count(), 0)


class FileLimitTests(SynchronousTestCase):
    def limit(self, soft: int, hard: int) -> tuple[list[tuple[int, int]], str]:
        """Return what was set, and what was said."""
        made: list[tuple[int, int]] = []
        fake = SimpleNamespace(
            RLIMIT_NOFILE=resource.RLIMIT_NOFILE,
            RLIM_INFINITY=resource.RLIM_INFINITY,
            getrlimit=lambda _: (soft, hard),
            setrlimit=lambda _, limits: made.append(limits),
        )
        self.patch(process, "resource", fake)
        said: list[str] = []

        def hear(event: dict[str, object]) -> None:
            if event.get("log_namespace") == "wsserver":
                said.append(str(event["log_format"]).format(**event))

        globalLogPublisher.addObserver(hear)
        self.addCleanup(globalLogPublisher.removeObserver, hear)
        raise_file_limit()
        return made, "".join(said)

    def test_raised(self) -> None:
        """The soft limit is raised as far as it is any use."""
        never = resource.RLIM_INFINITY
        for hard in (WANTED_FILES, 2**20, never):
            self.assertEqual(self.limit(1024, hard), ([(WANTED_FILES, hard)], ""))

    def test_high_already(self) -> None:
        """A limit that is high enough is left alone."""
        never = resource.RLIM_INFINITY
        for soft, hard in ((WANTED_FILES, 2**20), (2**20, 2**20), (never, never)):
            self.assertEqual(self.limit(soft, hard), ([], ""))

    def test_few(self) -> None:
        """Where the hard limit is low, the log tells how many tunnels there is room for."""
        made, said = self.limit(1024, 4096)
        self.assertEqual(made, [(4096, 4096)])
        self.assertEqual(said, "4096 open files are allowed: room for 1698 tunnels")


class FilesInUseTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.allowed = 100
        self.patch(resource, "getrlimit", lambda _: (self.allowed, self.allowed))

    def kernel_tells(self, files: int | None) -> None:
        def stat(path: str) -> object:
            if files is None:
                raise FileNotFoundError(path)
            return SimpleNamespace(st_size=files)

        self.patch(os, "stat", stat)

    def test_told(self) -> None:
        """The part of the files that are open is told, with those that are to come."""
        self.kernel_tells(40)
        self.assertAlmostEqual(files_in_use(), 0.4)
        self.assertAlmostEqual(files_in_use(3), 0.43)

    def test_many(self) -> None:
        """Where many may be open the reserve is no part of them, but some hundreds."""
        self.allowed = 20_000
        for files, part in ((0, 0.0), (17_500, 0.0), (19_500, 0.8), (19_750, 0.9), (20_000, 1.0)):
            self.kernel_tells(files)
            self.assertAlmostEqual(files_in_use(), part)

    def test_no_limit(self) -> None:
        """Where any number may be open, none of it is in use."""
        self.allowed = resource.RLIM_INFINITY
        self.assertEqual(files_in_use(), 0.0)

    def test_older_kernels(self) -> None:
        """Where the kernel does not tell they are counted, wherever there is a gap."""
        for told in (0, None):
            self.kernel_tells(told)
            gap, *others = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
            os.close(gap)
            process._counted.cache_clear()
            self.assertAlmostEqual(files_in_use(), len(os.listdir("/proc/self/fd")) / 100, 1)
            self.assertGreater(files_in_use(), (gap + 15) / 100)
            for handle in others:
                os.close(handle)

    def test_burst(self) -> None:
        """What has been opened since the last count is known at least in part."""
        self.kernel_tells(0)
        self.patch(process, "_counted", lambda second: 3)
        before = files_in_use()
        with open(os.devnull) as lowest:
            self.assertAlmostEqual(before, lowest.fileno() / 100)
            self.assertGreater(files_in_use(), before)

    def test_all_in_use(self) -> None:
        """Where not one more can be opened, all of them are in use."""

        def full(*args: object) -> None:
            raise OSError(errno.EMFILE, "too many")

        self.kernel_tells(0)
        self.patch(os, "open", full)
        self.assertEqual(files_in_use(), 1.0)


class EndTests(SynchronousTestCase):
    """A server that is told to end does end."""

    def run_code(self, code: str) -> tuple[int, float, str]:
        """Let a process end in time; return its status, how long it took, and its log."""
        began = time.monotonic()
        code = (
            "import os, signal, sys, time\n"
            "from twisted.logger import globalLogPublisher, textFileLogObserver\n"
            "globalLogPublisher.addObserver(textFileLogObserver(sys.stdout))\n"
            f"from wsserver import process; process.SPARE_TIME = 0\n{code}\ntime.sleep(60)"
        )
        argv = [sys.executable, "-c", code]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=50)
        return done.returncode, time.monotonic() - began, done.stdout

    def test_second_signal(self) -> None:
        """A further signal ends it at once."""
        for name in ("SIGTERM", "SIGINT"):
            status, seconds, log = self.run_code(
                f"process.end_in_time(50); os.kill(os.getpid(), signal.{name})"
            )
            self.assertEqual(status, 128 + getattr(signal, name))
            self.assertLess(seconds, 40)
            self.assertIn("ends at once: a second signal", log)

    def test_too_long(self) -> None:
        """So does time, whatever hangs."""
        status, seconds, log = self.run_code("process.end_in_time(0.1)")
        self.assertEqual(status, 128 + signal.SIGALRM)
        self.assertLess(seconds, 40)
        self.assertIn("ends at once: it takes too long", log)

    def test_log_fails(self) -> None:
        """A log that cannot be written does not keep it."""
        status, _, _ = self.run_code("process._log = None; process.end_in_time(0.1)")
        self.assertEqual(status, 128 + signal.SIGALRM)
