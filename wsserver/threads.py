"""The threads that scripts run in, and those that end what scripts have started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

T = TypeVar("T")

#: The most threads for scripts, however many instances there may be.
MAX_THREADS = 128


class DaemonThread(Thread):
    """A thread that does not keep the process alive."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, daemon=True)


class ScriptThreads(ThreadPool):
    """Threads that a hung script cannot keep from dying with the process."""

    threadFactory = DaemonThread

    def __init__(self, instances: int) -> None:
        super().__init__(0, _threads_for(instances), "wsserver scripts")

    def change(self, instances: int) -> None:
        """Be ready for another number of instances."""
        self.adjustPoolsize(maxthreads=_threads_for(instances))

    def start(self) -> None:
        """Begin, or begin anew: Twisted's pool cannot be used again once it was stopped."""
        if self.joined:
            super().__init__(self.min, self.max, self.name)
        super().start()

    def stop(self) -> None:
        """End the idle threads.  Threads in a hung script are left alone."""
        if not self.working:
            super().stop()


@dataclass(frozen=True)
class Worker:
    """Where scripts run, and by which clock they are timed.

    ``run`` calls a function in a thread and returns a Deferred of its result; so does
    ``run_apart``, in a thread that hung scripts cannot keep busy; ``call_from_thread``
    calls one in the thread of the reactor.
    """

    clock: IReactorTime
    run: Callable[[Callable[[], Any]], Deferred[Any]]
    run_apart: Callable[[Callable[[], Any]], Deferred[Any]]
    call_from_thread: Callable[..., object]

    @classmethod
    def on(cls, reactor: Any, pool: ThreadPool) -> Worker:
        """Return one on a real reactor."""
        run = partial(deferToThreadPool, reactor, pool)
        return cls(reactor, run, partial(in_own_thread, reactor), reactor.callFromThread)


def _threads_for(instances: int) -> int:
    # A start that hangs must leave a thread to the stop that ends it.
    return min(max(2, 2 * instances), MAX_THREADS)


def in_own_thread(reactor: IReactorFromThreads, function: Callable[[], T]) -> Deferred[T]:
    """Run a function in a new thread, which no hung script can take away from it."""
    result: Deferred[T] = Deferred()

    def work() -> None:
        value: T | Failure
        try:
            value = function()
        except BaseException:
            value = Failure()  # type: ignore[no-untyped-call]
        reactor.callFromThread(result.callback, value)

    try:
        DaemonThread(target=work).start()
    except RuntimeError:
        # The host allows no more threads.
        result.errback(Failure())  # type: ignore[no-untyped-call]
    return result
