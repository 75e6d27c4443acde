"""The desk: reserve, claim, report, release, sweep.  The only writer of reservations."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsserver import registry
from wsserver.admission import check_reserve, check_start, check_unused
from wsserver.config import Limits
from wsserver.errors import BadRequest, NoSuchService, NoSuchToken, ShuttingDown, Unavailable
from wsserver.lifecycle import Event, Phase, Reservation
from wsserver.offers import Offer

#: How often unused reservations are looked for, in seconds.
SWEEP_PERIOD = 1.0

Watcher = Callable[[Reservation], None]

_log = Logger(namespace="wsserver.desk")


class Store(Protocol):
    """Where reservations live."""

    def get(self, token: str) -> Reservation | None:
        """Return the live reservation of ``token``, or None."""

    def put(self, reservation: Reservation) -> None:
        """Keep the newest state of a reservation."""

    def live(self) -> list[Reservation]:
        """Return every reservation that holds a slot."""


class Desk(Service):
    """Hands out slots and knows what became of them.

    ``timeout`` is how long an unused reservation is kept, in seconds; ``mint`` makes
    tokens; ``wall`` is the clock that people read, ``clock`` the monotonic one; ``limits``
    are those of ``admission``.
    """

    def __init__(
        self,
        offers: Mapping[str, Offer],
        store: Store,
        clock: IReactorTime,
        mint: Callable[[], str],
        wall: Callable[[], float],
        timeout: float = 300.0,
        limits: Limits = Limits(),  # noqa: B008  (frozen)
    ) -> None:
        self.offers = offers
        self.timeout = timeout
        self._limits = limits
        self._store = store
        self._clock = clock
        self._mint = mint
        self._wall = wall
        self._promised: dict[str, Offer] = {}
        self._watchers: list[Watcher] = []
        self._news: deque[Reservation] = deque()
        self._draining = False
        self._sweeping = LoopingCall(self.sweep)
        self._sweeping.clock = clock

    def startService(self) -> None:
        """Begin to look for reservations that nobody uses."""
        super().startService()
        self._draining = False
        self._sweeping.start(SWEEP_PERIOD).addErrback(self._sweep_failed)

    def stopService(self) -> None:
        """Take no more reservations."""
        super().stopService()
        self.drain()
        if self._sweeping.running:
            self._sweeping.stop()

    def drain(self) -> None:
        """Refuse new reservations and claims from now on."""
        self._draining = True

    def watch(self, watcher: Watcher) -> None:
        """Call ``watcher`` with every reservation that changes."""
        self._watchers.append(watcher)

    def live(self) -> list[Reservation]:
        """Return every reservation that holds a slot."""
        return self._store.live()

    def find(self, token: str) -> Reservation:
        """Return the live reservation of a token.  Raises NoSuchToken."""
        reservation = self._store.get(token)
        if reservation is None:
            raise NoSuchToken
        return reservation

    def free(self, name: str) -> int:
        """Return how many instances of a service are free."""
        return registry.free_count(self.offers[name].spec, self.live())

    def retry_in(self, name: str) -> int | None:
        """Return the seconds until the oldest unused reservation expires, or None."""
        spec = self.offers[name].spec
        return registry.retry_after(spec, self.live(), self._clock.seconds(), self.timeout)

    def offer(self, name: str) -> Offer:
        """Return the service of that name, or raise NoSuchService."""
        try:
            return self.offers[name]
        except KeyError:
            raise NoSuchService(f"no service is called {name!r}") from None

    def promised(self, token: str) -> Offer:
        """Return what was reserved with a live token, whatever is on offer by now."""
        return self._promised[token]

    def reserve(
        self,
        name: str,
        options: Mapping[str, str],
        client: str = "",
        for_many: bool = False,
        user: str | None = None,
    ) -> Reservation:
        """Reserve an instance of a service for the client of that address, and that user.

        One that reserves ``for_many`` may have any number of unused reservations.

        Raises:
            NoSuchService, Unavailable, BadRequest, AtCapacity, TooMany, ShuttingDown.
        """
        if self._draining:
            raise ShuttingDown
        offer = self.offer(name)
        if offer.unavailable is not None:
            raise Unavailable(offer.unavailable)
        try:
            options = offer.spec.resolve(options)
            offer.script.check(offer.spec.options, options)
        except ValueError as error:
            raise BadRequest(str(error)) from error
        now, live = self._clock.seconds(), self.live()
        check_reserve(self._limits, live)
        if not for_many:
            check_unused(self._limits, live, client, now, self.timeout)
        index = registry.admit(offer.spec, live, now, self.timeout)
        reservation = Reservation(
            self._mint(), name, index, dict(options), now, self._wall(), client=client, user=user
        )
        self._promised[reservation.token] = offer
        self._put(reservation)
        return reservation

    def claim(self, token: str, client: str = "") -> Reservation:
        """Use a reservation for a websocket of that address; the first use starts the service.

        Raises:
            NoSuchToken, AtCapacity, ShuttingDown.
        """
        if self._draining:
            raise ShuttingDown
        self.sweep()
        reservation = self._store.get(token)
        if reservation is None or not reservation.joinable:
            raise NoSuchToken
        if reservation.phase is Phase.RESERVED:
            check_start(self._limits, self.live())
            reservation = replace(reservation, client=client)
        return self._advance(reservation, Event.CLAIM)

    def report(self, token: str, event: Event, reason: str = "") -> None:
        """Note what became of a reservation; one that has ended already stays as it is."""
        reservation = self._store.get(token)
        if reservation is not None:
            self._advance(reservation, event, reason)

    def note(self, token: str, progress: str) -> None:
        """Keep what a script said of its progress."""
        reservation = self._store.get(token)
        if reservation is None or reservation.phase is not Phase.STARTING:
            return
        if progress != reservation.progress:
            self._put(reservation.noted(progress))

    def share(self, token: str, credentials: Mapping[str, str]) -> None:
        """Keep what the holder of the token needs to get into the service."""
        reservation = self._store.get(token)
        if reservation is not None and reservation.phase is Phase.STARTING:
            self._keep(replace(reservation, credentials=dict(credentials)))

    def release(self, token: str) -> None:
        """Give a reservation up, used or not.  Raises NoSuchToken."""
        self._advance(self.find(token), Event.RELEASE, "released")

    def sweep(self) -> None:
        """Reclaim the reservations that nobody used in time."""
        for unused in registry.expired(self.live(), self._clock.seconds(), self.timeout):
            self._advance(unused, Event.EXPIRE, f"not used within {self.timeout:g} s")

    def _advance(self, reservation: Reservation, event: Event, reason: str = "") -> Reservation:
        moved = reservation.advance(event, self._clock.seconds(), reason)
        if moved is not reservation:
            self._put(moved)
        return moved

    def _put(self, reservation: Reservation) -> None:
        _log.info(
            "{name} {index}{user}: {phase}{detail}",
            name=reservation.service,
            index=reservation.index,
            user=f" of {reservation.user}" if reservation.user is not None else "",
            phase=reservation.phase.value,
            detail=f": {reservation.detail}" if reservation.detail else "",
        )
        self._keep(reservation)

    def _keep(self, reservation: Reservation) -> None:
        self._store.put(reservation)
        if not reservation.live:
            self._promised.pop(reservation.token, None)
        self._news.append(reservation)
        if len(self._news) == 1:
            self._tell()

    def _tell(self) -> None:
        """Tell all watchers the news in order, also of what the watchers themselves change."""
        while self._news:
            for watcher in self._watchers:
                try:
                    watcher(self._news[0])
                except Exception:
                    # Who merely looks on must not keep a session from ending.
                    _log.failure("a watcher of reservations failed")
            self._news.popleft()

    def _sweep_failed(self, failure: Failure) -> None:
        _log.failure("the sweep stopped", failure=failure)
