"""Run the start and stop of scripts in threads of their own, with deadlines.

A thread cannot be cancelled: a start that comes home too late is stopped, never adopted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsserver.config import ServiceSpec
from wsserver.ending import Ending
from wsserver.errors import ServiceFailed, StartTimeout, WSServerError
from wsserver.family import Notes
from wsserver.offers import Offer
from wsserver.scripts import Address, RemoteServiceScript
from wsserver.threads import NoThread, Worker

T = TypeVar("T")
Addresses = dict[str, Address]

#: The name of the socket of a service that has just one.
DEFAULT_SOCKET = "default"
_log = Logger(namespace="wsserver.launch")


class Launcher:
    """Prepares instances, whose sessions are noted in ``journal`` where there is one."""

    def __init__(self, worker: Worker, journal: Notes | None = None) -> None:
        self.worker = worker
        self.journal = journal

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

    def start(self) -> Deferred[Addresses]:
        """Create the script and run its ``start``; call it once.

        Fails with ServiceFailed, or with StartTimeout after ``start_timeout``.
        """
        wanted: Deferred[Addresses] = Deferred()
        self._home = Deferred()
        clock = self._launcher.worker.clock
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

        started = self._launcher.worker.run(self._start_in_thread)
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

        def check() -> Deferred[None]:
            # That there is no thread for the check says nothing of the service.
            return self._launcher.worker.run(script.check_running).addErrback(_no_thread)

        self._watching = LoopingCall(check)
        self._watching.clock = self._launcher.worker.clock
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
            self._saying = self._launcher.worker.run(self._script.output).addBoth(say)

    def stop(self, on_hung: Callable[[str], None]) -> Deferred[None]:
        """End the instance; the Deferred fires when ``stop`` and every process have ended.

        ``on_hung`` is told in words what is waited for where that takes longer than
        ``stop_timeout``, and again when it is something else.
        """
        if self._home is None:
            return succeed(None)
        self._cancel()
        if self._watching is not None and self._watching.running:
            self._watching.stop()
        launcher, script = self._launcher, lambda: self._script
        ending = Ending(launcher.worker, self._spec.stop_timeout, self._who, script, on_hung)
        return ending.run(self._home, self._saying)

    @property
    def _who(self) -> str:
        return f"{self._spec.name} {self._index}"

    def _start_in_thread(self) -> object:
        script = self._create()
        if not isinstance(script, RemoteServiceScript):
            raise TypeError(f"create() returned {script!r}, which is no RemoteServiceScript")
        if not hasattr(script, "cancelled"):
            raise TypeError(f"{type(script).__name__}: __init__ must call super().__init__")
        tell = self._launcher.worker.call_from_thread
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
        # First: whoever is told stops the instance, and that waits for what the log wants.
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


def _no_thread(failure: Failure) -> None:
    failure.trap(NoThread)


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
