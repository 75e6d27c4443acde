"""Where reservations live: in memory."""

from __future__ import annotations

from wsserver.access import digest
from wsserver.lifecycle import Reservation


class MemoryStore:
    """Keeps the live reservations of this process, in the order they were made."""

    def __init__(self) -> None:
        # By digest: the time of a look-up tells nothing of the tokens there are.
        self._by_digest: dict[bytes, Reservation] = {}

    def get(self, token: str) -> Reservation | None:
        """Return the live reservation of ``token``, or None."""
        return self._by_digest.get(digest(token))

    def put(self, reservation: Reservation) -> None:
        """Keep the newest state of a reservation; forget it once it has ended."""
        key = digest(reservation.token)
        if reservation.live:
            self._by_digest[key] = reservation
        else:
            self._by_digest.pop(key, None)

    def live(self) -> list[Reservation]:
        """Return every reservation that holds a slot."""
        return list(self._by_digest.values())
