from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from wsserver.access import digest
from wsserver.lifecycle import Phase, Reservation
from wsserver.store import MemoryStore


class MemoryStoreTests(SynchronousTestCase):
    def test_keeps_the_living(self) -> None:
        """The newest state of each reservation is kept, in the order they were made."""
        store = MemoryStore()
        one, two = (Reservation(t, "Demo", 0, {}, 0.0, 0.0) for t in ("one", "two"))
        for reservation in (one, two, replace(one, phase=Phase.OPEN)):
            store.put(reservation)
        self.assertEqual([r.token for r in store.live()], ["one", "two"])
        found = store.get("one")
        assert found is not None
        self.assertIs(found.phase, Phase.OPEN)

    def test_forgets_the_ended(self) -> None:
        """A reservation that has ended is forgotten, also one that was never kept."""
        store = MemoryStore()
        one = Reservation("one", "Demo", 0, {}, 0.0, 0.0)
        ended = replace(one, phase=Phase.CLOSED)
        store.put(one)
        store.put(ended)
        store.put(ended)
        self.assertEqual((store.get("one"), store.live()), (None, []))

    def test_by_digest(self) -> None:
        """Tokens are looked up by their digest: no time tells how much of one is right."""
        store = MemoryStore()
        store.put(Reservation("one", "Demo", 0, {}, 0.0, 0.0))
        self.assertEqual(list(store._by_digest), [digest("one")])
        for token in ("on", "one ", "\ud800", ""):
            self.assertIsNone(store.get(token))

    def test_live_is_a_copy(self) -> None:
        """The list may be walked while reservations end."""
        store = MemoryStore()
        store.put(Reservation("one", "Demo", 0, {}, 0.0, 0.0))
        store.live().clear()
        self.assertEqual(len(store.live()), 1)
