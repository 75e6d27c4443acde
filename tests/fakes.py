"""Fakes with verbs, and builders, for the tests of the rooms below the doors."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from wsserver.access import Caller
from wsserver.config import Limits, ServiceSpec
from wsserver.desk import Desk
from wsserver.doorkeeper import Doorkeeper
from wsserver.errors import Unauthorized, WSServerError
from wsserver.failures import Failures
from wsserver.identity import Credentials, Identity, SecurityToken, Source
from wsserver.offers import Offer, Script
from wsserver.scripts import RemoteServiceScript
from wsserver.store import MemoryStore
from wsserver.threads import NoThread

#: Where the services of these tests say they listen.
ADDRESS = ("127.0.0.1", 5900)
#: The wall clock of these tests.
WALL = 1_700_000_000.0


class Threads:
    """Threads whose jobs are finished by hand, oldest first unless told otherwise.

    There are none for the next ``refusals`` jobs.
    """

    def __init__(self) -> None:
        self.refusals = 0
        self.jobs: list[tuple[Callable[[], Any], Deferred[Any]]] = []

    def run(self, job: Callable[[], Any]) -> Deferred[Any]:
        """Take a job on; nothing happens before `finish`."""
        if self.refusals:
            self.refusals -= 1
            return fail(NoThread("can't start new thread"))
        result: Deferred[Any] = Deferred()
        self.jobs.append((job, result))
        return result

    def begin(self, which: int = 0) -> Callable[[], None]:
        """Run a job, and return what delivers its result to the reactor."""
        job, result = self.jobs.pop(which)
        try:
            value = job()
        except BaseException:
            value = Failure()
        return lambda: result.callback(value)

    def finish(self, which: int = 0) -> None:
        """Run a job and deliver its result."""
        self.begin(which)()

    def call_from_thread(self, function: Callable[..., object], *args: object) -> None:
        """Call at once: there is but one thread here."""
        function(*args)


class FakeFamily:
    """Processes that end when they are told to; what is still left is told in turn before."""

    def __init__(self) -> None:
        self.ends: list[str] = []
        self.left: list[list[str]] = []
        self.failures = 0

    def end(self, patience: float, told: Callable[[list[str]], object]) -> None:
        """End, for the time being."""
        self._end("end", told)

    def close(self, patience: float, told: Callable[[list[str]], object]) -> None:
        """End for good."""
        self._end("close", told)

    def _end(self, how: str, told: Callable[[list[str]], object]) -> None:
        if self.failures:
            self.failures -= 1
            raise RuntimeError("can't start new thread")
        self.ends.append(how)
        while self.left:
            told(self.left.pop(0))


class FakeScript(RemoteServiceScript):
    """Starts nothing.  `reply` is what `start` returns, or raises; `says` is its progress."""

    reply: Any = ADDRESS
    says: str | None = None
    printed = ""
    stop_error: BaseException | None = None

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.created_with = args
        self.starts = 0
        self.stops = 0
        self.cancelled_at_start = False

    def start(self) -> Any:
        """Return or raise `reply`."""
        self.starts += 1
        self.cancelled_at_start = self.cancelled.is_set()
        if self.says is not None:
            self.progress(self.says)
        if isinstance(self.reply, BaseException):
            raise self.reply
        return self.reply

    def stop(self) -> None:
        """Count, and raise `stop_error` if there is one."""
        self.stops += 1
        if self.stop_error is not None:
            raise self.stop_error

    def output(self) -> str:
        """Return what a program would have printed."""
        return self.printed


class Workshop:
    """Makes fake scripts with the given attributes, and remembers them in `made`."""

    def __init__(self, **attributes: Any) -> None:
        self.attributes = attributes
        self.made: list[FakeScript] = []

    def create(self, *args: Any) -> FakeScript:
        """Return a new script, as a script file's `create` does."""
        script = FakeScript(*args)
        for name, value in self.attributes.items():
            setattr(script, name, value)
        self.made.append(script)
        return script

    @property
    def last(self) -> FakeScript:
        """The script made last."""
        return self.made[-1]


def make_spec(
    name: str = "Demo",
    count: int = 2,
    options: Mapping[str, Any] | None = None,
    script_file: str = "demo.py",
    **tuning: Any,
) -> ServiceSpec:
    """Return a checked service type."""
    return ServiceSpec(
        name=name, script=script_file, count=count, options=dict(options or {}), **tuning
    )


def make_offer(
    name: str = "Demo",
    count: int = 2,
    script: Script | None = None,
    unavailable: str | None = None,
    **rest: Any,
) -> Offer:
    """Return a service that is ready to be reserved."""
    return Offer(make_spec(name, count, **rest), script or Script(FakeScript), unavailable)


def make_desk(clock: Clock, *offers: Offer, timeout: float = 300.0, **limits: int) -> Desk:
    """Return a desk in memory that mints token-1, token-2, ..."""
    minted: list[str] = []

    def mint() -> str:
        minted.append(f"token-{len(minted) + 1}")
        return minted[-1]

    by_name = {offer.spec.name: offer for offer in offers or (make_offer(),)}
    return Desk(by_name, MemoryStore(), clock, mint, lambda: WALL, timeout, Limits(**limits))


class Shows:
    """A source of identity that knows callers by a header `X-Caller`, and refuses `wrong`."""

    challenge = "Test"

    def __init__(self, **callers: Caller) -> None:
        self.callers = callers

    async def identify(self, shown: Credentials) -> Caller | None:
        """Return who the header names."""
        name = shown.header("X-Caller")
        if name == "wrong":
            raise Unauthorized("wrong")
        return None if name is None else self.callers[name]


class Slow:
    """A source of identity that knows after a while."""

    challenge = "Test"

    def __init__(self) -> None:
        self.asked: list[Deferred[Caller | None]] = []

    async def identify(self, shown: Credentials) -> Caller | None:
        """Return what `answer` says."""
        self.asked.append(Deferred())
        return await self.asked[-1]

    def answer(self, caller: Caller | None) -> None:
        """Answer the oldest question."""
        self.asked.pop(0).callback(caller)


def make_doorkeeper(
    desk: Desk, *sources: Source, secret: str | None = None, bind_user: bool = False
) -> Doorkeeper:
    """Return a doorkeeper who knows these sources, and the security token if there is one."""
    token = [] if secret is None else [SecurityToken(secret, Failures(lambda: 0.0))]
    return Doorkeeper(desk, Identity([*token, *sources]), bind_user)


class FakeInstance:
    """An instance that starts and stops when it is told to."""

    def __init__(
        self,
        offer: Offer,
        index: int,
        options: Mapping[str, str],
        on_progress: Callable[[str], None],
        on_share: Callable[[Mapping[str, str]], None],
    ) -> None:
        self.offer = offer
        self.index = index
        self.options = options
        self.say = on_progress
        self.share = on_share
        self.lose: Callable[[WSServerError], None] | None = None
        self.logged: list[str] = []
        self.starts = 0
        self.stops = 0
        self.starting: Deferred[Any] = Deferred()
        self.stopping: Deferred[None] = Deferred()
        self.hang: Callable[[str], None] = lambda reason: None

    def start(self) -> Deferred[Any]:
        """Begin to start; `starting` is fired by hand."""
        self.starts += 1
        return self.starting

    def watch(self, on_lost: Callable[[WSServerError], None]) -> None:
        """Be watched; `lose` tells that the service has gone."""
        self.lose = on_lost

    def log_failed(self, reason: str) -> None:
        """Note why the log says that it failed."""
        self.logged.append(reason)

    def log_ended(self) -> None:
        """Note that the log says that it ended by itself."""
        self.logged.append("ended")

    def stop(self, on_hung: Callable[[str], None]) -> Deferred[None]:
        """Begin to stop; `stopping` is fired by hand, and `hang` tells that it hangs."""
        self.stops += 1
        self.hang = on_hung
        return self.stopping


class FakeLauncher:
    """Prepares fake instances, and remembers them in `instances`."""

    def __init__(self) -> None:
        self.instances: list[FakeInstance] = []

    def prepare(self, *args: Any) -> FakeInstance:
        """Return an instance that is not started yet."""
        self.instances.append(FakeInstance(*args))
        return self.instances[-1]

    @property
    def last(self) -> FakeInstance:
        """The instance prepared last."""
        return self.instances[-1]


class FakeSeat:
    """A websocket that remembers why it was dismissed."""

    client = "192.0.2.7"

    def __init__(self) -> None:
        self.dismissals: list[Exception] = []

    def dismiss(self, error: Exception) -> None:
        """Note the reason."""
        self.dismissals.append(error)


def wait_until(true: Callable[[], object], deadline: float = 20.0) -> None:
    """Poll until something of the real world is true; fail at the deadline."""
    end = time.monotonic() + deadline
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {true}")
        time.sleep(0.005)
