"""Whatever happens, in whatever order: one start, an end for each start, no slot lost.

A state machine drives the real desk, sessions and launcher: people reserve, come, race
and leave; threads run and come home when the machine says so; time passes; the server
reloads and shuts down.  ``SCHEDULES=5000`` tries so many random schedules instead of
the few, always the same, of a plain run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import ADDRESS, FakeFamily, FakeScript, FakeSeat, Threads, make_desk, make_offer
from wsserver.desk import SWEEP_PERIOD
from wsserver.errors import (
    AtCapacity,
    ConnectFailed,
    NoSuchToken,
    ServiceFailed,
    ShuttingDown,
    TokenInUse,
    WSServerError,
)
from wsserver.launch import Launcher
from wsserver.lifecycle import ENDED, Phase, Reservation
from wsserver.offers import Offer, Script
from wsserver.sessions import Session, Sessions
from wsserver.threads import Worker

UNUSED = 30.0
#: Short ones, which the steps of time below hit exactly, just miss, and jump over.
TIMES = {
    "start_timeout": 8.0,
    "stop_timeout": 4.0,
    "max_duration": 20.0,
    "idle_timeout": 12.0,
}
TICK = 2.0**-10  # so that sums are exact
STEPS = [TICK, 0.5, 1 - TICK, 1.0, 1.0, 2.0, 2.0, 4 - TICK, 4.0, 8.0, 12.0, 30 - TICK, 30.0]
#: What a start may come to; exceptions are made anew each time.
REPLIES: dict[str, Callable[[], Any]] = {
    "an address": lambda: ADDRESS,
    "two addresses": lambda: {"vnc": ADDRESS, "http": ADDRESS},
    "nonsense": lambda: "localhost",
    "a reason": lambda: ServiceFailed("no licence"),
    "a bug": lambda: ZeroDivisionError("inner"),
    "an exit": lambda: SystemExit("bye"),
}
#: How many websockets may share a token of each service.
SHARES = {"Alone": 1, "Shared": 3}
#: All that may become of a script.  A start that is still away when a stop is asked for
#: is waited for, and stopped once more.
PATHS = {
    (),
    ("start", "started", "asked", "stop", "stopped"),
    ("start", "asked", "started", "stop", "stopped", "asked", "stop", "stopped"),
    ("start", "asked", "stop", "started", "stopped", "asked", "stop", "stopped"),
    ("start", "asked", "stop", "stopped", "started", "asked", "stop", "stopped"),
}
BEGINNINGS = {path[:n] for path in PATHS for n in range(len(path) + 1)}

choice = st.integers(0, 1_000)


class Bench(Threads):
    """Threads that run a job at one time, and come home with the result at another."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way: list[Callable[[], None]] = []
        self.at_home: Callable[[], object] = lambda: None

    def run(self, job: Callable[[], Any]) -> Deferred[Any]:
        """Take a job on; a script is told that its stop is asked for."""
        if isinstance(script := getattr(job, "__self__", None), Told) and job == script.stop:
            script.asked()
        return super().run(job)

    def work(self, which: int) -> None:
        """Run one of the waiting jobs."""
        self.at_home = lambda: None
        deliver = self.begin(which % len(self.jobs))
        at_home = self.at_home

        def home() -> None:
            at_home()
            deliver()

        self.under_way.append(home)

    def come_home(self, which: int) -> None:
        """Let the reactor hear of one of the results."""
        self.under_way.pop(which % len(self.under_way))()


class Told(FakeScript):
    """A script with a history: what it was asked, and when the reactor heard the answer.

    ``waited`` tells whether a start that is away was waited for long enough.
    """

    def __init__(self, bench: Bench, *args: Any) -> None:
        super().__init__(*args)
        self.bench = bench
        self.family = FakeFamily()  # type: ignore[assignment]
        self.history: list[str] = []
        self.dead = False
        self.waited: Callable[[], bool] = lambda: True

    def start(self) -> Any:
        self._note("start", "started")
        return super().start()

    def stop(self) -> None:
        self._note("stop", "stopped")
        super().stop()

    def asked(self) -> None:
        assert "started" in self.history or self.waited()
        self.history.append("asked")

    def check_running(self) -> None:
        if self.dead:
            raise ServiceFailed("the service has died")

    def _note(self, now: str, at_home: str) -> None:
        self.history.append(now)
        self.bench.at_home = lambda: self.history.append(at_home)


class Visitor(FakeSeat):
    """A websocket: it waits for the service, is joined to it, and leaves."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self.token = token
        self.session: Session | None = None
        self.found = False

    def sit(self, sessions: Sessions, launch: bool) -> None:
        self.session = sessions.join(self.token, self)
        if launch:
            self.waiting: Deferred[Any] = self.session.addresses()
            self.waiting.addCallbacks(self._finds, self._fails)

    @property
    def ready(self) -> bool:
        """Whether it may be joined to the service now."""
        return self.found and not self.dismissals

    def leave(self) -> None:
        """Go, whatever there is to wait for, as a tunnel does."""
        assert self.session is not None
        if hasattr(self, "waiting"):
            self.waiting.cancel()
        self.session.leave(self)

    def _finds(self, _: object) -> None:
        self.found = True

    def _fails(self, failure: Failure) -> None:
        failure.trap(WSServerError, CancelledError)


class Schedules(RuleBasedStateMachine):
    """One server; every rule is something that can happen to it at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.bench = Bench()
        self.scripts: dict[str, Told] = {}
        self.desk = make_desk(self.clock, *self.offers(2, 1), timeout=UNUSED)
        run = self.bench.run
        launcher = Launcher(Worker(self.clock, run, self.bench.call_from_thread))
        self.sessions = Sessions(self.desk, launcher, self.clock)
        self.minted: list[Reservation] = []
        self.phases: dict[str, Phase] = {}
        self.visitors: list[Visitor] = []
        self.plans: dict[str, dict[str, Any]] = {}
        self.endings: list[tuple[Reservation, float]] = []
        self.desk.watch(self.see)
        self.open()

    def offers(self, alone: int, shared: int) -> list[Offer]:
        """The services, with so many instances each."""
        script = Script(self.create)
        rest: dict[str, Any] = {"script": script, **TIMES}
        return [
            make_offer("Alone", alone, max_connections=SHARES["Alone"], **rest),
            make_offer("Shared", shared, max_connections=SHARES["Shared"], **rest),
        ]

    def create(self, *args: Any) -> Told:
        """Make the script of a reservation, whose options tell which one it is."""
        key = args[3]["plan"]
        plan = self.plans[key]
        if plan["cannot_create"]:
            raise KeyError("no script today")
        script = self.scripts[key] = Told(self.bench, *args)
        script.reply = REPLIES[plan["reply"]]()
        script.stop_error = OSError("stop is broken") if plan["cannot_stop"] else None
        script.watch_period = plan["watch_period"]
        script.waited = partial(self.waited_for_start, key)
        return script

    def waited_for_start(self, plan: str) -> bool:
        """Whether a stop may overtake the start of a reservation that has been ended."""
        (ending,) = (at for r, at in self.endings if r.options["plan"] == plan)
        return self.clock.seconds() - ending >= TIMES["stop_timeout"] / 2

    def open(self) -> None:
        """Start the server, again or for the first time."""
        self.closed = False
        self.desk.startService()
        self.sessions.startService()

    def see(self, reservation: Reservation) -> None:
        """Watch a reservation: what has ended stays ended."""
        before = self.phases.get(reservation.token)
        assert before is None or before not in ENDED, f"{before} is not the end"
        self.phases[reservation.token] = reservation.phase
        if reservation.phase is Phase.STOPPING:
            self.endings.append((reservation, self.clock.seconds()))

    def token(self, which: int) -> str:
        """One of the tokens that were ever made, the newest sooner."""
        return self.minted[-1 - which % min(len(self.minted), 6)].token

    def live(self, token: str) -> Reservation | None:
        return next((r for r in self.desk.live() if r.token == token), None)

    # -- people

    @rule(
        name=st.sampled_from(sorted(SHARES)),
        reply=st.sampled_from(list(REPLIES)),
        cannot_stop=st.sampled_from([False, False, True]),
        cannot_create=st.sampled_from([False, False, False, True]),
        watch_period=st.sampled_from([None, 1.0]),
    )
    def reserve(self, name: str, **plan: Any) -> None:
        """Somebody reserves: a free slot is given, a full service refuses."""
        key = str(len(self.plans))
        self.plans[key] = plan
        free = self.desk.free(name)
        try:
            made = self.desk.reserve(name, {"plan": key})
        except AtCapacity:
            assert free == 0
        except ShuttingDown:
            assert self.closed
        else:
            assert free > 0
            assert not self.closed
            self.minted.append(made)

    @precondition(lambda self: self.minted)
    @rule(
        which=choice,
        racers=st.sampled_from([1, 1, 2, 20]),
        launch=st.sampled_from([True] * 3 + [False]),
    )
    def race(self, which: int, racers: int, launch: bool) -> None:
        """Websockets come with one token: as many get in as may share it."""
        token = self.token(which)
        before = self.live(token)
        joinable = before is not None and before.joinable and not self.closed
        if before is not None and before.phase is Phase.RESERVED:
            joinable &= self.clock.seconds() - before.since < UNUSED
        seated = sum(v.token == token for v in self.visitors)
        room = SHARES[before.service] - seated if before is not None and joinable else 0
        admitted = [v for v in (Visitor(token) for _ in range(racers)) if self.admitted(v, launch)]
        assert len(admitted) == min(racers, room), (len(admitted), room)
        self.visitors += admitted

    def admitted(self, visitor: Visitor, launch: bool) -> bool:
        try:
            visitor.sit(self.sessions, launch)
        except (NoSuchToken, TokenInUse, ShuttingDown):
            return False
        return True

    @precondition(lambda self: self.visitors)
    @rule(which=choice)
    def leave(self, which: int) -> None:
        """A websocket is gone; only the last of its session takes that along."""
        visitor = self.visitors.pop(which % len(self.visitors))
        before = self.phases[visitor.token]
        visitor.leave()
        if any(v.token == visitor.token for v in self.visitors):
            assert self.phases[visitor.token] is before

    @precondition(lambda self: any(v.ready for v in self.visitors))
    @rule(which=choice, what=st.sampled_from(["opened", "opened", "touch", "finished", "failed"]))
    def meet(self, which: int, what: str) -> None:
        """A websocket is joined to its service, moves bytes, or finds the service gone."""
        ready = [v for v in self.visitors if v.ready]
        session = ready[which % len(ready)].session
        assert session is not None
        if what == "failed":
            session.failed(ConnectFailed("the service does not answer"))
        else:
            getattr(session, what)()

    @precondition(lambda self: self.minted)
    @rule(which=choice)
    def release(self, which: int) -> None:
        """Somebody gives a token up: whatever is live may be, again and again."""
        token = self.token(which)
        live = self.live(token) is not None
        try:
            self.desk.release(token)
        except NoSuchToken:
            assert not live
        else:
            assert live

    # -- threads and services

    @precondition(lambda self: self.bench.jobs)
    @rule(which=choice, whole=st.booleans())
    def work(self, which: int, whole: bool) -> None:
        """A thread does what it was asked: create and start, stop, look, say what was printed."""
        self.bench.work(which)
        if whole:
            self.bench.come_home(-1)

    @precondition(lambda self: self.bench.under_way)
    @rule(which=choice)
    def come_home(self, which: int) -> None:
        """A thread is done."""
        self.bench.come_home(which)

    @precondition(lambda self: not self.closed)
    @rule(name=st.sampled_from(sorted(SHARES)), watch_period=st.sampled_from([None, 1.0]))
    def visit(self, name: str, watch_period: float | None) -> None:
        """All goes well, as far as an open session."""
        plan = {"reply": "an address", "cannot_stop": False, "cannot_create": False}
        made = len(self.minted)
        self.reserve(name, watch_period=watch_period, **plan)
        if len(self.minted) > made:
            self.race(0, 1, True)
            self.work(-1, True)
            self.visitors[-1].session.opened()

    @precondition(lambda self: self.scripts)
    @rule(which=choice)
    def die(self, which: int) -> None:
        """A service ends by itself."""
        list(self.scripts.values())[which % len(self.scripts)].dead = True

    # -- the server

    @rule(step=st.sampled_from(STEPS))
    def wait(self, step: float) -> None:
        """Time passes."""
        self.clock.advance(step)

    @rule(alone=st.integers(1, 3), shared=st.integers(1, 2))
    def reload(self, alone: int, shared: int) -> None:
        """The service file says something else now."""
        self.desk.offers = {o.spec.name: o for o in self.offers(alone, shared)}

    @precondition(lambda self: len(self.minted) > 2)
    @rule(again=st.sampled_from([True, True, False]))
    def shut_down(self, again: bool) -> None:
        """The server stops, and may be started again in the same process."""
        self.closed = True
        self.desk.stopService()
        self.sessions.stopService()
        if again:
            self.open()

    # -- what always holds

    @invariant()
    def holds(self) -> None:
        """All of it, at every step."""
        self.slots_are_right()
        self.starts_and_stops_match()
        self.deadlines_hold()

    def slots_are_right(self) -> None:
        """Live reservations have indexes of their own, and none is beyond the limits."""
        live = self.desk.live()
        assert len({(r.service, r.index) for r in live}) == len(live)
        for name, offer in self.desk.offers.items():
            held = sum(r.service == name for r in live)
            assert self.desk.free(name) == max(0, offer.spec.count - held)
        assert {r.token for r in live} == {t for t, p in self.phases.items() if p not in ENDED}
        running = {r.token for r in live if r.phase is not Phase.RESERVED}
        assert set(self.sessions._by_token) == running

    def starts_and_stops_match(self) -> None:
        """One start at most; the stop that counts begins after it; then nothing is left.

        A start that comes home after its stop has begun is stopped once more.
        """
        for reservation in self.minted:
            script = self.scripts.get(reservation.options["plan"])
            if script is None:
                continue
            history, ends = tuple(script.history), script.family.ends
            phase = self.phases[reservation.token]
            assert history in BEGINNINGS, history
            if phase in ENDED:
                assert history in PATHS, (phase, history)
                assert ends[-1] == "close"
            elif phase not in (Phase.STOPPING, Phase.QUARANTINED):
                assert "asked" not in history, (phase, history)
                assert not ends

    def deadlines_hold(self) -> None:
        """No phase with a limit lasts longer."""
        for r in self.desk.live():
            age = self.clock.seconds() - r.since
            if r.phase is Phase.RESERVED and not self.closed:
                assert age < UNUSED + SWEEP_PERIOD
            elif r.phase is Phase.OPEN:
                assert age < TIMES["max_duration"]
            elif r.phase is Phase.STOPPING:
                assert age < TIMES["stop_timeout"]

    def teardown(self) -> None:
        """When everybody has left and every thread is home, nothing is left."""
        for visitor in self.visitors:
            visitor.leave()
        for reservation in self.desk.live():
            self.desk.release(reservation.token)
        while self.bench.jobs or self.bench.under_way:
            (self.bench.work if self.bench.jobs else self.bench.come_home)(0)
        self.holds()
        assert self.desk.live() == []
        for token in self.phases:
            assert not self.admitted(Visitor(token), launch=True)
        self.desk.stopService()
        assert self.clock.getDelayedCalls() == []


class ScheduleTests(SynchronousTestCase):
    def test_any_order(self) -> None:
        """One start for each token, a stop for each start, no slot lost, no timer left."""
        count = int(os.environ.get("SCHEDULES", "0"))
        profile = settings(
            max_examples=count or 600,
            stateful_step_count=50,
            derandomize=not count,
            database=None,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        # What breaks on purpose is logged; anything else that is logged fails the test.
        self.addCleanup(self.flushLoggedErrors, OSError)
        try:
            run_state_machine_as_test(Schedules, settings=profile)
        except Exception as error:
            # trial does not show the notes, which hold the schedule
            raise AssertionError(
                "\n".join([repr(error), *getattr(error, "__notes__", [])])
            ) from error
