"""The end of an instance: its threads are home, its ``stop`` has run, its processes are gone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsserver.scripts import RemoteServiceScript
from wsserver.threads import NoThread, Worker

T = TypeVar("T")

#: How long programs that ``stop`` has not ended may take to end with TERM, in seconds.
GRACE = 2.0
#: How long until the end of a session is tried again where it failed, in seconds.
RETRY = 1.0
#: How many of the processes that do not end are named.
MAX_NAMES = 5

_log = Logger(namespace="wsserver.launch")


class Ending:
    """Ends the instance ``who``; ``script`` returns its script, None before there is one.

    ``on_hung`` is told in words what is waited for where that takes longer than ``timeout``
    seconds, and again when it is something else.
    """

    def __init__(
        self,
        worker: Worker,
        timeout: float,
        who: str,
        script: Callable[[], RemoteServiceScript | None],
        on_hung: Callable[[str], None],
    ) -> None:
        self._worker = worker
        self._timeout = timeout
        self._who = who
        self._find_script = script
        self._on_hung = on_hung
        self._hung = False
        #: What is waited for, in words.
        self._awaited = ""

    def run(self, home: Deferred[None], saying: Deferred[None] | None) -> Deferred[None]:
        """Do all of it; the Deferred fires when nothing is left.

        ``home`` fires when ``start`` has returned, ``saying`` when the output was read
        that the log wants.
        """
        timer = self._worker.clock.callLater(self._timeout, self._too_long)

        def done(result: T) -> T:
            if timer.active():
                timer.cancel()
            return result

        return Deferred.fromCoroutine(self._run(home, saying)).addBoth(done)

    async def _run(self, home: Deferred[None], saying: Deferred[None] | None) -> None:
        self._await("start has not returned")
        # The helpers of a cancelled start need some time to notice.
        await self._at_most(self._timeout / 2, home)
        if saying is not None:
            self._await("the output cannot be read")
            await self._at_most(self._timeout / 2, saying)
        if not home.called:
            await self._stop()
            if (script := self._find_script()) is not None:
                # A start that waits for a program may come home now.
                await self._end(script.family.end)
            self._await("start has not returned")
            await home
        await self._stop()
        if (script := self._find_script()) is not None:
            await self._end(script.family.close)

    async def _stop(self) -> None:
        """Run the script's ``stop``; what it has not ended in time is ended without it."""
        if (script := self._find_script()) is None:
            return
        self._await("stop has not returned")
        stopped = Deferred.fromCoroutine(self._surely(script.stop)).addErrback(self._stop_failed)
        await self._at_most(self._timeout, stopped)
        if not stopped.called:
            await self._end(script.family.end)
            self._await("stop has not returned")
            await stopped

    async def _surely(self, stop: Callable[[], None]) -> None:
        """Run it in a thread, as soon as the host allows one."""
        while True:
            try:
                await self._worker.run(stop)
                return
            except NoThread:
                _log.error("{who}: the host has no thread for its stop", who=self._who)
                await deferLater(self._worker.clock, RETRY, lambda: None)

    async def _end(self, end: Callable[[float, Callable[[list[str]], object]], None]) -> None:
        """End all processes of the session; come back when not one is left."""
        tell = partial(self._worker.call_from_thread, self._still_running)
        while True:
            try:
                await self._worker.run(partial(end, GRACE, tell))
                return
            except Exception:
                _log.failure("{who}: its processes cannot be ended", who=self._who)
                await deferLater(self._worker.clock, RETRY, lambda: None)

    async def _at_most(self, seconds: float, work: Deferred[None]) -> None:
        """Wait until work is done, and no longer than so many seconds."""
        if work.called:
            return
        enough: Deferred[None] = Deferred()
        timer = self._worker.clock.callLater(seconds, enough.callback, None)
        work.addCallback(lambda _: None if enough.called else enough.callback(None))
        await enough
        if timer.active():
            timer.cancel()

    def _await(self, what: str) -> None:
        self._awaited = what
        if self._hung:
            self._on_hung(what)

    def _too_long(self) -> None:
        self._hung = True
        self._on_hung(self._awaited)

    def _still_running(self, names: list[str]) -> None:
        # What has become another user's may be hidden from us.
        self._await(f"still running: {', '.join(names[:MAX_NAMES]) or 'what we cannot see'}")

    def _stop_failed(self, failure: Failure) -> None:
        _log.failure("{who}: stop failed", failure=failure, who=self._who)
