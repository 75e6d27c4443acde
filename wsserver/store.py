"""Where reservations live: in memory."""

from __future__ import annotations

from wsserver.lifecycle import Reservation


class MemoryStore:
    """Keeps the live reservations of this process, in the order they were made."""

    def __init__(self) -> None:
        self._by_token: dict[str, Reservation] = {}

    def get(self, token: str) -> Reservation | None:
        """Return the live reservation of ``token``, or None."""
        return self._by_token.get(token)

    def put(self, reservation: Reservation) -> None:
        """Keep the newest state of a reservation; forget it once it has ended."""
        if reservation.live:
            self._by_token[reservation.token] = reservation
        else:
            self._by_token.pop(reservation.token, None)

    def live(self) -> list[Reservation]:
        """Return every reservation that holds a slot."""
        return list(self._by_token.values())
