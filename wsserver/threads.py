"""The threads that scripts run in, and those that end what scripts have started.

Each call has a thread of its own: no hung script can take it away, and there is nothing to
start, to resize or to join.  Slots and the bound on starts keep their number small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Thread
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime
from twisted.python.failure import Failure

T = TypeVar("T")


class NoThread(RuntimeError):
    """The host allows no more threads; nothing was run."""


@dataclass(frozen=True)
class Worker:
    """Where scripts run, and by which clock they are timed.

    ``run`` calls a function in a thread and returns a Deferred of its result, which fails
    with NoThread where there is none; ``call_from_thread`` calls one in the thread of the
    reactor.
    """

    clock: IReactorTime
    run: Callable[[Callable[[], Any]], Deferred[Any]]
    call_from_thread: Callable[..., object]

    @classmethod
    def on(cls, reactor: Any) -> Worker:
        """Return one on a real reactor."""
        return cls(reactor, partial(in_own_thread, reactor), reactor.callFromThread)


def in_own_thread(reactor: IReactorFromThreads, function: Callable[[], T]) -> Deferred[T]:
    """Run a function in a new thread, which does not keep the process alive.

    The Deferred fails with NoThread, at once, where the host allows no more threads.
    """
    result: Deferred[T] = Deferred()

    def work() -> None:
        value: T | Failure
        try:
            value = function()
        except BaseException:
            value = Failure()  # type: ignore[no-untyped-call]
        reactor.callFromThread(result.callback, value)

    try:
        Thread(target=work, daemon=True).start()
    except RuntimeError as error:
        result.errback(NoThread(str(error)))
    return result
