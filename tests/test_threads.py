from __future__ import annotations

import threading
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from tests.fakes import ADDRESS, Workshop, make_offer
from wsserver.launch import DEFAULT_SOCKET, Launcher
from wsserver.offers import Script
from wsserver.threads import NoThread, Worker, in_own_thread


class WorkerTests(TestCase):
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

        launcher = Launcher(Worker.on(reactor))
        instance = launcher.prepare(make_offer(script=Script(create)), 0, {}, note, note)

        async def launch() -> None:
            self.assertEqual(await instance.start(), {DEFAULT_SOCKET: ADDRESS})
            await instance.stop(lambda what: None)

        def check(_: None) -> None:
            self.assertEqual(said, [("on my way", True)])
            self.assertEqual((there[0] is here, there[0].daemon), (False, True))
            self.assertEqual(workshop.last.stops, 1)

        return Deferred.fromCoroutine(launch()).addCallback(check)


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

        self.patch(threading.Thread, "start", start)
        self.failureResultOf(self.run_here(lambda: None), NoThread)

    def test_hung(self) -> Any:
        """However many hang, the next one runs."""
        free = threading.Event()
        hung = [self.run_here(free.wait) for _ in range(200)]

        def next_one(result: str) -> Any:
            self.assertEqual((result, [d.called for d in hung]), ("home", [False] * 200))
            free.set()
            return gatherResults(hung)

        return self.run_here(lambda: "home").addCallback(next_one)
