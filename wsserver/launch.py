"""Run the start and stop of scripts in threads of our own, with deadlines.

A thread cannot be cancelled: a start that comes home too late is stopped, never adopted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from wsserver.config import ServiceSpec
from wsserver.errors import ServiceFailed, StartTimeout, WSServerError
from wsserver.family import Journal
from wsserver.offers import Offer
from wsserver.scripts import Address, RemoteServiceScript
from wsserver.threads import in_own_thread

T = TypeVar("T")
Addresses = dict[str, Address]

#: The name of the socket of a service that has just one.
DEFAULT_SOCKET = "default"
#: How long programs that ``stop`` has not ended may take to end with TERM, in seconds.
GRACE = 2.0
#: How long until the end of a session is tried again where it failed, in seconds.
RETRY = 1.0
#: How many of the processes that do not end are named.
MAX_NAMES = 5

_log = Logger(namespace="wsserver.launch")


class Launcher:
    """Prepares instances.

    ``run`` calls a function in a thread and returns a Deferred of its result; so does
    ``run_apart``, in a thread that hung scripts cannot keep busy; ``call_from_thread``
    calls one in the thread of the reactor.
    """

    def __init__(
        self,
        clock: IReactorTime,
        run: Callable[[Callable[[], Any]], Deferred[Any]],
        run_apart: Callable[[Callable[[], Any]], Deferred[Any]],
        call_from_thread: Callable[..., object],
        journal: Journal | None = None,
    ) -> None:
        self.clock = clock
        self.run = run
        self.run_apart = run_apart
        self.call_from_thread = call_from_thread
        self.journal = journal

    @classmethod
    def with_threads(
        cls, reactor: Any, pool: ThreadPool, journal: Journal | None = None
    ) -> Launcher:
        """Return a launcher on a real reactor."""
        threads: IReactorFromThreads = reactor
        run = partial(deferToThreadPool, reactor, pool)
        apart = partial(in_own_thread, threads)
        return cls(reactor, run, apart, threads.callFromThread, journal)

    def prepare(
        self,
        offer: Offer,
        index: int,
        options: Mapping[str, str],
        on_progress: Callable[[str], None],
        on_share: Callable[[Mapping[str, str]], None],
    ) -> Instance:
        """Return an instance that is not started yet."""
        spec = offer.spec
        create = partial(offer.script.create, spec.name, index, spec.options, options)
        return Instance(self, spec, index, create, on_progress, on_share)


class Instance:
    """One instance of a service: started at most once, and stopped whatever happened."""

    def __init__(
        self,
        launcher: Launcher,
        spec: ServiceSpec,
        index: int,
        create: Callable[[], RemoteServiceScript],
        on_progress: Callable[[str], None],
        on_share: Callable[[Mapping[str, str]], None],
    ) -> None:
        self._launcher = launcher
        self._spec = spec
        self._index = index
        self._create = create
        self._on_progress = on_progress
        self._on_share = on_share
        self._progress = ""
        self._watching: LoopingCall | None = None
        #: Fires when what was logged last has its output.
        self._saying: Deferred[None] | None = None
        self._script: RemoteServiceScript | None = None
        self._cancelled = False
        self._home: Deferred[None] | None = None
        #: What the end waits for, in words.
        self._awaited = ""
        #: Whom to tell that the end takes too long, once it does.
        self._on_hung: Callable[[str], None] | None = None

    def start(self) -> Deferred[Addresses]:
        """Create the script and run its ``start``; call it once.

        Fails with ServiceFailed, or with StartTimeout after ``start_timeout``.
        """
        wanted: Deferred[Addresses] = Deferred()
        self._home = Deferred()
        clock = self._launcher.clock
        late = clock.callLater(self._spec.start_timeout, self._too_late, wanted)

        def arrived(result: Addresses | Failure) -> None:
            if late.active():
                late.cancel()
            if not wanted.called:
                wanted.callback(result)
            elif isinstance(result, Failure):
                _log.debug("late failure: {e}", e=result.value)
            assert self._home is not None
            self._home.callback(None)

        started = self._launcher.run(self._start_in_thread)
        started.addCallbacks(named_addresses, self._explain).addErrback(_public).addBoth(arrived)
        return wanted

    def watch(self, on_lost: Callable[[WSServerError], None]) -> None:
        """Look after a started instance whose script wants that, until it is stopped.

        ``on_lost`` is told, once, why it runs no more.
        """
        script = self._script
        if script is None or script.watch_period is None:
            return

        def lost(failure: Failure) -> None:
            if not self._cancelled:
                self.log_failed(failure.getTraceback())
                error = _public(failure).value
                assert isinstance(error, WSServerError)
                on_lost(error)

        self._watching = LoopingCall(self._launcher.run, script.check_running)
        self._watching.clock = self._launcher.clock
        self._watching.start(script.watch_period, now=False).addErrback(lost)

    def log_failed(self, reason: str) -> None:
        """Log that the instance failed, with the end of what its programs printed."""
        self._log_with_output(
            partial(_log.warn, "{who}: failed: {reason}\n{output}", reason=reason)
        )

    def log_ended(self) -> None:
        """Log that the service has ended by itself, with the end of what it printed."""
        self._log_with_output(partial(_log.info, "{who}: the service has ended\n{output}"))

    def _log_with_output(self, log: Callable[..., None]) -> None:
        """Log something; the script is asked for the output in a thread, before any stop."""

        def say(output: object) -> None:
            text = f"no output: {output.value!r}" if isinstance(output, Failure) else output
            log(who=self._who, output=text)

        if self._script is None:
            say("")
        else:
            self._saying = self._launcher.run(self._script.output).addBoth(say)

    def stop(self, on_hung: Callable[[str], None]) -> Deferred[None]:
        """End the instance; the Deferred fires when ``stop`` and every process have ended.

        ``on_hung`` is told in words what is waited for where that takes longer than
        ``stop_timeout``, and again when it is something else.
        """

        def too_long() -> None:
            self._on_hung = on_hung
            on_hung(self._awaited)

        hung = self._launcher.clock.callLater(self._spec.stop_timeout, too_long)

        def done(result: T) -> T:
            self._on_hung = None
            if hung.active():
                hung.cancel()
            return result

        return Deferred.fromCoroutine(self._stop()).addBoth(done)

    async def _stop(self) -> None:
        if self._home is None:
            return
        self._cancel()
        if self._watching is not None and self._watching.running:
            self._watching.stop()
        self._await("start has not returned")
        # The helpers of a cancelled start need some time to notice.
        await self._at_most(self._spec.stop_timeout / 2, self._home)
        if self._saying is not None:
            await self._saying
        if not self._home.called:
            await self._run_stop()
            if self._script is not None:
                # A start that waits for a program may come home now.
                await self._end(self._script.family.end)
            self._await("start has not returned")
            await self._home
        await self._run_stop()
        if self._script is not None:
            await self._end(self._script.family.close)

    async def _run_stop(self) -> None:
        """Run the script's ``stop``; what it has not ended in time is ended without it."""
        script = self._script
        if script is None:
            return
        self._await("stop has not returned")
        stopped = self._launcher.run(script.stop).addErrback(self._stop_failed)
        await self._at_most(self._spec.stop_timeout, stopped)
        if not stopped.called:
            await self._end(script.family.end)
            self._await("stop has not returned")
            await stopped

    async def _end(self, end: Callable[[float, Callable[[list[str]], object]], None]) -> None:
        """End all processes of the session; come back when not one is left."""
        tell = partial(self._launcher.call_from_thread, self._still_running)
        while True:
            try:
                await self._launcher.run_apart(partial(end, GRACE, tell))
                return
            except Exception:
                _log.failure("{who}: its processes cannot be ended", who=self._who)
                await deferLater(self._launcher.clock, RETRY, lambda: None)

    async def _at_most(self, seconds: float, work: Deferred[None]) -> None:
        """Wait until work is done, and no longer than so many seconds."""
        if work.called:
            return
        enough: Deferred[None] = Deferred()
        timer = self._launcher.clock.callLater(seconds, enough.callback, None)
        work.addCallback(lambda _: None if enough.called else enough.callback(None))
        await enough
        if timer.active():
            timer.cancel()

    def _await(self, what: str) -> None:
        self._awaited = what
        if self._on_hung is not None:
            self._on_hung(what)

    def _still_running(self, names: list[str]) -> None:
        # What has become another user's may be hidden from us.
        self._await(f"still running: {', '.join(names[:MAX_NAMES]) or 'what we cannot see'}")

    def _stop_failed(self, failure: Failure) -> None:
        _log.failure("{who}: stop failed", failure=failure, who=self._who)

    @property
    def _who(self) -> str:
        return f"{self._spec.name} {self._index}"

    def _start_in_thread(self) -> object:
        script = self._create()
        if not isinstance(script, RemoteServiceScript):
            raise TypeError(f"create() returned {script!r}, which is no RemoteServiceScript")
        if not hasattr(script, "cancelled"):
            raise TypeError(f"{type(script).__name__}: __init__ must call super().__init__")
        tell = self._launcher.call_from_thread
        script.on_progress = partial(tell, self._noted)
        script.on_share = partial(tell, self._on_share)
        script.family.journal = self._launcher.journal
        self._script = script
        if self._cancelled:
            script.cancelled.set()
        return script.start()

    def _noted(self, progress: str) -> None:
        self._progress = progress
        self._on_progress(progress)

    def _too_late(self, wanted: Deferred[Addresses]) -> None:
        self._cancel()
        timeout = self._spec.start_timeout
        last = f": {self._progress}" if self._progress else ""
        error = StartTimeout(f"{self._spec.name} did not start within {timeout:g} s{last}")
        self.log_failed(str(error))
        wanted.errback(error)

    def _cancel(self) -> None:
        self._cancelled = True
        if self._script is not None:
            self._script.cancelled.set()

    def _explain(self, failure: Failure) -> Failure:
        """Log why a start failed, unless nobody waits for it any more."""
        if not self._cancelled:
            self.log_failed(failure.getTraceback())
        return failure


def _public(failure: Failure) -> Failure:
    """Turn whatever a script raised into an error that the user may see."""
    if failure.check(WSServerError, CancelledError):
        return failure
    return Failure(ServiceFailed("the service could not be started"))


def named_addresses(reply: object) -> Addresses:
    """Check what ``start`` returned; a single address gets the default name.

    Raises:
        ServiceFailed: it is neither an address nor a mapping of names to some.
    """
    named: dict[Any, Any] = dict(reply) if isinstance(reply, Mapping) else {DEFAULT_SOCKET: reply}
    sound = all(isinstance(name, str) and _is_address(value) for name, value in named.items())
    if not (named and sound):
        _log.warn("start returned {reply!r}, which is no address", reply=reply)
        raise ServiceFailed("the service did not say where it listens")
    return {name: (address[0], address[1]) for name, address in named.items()}


def _is_address(value: object) -> bool:
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    host, port = value
    return isinstance(host, str) and bool(host.strip()) and type(port) is int and 1 <= port <= 65535
