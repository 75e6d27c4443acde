"""The life of a reservation: phases, events and the table that joins them.

A slot is free again only in a phase of ``ENDED``: while a ``stop`` is under way, or
hangs, the instance still counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from wsserver.errors import IllegalTransition


class Phase(Enum):
    """Where a reservation stands."""

    RESERVED = "reserved"
    STARTING = "starting"
    OPEN = "open"
    STOPPING = "stopping"
    QUARANTINED = "quarantined"
    CLOSED = "closed"
    EXPIRED = "expired"
    RELEASED = "released"
    FAILED = "failed"


class Event(Enum):
    """What can happen to a reservation."""

    CLAIM = "claim"
    STARTED = "started"
    CLOSE = "close"
    RELEASE = "release"
    FAIL = "fail"
    EXPIRE = "expire"
    HUNG = "hung"
    STOPPED = "stopped"


ENDED = frozenset({Phase.CLOSED, Phase.EXPIRED, Phase.RELEASED, Phase.FAILED})

#: What a reservation becomes once its instance has stopped, by the event that ended it.
ENDINGS = {Event.CLOSE: Phase.CLOSED, Event.RELEASE: Phase.RELEASED, Event.FAIL: Phase.FAILED}

# An end that comes while another is under way changes nothing: the first one counts.
_END = dict.fromkeys(ENDINGS, Phase.STOPPING)
_STILL_QUARANTINED = dict.fromkeys([*ENDINGS, Event.HUNG], Phase.QUARANTINED)

#: Every move there is.  STOPPED leads to the phase that the first end decided; CLOSED
#: stands for all of ``ENDINGS`` there.  An ended reservation knows no event any more.
TRANSITIONS: Mapping[Phase, Mapping[Event, Phase]] = {
    Phase.RESERVED: {
        Event.CLAIM: Phase.STARTING,
        Event.EXPIRE: Phase.EXPIRED,
        Event.RELEASE: Phase.RELEASED,
    },
    Phase.STARTING: {Event.CLAIM: Phase.STARTING, Event.STARTED: Phase.OPEN, **_END},
    # Several websockets may share a token: each claims it, and each opens.
    Phase.OPEN: {Event.CLAIM: Phase.OPEN, Event.STARTED: Phase.OPEN, **_END},
    Phase.STOPPING: {Event.HUNG: Phase.QUARANTINED, Event.STOPPED: Phase.CLOSED, **_END},
    Phase.QUARANTINED: {Event.STOPPED: Phase.CLOSED, **_STILL_QUARANTINED},
    Phase.CLOSED: {},
    Phase.EXPIRED: {},
    Phase.RELEASED: {},
    Phase.FAILED: {},
}


#: How many lines of progress are kept.
MAX_STEPS = 20


@dataclass(frozen=True)
class Reservation:
    """One instance of a service, promised to whoever holds the token.

    ``since`` is monotonic and tells when the present phase began; ``timestamp`` is the
    wall clock at the reservation, in seconds since the epoch.  ``steps`` are the lines
    that the script reported, the last ``MAX_STEPS`` of them; ``held`` is what keeps the slot
    of an instance in quarantine; ``credentials`` are for the holder of the token alone.
    ``client`` is the address that reserved it, and once it is used the address of its first
    websocket; ``user`` is who it was made for, if that is known.
    """

    token: str
    service: str
    index: int
    options: Mapping[str, str]
    since: float
    timestamp: float
    phase: Phase = Phase.RESERVED
    ending: Phase | None = None
    reason: str = ""
    held: str = ""
    steps: tuple[str, ...] = ()
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    client: str = ""
    user: str | None = None

    @property
    def progress(self) -> str:
        """The last line that the script reported."""
        return self.steps[-1] if self.steps else ""

    @property
    def detail(self) -> str:
        """What there is to tell of its phase: how far it is, why it ended, what it waits for."""
        if self.phase is Phase.STARTING:
            return self.progress
        return self.held if self.phase is Phase.QUARANTINED else self.reason

    @property
    def live(self) -> bool:
        """Whether it still holds its slot."""
        return self.phase not in ENDED

    @property
    def joinable(self) -> bool:
        """Whether a websocket may still come in on its token."""
        return self.phase in (Phase.RESERVED, Phase.STARTING, Phase.OPEN)

    def advance(self, event: Event, now: float, reason: str = "") -> Reservation:
        """Return the reservation after ``event``.

        Raises:
            IllegalTransition: the table has no such move.
        """
        try:
            phase = TRANSITIONS[self.phase][event]
        except KeyError:
            raise IllegalTransition(f"{event.value} while {self.phase.value}") from None
        if event is Event.STOPPED:
            phase = self.ending or phase
        if phase is self.phase:
            new_hold = event is Event.HUNG and reason != self.held
            return replace(self, held=reason) if new_hold else self
        if event is Event.HUNG:
            return replace(self, phase=phase, since=now, held=reason)
        return replace(
            self,
            phase=phase,
            since=now,
            ending=self.ending or ENDINGS.get(event),
            reason=self.reason or reason,
        )

    def noted(self, progress: str) -> Reservation:
        """Return the reservation with what its script last said."""
        return replace(self, steps=(*self.steps, progress)[-MAX_STEPS:])
