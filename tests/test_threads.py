from __future__ import annotations

import threading
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from tests.fakes import ADDRESS, Workshop, make_offer, wait_until
from wsserver.launch import DEFAULT_SOCKET, Launcher
from wsserver.offers import Script
from wsserver.threads import MAX_THREADS, DaemonThread, ScriptThreads, Worker, in_own_thread


class ScriptThreadsTests(TestCase):
    def pool(self, instances: int) -> ScriptThreads:
        pool = ScriptThreads(instances)
        pool.start()
        self.addCleanup(pool.stop)
        return pool

    def test_size(self) -> None:
        """There are threads for every start and every stop, up to a limit."""
        for instances, most in ((0, 2), (1, 2), (3, 6), (10**6, MAX_THREADS)):
            self.assertEqual(
                (ScriptThreads(instances).min, ScriptThreads(instances).max), (0, most)
            )

    def test_launch(self) -> None:
        """On a real reactor a script runs in a daemon thread, and speaks in that of the reactor."""
        from twisted.internet import reactor

        here = threading.current_thread()
        there: list[threading.Thread] = []
        said: list[tuple[str, bool]] = []
        workshop = Workshop(says="on my way")

        def create(*args: Any) -> Any:
            there.append(threading.current_thread())
            return workshop.create(*args)

        def note(text: str) -> None:
            said.append((text, threading.current_thread() is here))

        launcher = Launcher(Worker.on(reactor, self.pool(1)))
        instance = launcher.prepare(make_offer(script=Script(create)), 0, {}, note, note)

        async def launch() -> None:
            self.assertEqual(await instance.start(), {DEFAULT_SOCKET: ADDRESS})
            await instance.stop(lambda what: None)

        def check(_: None) -> None:
            self.assertEqual(said, [("on my way", True)])
            self.assertEqual((there[0] is here, there[0].daemon), (False, True))
            self.assertEqual(workshop.last.stops, 1)

        return Deferred.fromCoroutine(launch()).addCallback(check)

    def test_hung_script(self) -> None:
        """A script that hangs does not keep the pool from being stopped."""
        pool = self.pool(1)
        free = threading.Event()
        self.addCleanup(wait_until, lambda: not pool.working)
        self.addCleanup(free.set)
        pool.callInThread(free.wait)
        wait_until(lambda: pool.working)
        pool.stop()
        self.assertEqual(len(pool.working), 1)


class OwnThreadTests(TestCase):
    def run_here(self, function: Any) -> Deferred[Any]:
        from twisted.internet import reactor

        return in_own_thread(reactor, function)

    def test_result(self) -> Any:
        """A function runs in a thread that does not keep the process alive."""
        d = self.run_here(threading.current_thread)
        return d.addCallback(lambda thread: self.assertTrue(thread.daemon))

    def test_failure(self) -> Any:
        """What it raises comes back, too."""
        return self.assertFailure(self.run_here(lambda: 1 / 0), ZeroDivisionError)

    def test_no_thread(self) -> None:
        """A host that allows no more threads is a failure, not an exception."""

        def start(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        self.patch(DaemonThread, "start", start)
        self.failureResultOf(self.run_here(lambda: None), RuntimeError)
