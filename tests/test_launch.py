from __future__ import annotations

from collections import OrderedDict
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import ADDRESS, FakeFamily, FakeScript, Threads, Workshop, make_offer
from wsserver.errors import BadRequest, ServiceFailed, StartTimeout, WSServerError
from wsserver.launch import DEFAULT_SOCKET, Instance, Launcher
from wsserver.offers import Script
from wsserver.threads import Worker

SECRET = "password is hunter2"

NONSENSE: list[Any] = [
    None,
    (),
    [],
    {},
    "",
    "127.0.0.1:5900",
    5900,
    ("127.0.0.1",),
    ("127.0.0.1", 5900, 1),
    ("127.0.0.1", "5900"),
    ("127.0.0.1", 5900.0),
    ("127.0.0.1", 0),
    ("127.0.0.1", -1),
    ("127.0.0.1", 65536),
    ("127.0.0.1", True),
    ("127.0.0.1", None),
    ("", 5900),
    ("  ", 5900),
    (None, 5900),
    (b"127.0.0.1", 5900),
    (5900, "127.0.0.1"),
    {"127.0.0.1", 5900},
    {"vnc": None},
    {"vnc": "127.0.0.1:5900"},
    {"vnc": ADDRESS, "http": ("127.0.0.1", 0)},
    {5900: ADDRESS},
    {None: ADDRESS},
    [ADDRESS, ADDRESS],
    object(),
    iter(ADDRESS),
]


class LaunchTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.threads = Threads()
        self.said: list[str] = []
        self.shared: list[Any] = []
        self.hangs: list[tuple[float, str]] = []
        self.family = FakeFamily()

    def instance(self, workshop: Workshop | None = None, create: Any = None) -> Instance:
        """Prepare an instance whose start may take 30 seconds, and its stop 10."""
        self.workshop = workshop or Workshop()
        self.workshop.attributes["family"] = self.family
        run, call = self.threads.run, self.threads.call_from_thread
        launcher = Launcher(Worker(self.clock, run, call))
        script = Script(create or self.workshop.create)
        offer = make_offer(script=script, options={"a": 1}, start_timeout=30.0, stop_timeout=10.0)
        return launcher.prepare(offer, 1, {"b": "2"}, self.said.append, self.shared.append)

    def stop(self, instance: Instance) -> Deferred[None]:
        return instance.stop(lambda what: self.hangs.append((self.clock.seconds(), what)))

    def failed_start(self, workshop: Workshop | None = None, create: Any = None) -> tuple[str, str]:
        """Let a start fail; return the public message, and what was logged."""
        with capturedLogs() as events:
            d = self.instance(workshop, create).start()
            self.finish_all()
        failure = self.failureResultOf(d, ServiceFailed)
        self.assert_no_timer()
        return str(failure.value), "\n".join(formatEvent(event) for event in events)

    def finish_all(self) -> None:
        """Finish every job, and those that they lead to."""
        while self.threads.jobs:
            self.threads.finish()

    def assert_no_timer(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])


class StartTests(LaunchTestCase):
    def test_start(self) -> None:
        """The script is made with what it is to know, and says where it listens."""
        d = self.instance().start()
        self.assertNoResult(d)
        self.threads.finish()
        self.assertEqual(self.successResultOf(d), {DEFAULT_SOCKET: ADDRESS})
        self.assertEqual(self.workshop.last.created_with, ("Demo", 1, {"a": 1}, {"b": "2"}))
        self.assertFalse(self.workshop.last.cancelled_at_start)
        self.assert_no_timer()

    def test_in_a_thread(self) -> None:
        """Not even the making of a script happens in the thread of the reactor."""
        self.instance().start()
        self.assertEqual(self.workshop.made, [])

    def test_named_sockets(self) -> None:
        """A service may name several sockets; their order is kept, the first is the default."""
        reply = OrderedDict(vnc=["localhost", 5901], http=("::1", 8080))
        d = self.instance(Workshop(reply=reply)).start()
        self.threads.finish()
        found = self.successResultOf(d)
        self.assertEqual(
            list(found.items()), [("vnc", ("localhost", 5901)), ("http", ("::1", 8080))]
        )

    def test_edge_of_ports(self) -> None:
        """The first port and the last are ports; a list is as good as a tuple."""
        for reply in (("h", 1), ["h", 65535]):
            d = self.instance(Workshop(reply=reply)).start()
            self.threads.finish()
            self.assertEqual(self.successResultOf(d), {DEFAULT_SOCKET: tuple(reply)})

    def test_progress(self) -> None:
        """What a script says on its way is passed on."""
        self.instance(Workshop(says="warming\nup")).start()
        self.threads.finish()
        self.assertEqual(self.said, ["warming up"])


class FailedStartTests(LaunchTestCase):
    def test_raising(self) -> None:
        """An exception is not told to the user; the log has it, with what was printed."""
        message, log = self.failed_start(Workshop(reply=KeyError(SECRET), printed="the tail"))
        self.assertEqual(message, "the service could not be started")
        for words in ("Demo 1: failed", "Traceback", "KeyError", SECRET, "the tail"):
            self.assertIn(words, log)

    def test_exiting(self) -> None:
        """A script that exits ends its session, and nothing else."""
        message, log = self.failed_start(Workshop(reply=SystemExit(SECRET)))
        self.assertEqual(message, "the service could not be started")
        self.assertIn("SystemExit", log)

    def test_service_failed(self) -> None:
        """The message of a ServiceFailed is meant for the user."""
        message, log = self.failed_start(Workshop(reply=ServiceFailed("no licence")))
        self.assertEqual(message, "no licence")
        self.assertIn("no licence", log)

    def test_other_deliberate_error(self) -> None:
        """Any deliberate error is passed on as it is."""
        d = self.instance(Workshop(reply=BadRequest("no such file"))).start()
        self.threads.finish()
        self.assertEqual(str(self.failureResultOf(d, BadRequest).value), "no such file")

    def test_create_raising(self) -> None:
        """A script that cannot even be made is a failed start."""
        message, log = self.failed_start(create=lambda *args: 1 / 0)
        self.assertEqual(message, "the service could not be started")
        self.assertIn("ZeroDivisionError", log)

    def test_create_nonsense(self) -> None:
        """What `create` returns must be a service script."""
        for made in (None, 3, "x", object, Workshop):
            message, log = self.failed_start(create=lambda *args, made=made: made)
            self.assertEqual(message, "the service could not be started")
            self.assertIn("which is no RemoteServiceScript", log)

    def test_half_made(self) -> None:
        """A script that forgets the __init__ of its base class could never be cancelled."""

        class Forgetful(FakeScript):
            def __init__(self, *args: Any) -> None:
                pass

        message, log = self.failed_start(create=Forgetful)
        self.assertEqual(message, "the service could not be started")
        self.assertIn("Forgetful: __init__ must call super().__init__", log)

    def test_nonsense(self) -> None:
        """A reply that is no address, nor names of addresses, is a failed start."""
        for reply in NONSENSE:
            with self.subTest(reply=reply):
                message, log = self.failed_start(Workshop(reply=reply))
                self.assertEqual(message, "the service did not say where it listens")
                self.assertIn(f"start returned {reply!r}, which is no address", log)

    def test_stopped_after_failure(self) -> None:
        """What a failed start left behind is stopped."""
        instance = self.instance(Workshop(reply=KeyError("x")))
        self.failureResultOf(self.finished(instance.start()), ServiceFailed)
        d = self.stop(instance)
        # The output is read for the log before the stop.
        self.threads.finish()
        self.assertEqual(self.workshop.last.stops, 0)
        self.finish_all()
        self.successResultOf(d)
        self.assertEqual(self.workshop.last.stops, 1)

    def test_broken_output(self) -> None:
        """A script whose output cannot be read fails as any other."""

        def output() -> str:
            raise OSError("stale handle")

        message, log = self.failed_start(Workshop(reply=ServiceFailed("no licence"), output=output))
        self.assertEqual(message, "no licence")
        self.assertIn("no output: OSError('stale handle')", log)

    def finished(self, d: Deferred[Any]) -> Deferred[Any]:
        self.threads.finish()
        return d


class TimeoutTests(LaunchTestCase):
    def test_hanging(self) -> None:
        """A start that hangs fails at its time limit, and is told that nobody waits."""
        d = self.instance().start()
        deliver = self.threads.begin()
        self.clock.advance(29.9)
        self.assertNoResult(d)
        self.assertFalse(self.workshop.last.cancelled.is_set())
        self.clock.advance(0.1)
        failure = self.failureResultOf(d, StartTimeout)
        self.assertEqual(str(failure.value), "Demo did not start within 30 s")
        self.assertTrue(self.workshop.last.cancelled.is_set())
        deliver()
        self.assert_no_timer()

    def test_log(self) -> None:
        """The log has what a hanging start has printed."""
        self.instance(Workshop(printed="the tail")).start().addErrback(lambda _: None)
        self.threads.begin()
        with capturedLogs() as events:
            self.clock.advance(30)
            self.finish_all()
        (line,) = map(formatEvent, events)
        self.assertEqual(line, "Demo 1: failed: Demo did not start within 30 s\nthe tail")

    def test_late_result(self) -> None:
        """A start that comes home too late is stopped, never adopted."""
        instance = self.instance()
        d = instance.start()
        deliver = self.threads.begin()
        self.clock.advance(30)
        self.failureResultOf(d, StartTimeout)
        self.finish_all()
        stopped = self.stop(instance)
        self.assertEqual(self.threads.jobs, [])
        deliver()
        self.finish_all()
        self.successResultOf(stopped)
        self.assertEqual((self.workshop.last.stops, self.hangs), (1, []))
        self.assert_no_timer()

    def test_late_failure(self) -> None:
        """A start that fails too late is no news: it was given up."""
        d = self.instance(Workshop(reply=KeyError(SECRET))).start()
        deliver = self.threads.begin()
        self.clock.advance(30)
        self.failureResultOf(d, StartTimeout)
        with capturedLogs() as events:
            deliver()
        self.assertEqual([e["log_level"].name for e in events], ["debug"])

    def test_not_yet_made(self) -> None:
        """A start that never got a thread knows from its beginning that nobody waits."""
        d = self.instance().start()
        self.clock.advance(30)
        self.failureResultOf(d, StartTimeout)
        self.threads.finish()
        self.assertTrue(self.workshop.last.cancelled_at_start)


class WatchTests(LaunchTestCase):
    """A script may look after its service once that has started."""

    def watched(self, period: float | None = 5.0) -> tuple[Instance, list[WSServerError]]:
        """Start an instance and watch it; return it and what becomes lost."""
        self.outcome: Exception | None = None
        look = self.look
        instance = self.instance(
            Workshop(watch_period=period, printed="the tail", check_running=look)
        )
        d = instance.start()
        self.threads.finish()
        self.successResultOf(d)
        lost: list[WSServerError] = []
        instance.watch(lost.append)
        return instance, lost

    def look(self) -> None:
        if self.outcome is not None:
            raise self.outcome

    def test_no_watch(self) -> None:
        """A script that wants no watch is left alone."""
        self.watched(None)
        self.assertEqual((self.threads.jobs, self.clock.getDelayedCalls()), ([], []))

    def test_before_start(self) -> None:
        """What is not started is not watched."""
        self.instance(Workshop(watch_period=1.0)).watch(lambda error: None)
        self.assert_no_timer()

    def test_lost(self) -> None:
        """The end of the service is told once, in the words of the script, and logged."""
        _, lost = self.watched()
        self.clock.advance(5)
        self.threads.finish()
        self.assertEqual(lost, [])
        self.outcome = ServiceFailed("the job was cancelled")
        self.clock.advance(5)
        with capturedLogs() as events:
            self.finish_all()
        self.assertEqual([str(error) for error in lost], ["the job was cancelled"])
        self.assertIn("the tail", formatEvent(events[-1]))
        self.assert_no_timer()

    def test_bug(self) -> None:
        """A bug of a script ends the session, too; its details stay in the log."""
        _, lost = self.watched()
        self.outcome = KeyError("hunter2")
        self.clock.advance(5)
        self.threads.finish()
        self.assertNotIn("hunter2", str(lost[0]))

    def test_no_thread(self) -> None:
        """A look that the host has no thread for says nothing; the next one counts."""
        _, lost = self.watched()
        self.threads.refusals = 1
        self.clock.advance(5)
        self.assertEqual((self.threads.jobs, lost), ([], []))
        self.outcome = ServiceFailed("gone")
        self.clock.advance(5)
        self.finish_all()
        self.assertEqual([str(error) for error in lost], ["gone"])

    def test_slow(self) -> None:
        """A look that takes long is not overtaken by the next."""
        self.watched()
        self.clock.advance(5)
        self.clock.advance(60)
        self.assertEqual(len(self.threads.jobs), 1)

    def test_stopped(self) -> None:
        """Once the instance is being stopped, nothing is lost any more."""
        instance, lost = self.watched()
        self.outcome = ServiceFailed("gone")
        self.clock.advance(5)
        stopped = self.stop(instance)
        self.finish_all()
        self.successResultOf(stopped)
        self.assertEqual(lost, [])
        self.assert_no_timer()


class ToldTests(LaunchTestCase):
    def test_last_progress(self) -> None:
        """A start that takes too long ends with what was said last."""
        instance = self.instance(Workshop(says="queued, position 3"))
        d = instance.start()
        deliver = self.threads.begin()
        self.clock.advance(30)
        error = self.failureResultOf(d, StartTimeout).value
        self.assertEqual(str(error), "Demo did not start within 30 s: queued, position 3")
        deliver()

    def test_share(self) -> None:
        """What the script shares comes to the thread of the reactor, and into no log."""
        instance = self.instance()
        d = instance.start()
        with capturedLogs() as events:
            self.threads.finish()
            self.workshop.last.share(password="canary")
        self.successResultOf(d)
        self.assertEqual(self.shared, [{"password": "canary"}])
        self.assertNotIn("canary", repr(events))

    def test_ended(self) -> None:
        """The end of a service that ended by itself is logged with its last words."""
        instance = self.instance(Workshop(printed="bye"))
        instance.start()
        self.threads.finish()
        with capturedLogs() as events:
            instance.log_ended()
            self.finish_all()
        self.assertEqual(formatEvent(events[0]), "Demo 1: the service has ended\nbye")
