from __future__ import annotations

from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from wsserver.errors import IllegalTransition
from wsserver.lifecycle import ENDED, ENDINGS, MAX_STEPS, TRANSITIONS, Event, Phase, Reservation

#: One row a phase: where each event leads; an event that is left out is a bug of ours.
MOVES = """
reserved:    claim>starting expire>expired release>released
starting:    claim>starting started>open close>stopping release>stopping fail>stopping
open:        claim>open started>open close>stopping release>stopping fail>stopping
stopping:    close>stopping release>stopping fail>stopping hung>quarantined stopped>closed
quarantined: close>quarantined release>quarantined fail>quarantined hung>quarantined stopped>closed
closed:
expired:
released:
failed:
"""


def expected() -> dict[tuple[Phase, Event], Phase]:
    moves = {}
    for line in MOVES.strip().splitlines():
        phase, _, rest = line.partition(":")
        for move in rest.split():
            event, _, target = move.partition(">")
            moves[Phase(phase), Event(event)] = Phase(target)
    return moves


def reservation(phase: Phase = Phase.RESERVED, **rest: object) -> Reservation:
    return Reservation("token", "Demo", 0, {}, 5.0, 1e9, phase, **rest)  # type: ignore[arg-type]


class TableTests(SynchronousTestCase):
    def test_every_pair(self) -> None:
        """Every phase and event is decided: it leads where documented, or is an error."""
        moves = expected()
        for phase, event in product(Phase, Event):
            with self.subTest(phase=phase, event=event):
                before = reservation(phase)
                if (phase, event) in moves:
                    self.assertIs(before.advance(event, 9.0).phase, moves[phase, event])
                else:
                    with self.assertRaises(IllegalTransition) as caught:
                        before.advance(event, 9.0)
                    self.assertEqual(str(caught.exception), f"{event.value} while {phase.value}")

    def test_every_phase(self) -> None:
        """Every phase has its row, and the ended ones know no event any more."""
        self.assertEqual(set(TRANSITIONS), set(Phase))
        self.assertEqual({p for p, row in TRANSITIONS.items() if not row}, ENDED)


class ReservationTests(SynchronousTestCase):
    def test_first_end_counts(self) -> None:
        """What ended a session first is what it is remembered by."""
        for first, second in product(ENDINGS, ENDINGS):
            with self.subTest(first=first, second=second):
                now = reservation(Phase.OPEN).advance(first, 1.0, "first")
                now = now.advance(second, 2.0, "second").advance(Event.STOPPED, 3.0, "third")
                self.assertEqual((now.phase, now.reason, now.since), (ENDINGS[first], "first", 3.0))

    def test_hung_and_stopped(self) -> None:
        """A quarantined instance ends as what it was ended by, however late."""
        now = reservation(Phase.STARTING).advance(Event.FAIL, 1.0, "no")
        self.assertEqual(now.detail, "no")
        now = now.advance(Event.HUNG, 2.0, "stop has not returned")
        self.assertEqual((now.phase, now.live, now.joinable), (Phase.QUARANTINED, True, False))
        self.assertEqual(now.detail, "stop has not returned")
        self.assertIs(now.advance(Event.HUNG, 2.5, "stop has not returned"), now)
        now = now.advance(Event.HUNG, 2.5, "still running: sh 12")
        self.assertEqual((now.detail, now.since), ("still running: sh 12", 2.0))
        now = now.advance(Event.STOPPED, 3.0)
        self.assertEqual((now.phase, now.live, now.reason), (Phase.FAILED, False, "no"))

    def test_live_and_joinable(self) -> None:
        """A slot is held until the end, a token is good until the end begins."""
        joinable = {Phase.RESERVED, Phase.STARTING, Phase.OPEN}
        for phase in Phase:
            self.assertEqual(reservation(phase).live, phase not in ENDED)
            self.assertEqual(reservation(phase).joinable, phase in joinable)

    def test_since(self) -> None:
        """The time of a phase is that of its beginning: an idle event does not touch it."""
        before = reservation(Phase.OPEN)
        self.assertIs(before.advance(Event.CLAIM, 9.0), before)
        self.assertEqual(before.advance(Event.CLOSE, 9.0).since, 9.0)

    def test_noted(self) -> None:
        """Progress is kept, and nothing else changes."""
        now = reservation(Phase.STARTING).noted("warming up")
        self.assertEqual((now.progress, now.phase, now.since), ("warming up", Phase.STARTING, 5.0))
        self.assertEqual(now.detail, "warming up")

    def test_steps(self) -> None:
        """The last of many lines are kept."""
        now = reservation(Phase.STARTING)
        for number in range(MAX_STEPS + 5):
            now = now.noted(str(number))
        self.assertEqual((len(now.steps), now.steps[0], now.progress), (MAX_STEPS, "5", "24"))
        self.assertEqual(reservation(Phase.STARTING).progress, "")
