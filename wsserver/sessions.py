"""Sessions: what runs between the claim of a reservation and the end of its instance.

A session belongs to one token and may be shared by several websockets ("seats").  It
launches the instance for the first of them and has a single way out, ``end``.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsserver.config import ServiceSpec
from wsserver.desk import Desk
from wsserver.errors import Released, ShuttingDown, TokenInUse, WSServerError
from wsserver.launch import Addresses, Instance, Launcher
from wsserver.lifecycle import Event, Phase, Reservation

_log = Logger(namespace="wsserver.sessions")


class Seat(Protocol):
    """One websocket of a session."""

    @property
    def client(self) -> str:
        """The address of who uses it."""

    def dismiss(self, error: WSServerError) -> None:
        """Close the websocket: the session has ended, for this reason."""


class Session:
    """One launched instance and the websockets that share it."""

    def __init__(
        self, token: str, spec: ServiceSpec, instance: Instance, desk: Desk, clock: IReactorTime
    ) -> None:
        self._token = token
        self._spec = spec
        self._instance = instance
        self._desk = desk
        self._clock = clock
        self._seats: list[Seat] = []
        self._waiting: list[Deferred[Addresses]] = []
        self._outcome: Addresses | WSServerError | None = None
        self._starting: Deferred[None] | None = None
        self._timers: list[IDelayedCall] = []
        self._last_byte = 0.0
        self._ending = False
        #: Fires when the instance has really ended.
        self.ended: Deferred[None] = Deferred()

    @property
    def connect_timeout(self) -> float:
        """How long the service may take to listen, in seconds."""
        return self._spec.connect_timeout

    def sit(self, seat: Seat) -> None:
        """Take part; raises TokenInUse where ``max_connections`` take part already."""
        if len(self._seats) >= self._spec.max_connections:
            raise TokenInUse
        self._seats.append(seat)

    def leave(self, seat: Seat) -> None:
        """Take part no more; the last to leave ends the session."""
        if seat in self._seats:
            self._seats.remove(seat)
        if not self._seats:
            self.end(Event.CLOSE)

    def addresses(self) -> Deferred[Addresses]:
        """Return where the service listens; the first call launches it.

        Each caller has a Deferred of its own, and may cancel it.
        """
        wanted: Deferred[Addresses] = Deferred(self._waiting.remove)
        self._waiting.append(wanted)
        if self._starting is None:
            self._starting = self._instance.start().addCallbacks(self._started, self._failed)
        elif self._outcome is not None:
            self._tell()
        return wanted

    def opened(self) -> None:
        """Note that a websocket is joined to the service."""
        if self._ending:
            return
        self._desk.report(self._token, Event.STARTED)
        if self._timers:
            return
        self.touch()
        if self._spec.max_duration is not None:
            reason = f"the longest session is {self._spec.max_duration:g} s"
            late = partial(self.end, Event.CLOSE, Released(reason))
            self._timers.append(self._clock.callLater(self._spec.max_duration, late))
        if self._spec.idle_timeout is not None:
            self._watch_idle(self._spec.idle_timeout)

    def touch(self) -> None:
        """Note that bytes move."""
        self._last_byte = self._clock.seconds()

    def failed(self, error: WSServerError) -> None:
        """Note that the service does not answer, or broke off: the log tells what it printed.

        Where others still use it, it goes on.
        """
        if not self._ending and len(self._seats) <= 1:
            self._instance.log_failed(str(error))
            self.end(Event.FAIL, error)

    def finished(self) -> None:
        """Note that the service has sent its last byte; the log tells what it printed.

        Where others still use it, it goes on.
        """
        if not self._ending and len(self._seats) <= 1:
            self._instance.log_ended()

    def end(self, event: Event, error: WSServerError | None = None) -> None:
        """End the session: everybody is dismissed with ``error``, the instance is stopped.

        Only the first call counts.
        """
        if self._ending:
            return
        self._ending = True
        for timer in self._timers:
            if timer.active():
                timer.cancel()
        self._desk.report(self._token, event, str(error or ""))
        for seat in list(self._seats):
            seat.dismiss(error or Released("the session has ended"))
        hung = partial(self._desk.report, self._token, Event.HUNG)
        self._instance.stop(hung).addCallbacks(self._stopped, self._stop_failed)

    def _started(self, addresses: Addresses) -> None:
        self._outcome = addresses
        if not self._ending:
            self._instance.watch(partial(self.end, Event.FAIL))
        self._tell()

    def _failed(self, failure: Failure) -> None:
        error = failure.value
        if not isinstance(error, WSServerError):
            _log.failure("{name}: start failed", failure=failure, name=self._spec.name)
            error = WSServerError("the service could not be started")
        self._outcome = error
        # First: whoever is told leaves, and the last to leave would make a CLOSE of it.
        self.end(Event.FAIL, error)
        self._tell()

    def _tell(self) -> None:
        while self._waiting:
            wanted = self._waiting.pop(0)
            if isinstance(self._outcome, WSServerError):
                wanted.errback(self._outcome)
            else:
                wanted.callback(self._outcome)  # type: ignore[arg-type]

    def _watch_idle(self, timeout: float) -> None:
        left = self._last_byte + timeout - self._clock.seconds()
        if left <= 0:
            self.end(Event.CLOSE, Released(f"nothing moved for {timeout:g} s"))
        else:
            self._timers.append(self._clock.callLater(left, self._watch_idle, timeout))
            self._timers = [timer for timer in self._timers if timer.active()]

    def _stop_failed(self, failure: Failure) -> None:
        """Keep the slot: nobody knows what still runs."""
        _log.failure("{name}: its end failed", failure=failure, name=self._spec.name)
        self._desk.report(self._token, Event.HUNG, "its end failed: see the log")

    def _stopped(self, _: object) -> None:
        self._desk.report(self._token, Event.STOPPED)
        self.ended.callback(None)


class Sessions(Service):
    """All sessions, by token."""

    def __init__(self, desk: Desk, launcher: Launcher, clock: IReactorTime) -> None:
        self._desk = desk
        self._launcher = launcher
        self._clock = clock
        self._by_token: dict[str, Session] = {}
        desk.watch(self._changed)

    def join(self, token: str, seat: Seat) -> Session:
        """Claim a token for a websocket.

        Raises:
            NoSuchToken, TokenInUse, AtCapacity, ShuttingDown.
        """
        reservation = self._desk.claim(token, seat.client)
        session = self._by_token.get(token) or self._begin(reservation)
        session.sit(seat)
        return session

    def stopService(self) -> Deferred[Any]:
        """End every session; the Deferred fires when all of them have really ended."""
        super().stopService()
        endings = [session.ended for session in self._by_token.values()]
        for session in list(self._by_token.values()):
            session.end(Event.CLOSE, ShuttingDown())
        return DeferredList(endings)

    def _begin(self, reservation: Reservation) -> Session:
        token = reservation.token
        offer = self._desk.promised(token)
        instance = self._launcher.prepare(
            offer,
            reservation.index,
            reservation.options,
            partial(self._desk.note, token),
            partial(self._desk.share, token),
        )
        session = Session(token, offer.spec, instance, self._desk, self._clock)
        self._by_token[token] = session
        session.ended.addCallback(lambda _: self._by_token.pop(token))
        return session

    def _changed(self, reservation: Reservation) -> None:
        """A reservation that is released from elsewhere takes its session along."""
        session = self._by_token.get(reservation.token)
        if session is not None and reservation.phase is Phase.STOPPING:
            session.end(Event.RELEASE, Released("the session was released"))
