"""An instance has ended when its threads are home and its processes are gone."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import capturedLogs

from tests.fakes import Workshop
from tests.test_launch import SECRET, LaunchTestCase
from wsserver.ending import RETRY
from wsserver.errors import ServiceFailed
from wsserver.launch import Instance
from wsserver.threads import NoThread


class StopTests(LaunchTestCase):
    def running(self, workshop: Workshop | None = None) -> Instance:
        """Return an instance that has started."""
        instance = self.instance(workshop)
        d = instance.start()
        self.threads.finish()
        self.successResultOf(d)
        return instance

    def test_stop(self) -> None:
        """The end of an instance is the end of its script's stop, and then of its processes."""
        d = self.stop(self.running())
        self.assertNoResult(d)
        self.threads.finish()
        self.assertEqual((self.workshop.last.stops, self.family.ends), (1, []))
        self.assertNoResult(d)
        self.threads.finish()
        self.successResultOf(d)
        self.assertEqual((self.family.ends, self.hangs), (["close"], []))
        self.assert_no_timer()

    def test_never_started(self) -> None:
        """An instance that was never started has nothing to stop."""
        self.successResultOf(self.stop(self.instance()))
        self.assertEqual((self.threads.jobs, self.workshop.made), ([], []))
        self.assert_no_timer()

    def test_hung(self) -> None:
        """Where stop hangs the processes are ended without it; it is over when stop is home."""
        d = self.stop(self.running())
        deliver = self.threads.begin()
        self.clock.advance(9.9)
        self.assertEqual((self.hangs, self.threads.jobs), ([], []))
        self.clock.advance(0.1)
        self.threads.finish()
        self.assertEqual(self.family.ends, ["end"])
        self.clock.advance(1000)
        self.assertEqual(set(self.hangs), {(10.0, "stop has not returned")})
        self.assertNoResult(d)
        deliver()
        self.assertNoResult(d)
        # What it has begun in the meantime is ended, too.
        self.threads.finish()
        self.successResultOf(d)
        self.assertEqual(self.family.ends, ["end", "close"])
        self.assert_no_timer()

    def test_still_running(self) -> None:
        """Processes that do not end keep the slot, and are named."""
        self.family.left = [["Xvnc 12", "sh 13"], ["sh 13"], []]
        d = self.stop(self.running())
        self.threads.finish()
        self.clock.advance(10)
        deliver = self.threads.begin()
        self.assertEqual(
            [what for _, what in self.hangs][1:],
            [
                "still running: Xvnc 12, sh 13",
                "still running: sh 13",
                "still running: what we cannot see",
            ],
        )
        self.assertNoResult(d)
        deliver()
        self.successResultOf(d)

    def test_cannot_be_ended(self) -> None:
        """Where the end of the processes fails, it is tried again until it does not."""
        self.family.failures = 2
        d = self.stop(self.running())
        self.threads.finish()
        for _ in range(2):
            self.threads.finish()
            self.assertNoResult(d)
            self.clock.advance(RETRY)
        self.threads.finish()
        self.successResultOf(d)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)
        self.assert_no_timer()

    def test_no_thread(self) -> None:
        """Where the host has no thread for stop, or for the end, both are done when it has."""
        instance = self.running()
        self.threads.refusals = 2
        d = self.stop(instance)
        for _ in range(2):
            self.assertEqual(self.threads.jobs, [])
            self.clock.advance(RETRY)
        self.threads.refusals = 1
        self.threads.finish()
        self.assertEqual((self.workshop.last.stops, self.family.ends), (1, []))
        self.clock.advance(RETRY)
        self.threads.finish()
        self.successResultOf(d)
        self.assertEqual((self.workshop.last.stops, self.family.ends), (1, ["close"]))
        self.assertEqual(len(self.flushLoggedErrors(NoThread)), 1)
        self.assert_no_timer()

    def test_never_a_thread(self) -> None:
        """A start that the host had no thread for has failed, and is ended at once."""
        instance = self.instance()
        self.threads.refusals = 1
        self.failureResultOf(instance.start(), ServiceFailed)
        self.successResultOf(self.stop(instance))
        self.assertEqual(self.workshop.made, [])
        self.assert_no_timer()

    def test_raising(self) -> None:
        """A stop that raises, or exits, is logged, and its processes are ended."""
        for error in (KeyError(SECRET), SystemExit(3)):
            d = self.stop(self.running(Workshop(stop_error=error)))
            self.finish_all()
            self.successResultOf(d)
            self.assertEqual(len(self.flushLoggedErrors(type(error))), 1)
        self.assertEqual(self.family.ends, ["close"] * 2)

    def test_create_raised(self) -> None:
        """Where no script was made there is nothing to stop."""
        instance = self.instance(create=lambda *args: 1 / 0)
        self.failureResultOf(self.finish(instance.start()), ServiceFailed)
        self.successResultOf(self.stop(instance))
        self.assertEqual(self.threads.jobs, [])

    def finish(self, d: Deferred[Any]) -> Deferred[Any]:
        self.threads.finish()
        return d


class StopWhileStartingTests(LaunchTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.launched = self.instance()
        self.started = self.launched.start()

    def test_cancelled(self) -> None:
        """A start that notices that nobody waits is stopped once, as soon as it is home."""
        deliver = self.threads.begin()
        d = self.stop(self.launched)
        self.assertTrue(self.workshop.last.cancelled.is_set())
        self.assertEqual(self.threads.jobs, [])
        deliver()
        self.finish_all()
        self.successResultOf(d)
        self.successResultOf(self.started)
        self.assertEqual((self.workshop.last.stops, self.family.ends), (1, ["close"]))
        self.assert_no_timer()

    def test_deaf(self) -> None:
        """A start that does not notice is stopped in its tracks, and again when it is home."""
        deliver = self.threads.begin()
        d = self.stop(self.launched)
        self.clock.advance(5)
        self.finish_all()
        self.assertEqual((self.workshop.last.stops, self.family.ends), (1, ["end"]))
        self.assertNoResult(d)
        self.clock.advance(5)
        self.assertEqual(self.hangs, [(10.0, "start has not returned")])
        deliver()
        self.finish_all()
        self.successResultOf(d)
        self.assertEqual((self.workshop.last.stops, self.family.ends), (2, ["end", "close"]))
        self.clock.advance(60)
        self.successResultOf(self.started)
        self.assert_no_timer()

    def test_home_during_stop(self) -> None:
        """What a start began while its stop was under way is stopped, too."""
        deliver = self.threads.begin()
        d = self.stop(self.launched)
        self.clock.advance(5)
        deliver()
        self.threads.finish()
        self.assertNoResult(d)
        self.finish_all()
        self.successResultOf(d)
        self.assertEqual((self.workshop.last.stops, self.family.ends[-1]), (2, "close"))

    def test_no_thread_yet(self) -> None:
        """A start that has no thread yet is stopped once it had one."""
        d = self.stop(self.launched)
        self.clock.advance(5)
        self.assertEqual(self.workshop.made, [])
        self.threads.finish()
        self.assertTrue(self.workshop.last.cancelled_at_start)
        self.finish_all()
        self.successResultOf(d)
        self.assertEqual(self.workshop.last.stops, 1)

    def test_failure_is_quiet(self) -> None:
        """That a cancelled start fails is no news."""
        self.workshop.attributes["reply"] = ServiceFailed("the start was cancelled")
        with capturedLogs() as events:
            d = self.stop(self.launched)
            self.finish_all()
        self.successResultOf(d)
        self.failureResultOf(self.started, ServiceFailed)
        self.assertEqual(events, [])

    def test_nobody_wants_it(self) -> None:
        """A result that its caller has cancelled is dropped."""
        self.started.cancel()
        self.failureResultOf(self.started, CancelledError)
        self.threads.finish()
        self.assert_no_timer()


class OutputTests(LaunchTestCase):
    def test_unreadable_output(self) -> None:
        """A script whose output hangs does not keep its programs from being ended."""
        instance = self.instance()
        instance.start()
        self.threads.finish()
        instance.log_ended()
        deliver = self.threads.begin()
        d = self.stop(instance)
        self.assertEqual(self.threads.jobs, [])
        self.clock.advance(5)
        self.finish_all()
        self.successResultOf(d)
        self.assertEqual((self.workshop.last.stops, self.family.ends), (1, ["close"]))
        deliver()
        self.assert_no_timer()
