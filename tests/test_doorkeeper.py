"""Who may use a token."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import Shows, Slow, make_desk, make_doorkeeper
from tests.test_identity import shown
from wsserver.access import Caller
from wsserver.doorkeeper import Doorkeeper
from wsserver.errors import NoSuchToken, Unauthorized, WSServerError


class DoorkeeperTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.desk = make_desk(Clock())
        self.bound = self.desk.reserve("Demo", {}, user="alice").token
        self.free = self.desk.reserve("Demo", {}).token

    def keeper(self, bind_user: bool = True) -> Doorkeeper:
        callers = {name: Caller(user=name) for name in ("alice", "bob")}
        return make_doorkeeper(self.desk, Shows(**callers), secret="sesame", bind_user=bind_user)

    def answer(self, token: str, keeper: Doorkeeper, **headers: str) -> type[WSServerError] | None:
        checked = Deferred.fromCoroutine(keeper.check_holder(token, shown(**headers)))
        outcome: list[object] = []
        checked.addCallbacks(outcome.append, lambda f: outcome.append(f.type))
        return outcome[0]  # type: ignore[return-value]

    def test_bound(self) -> None:
        """A token of a user is unknown to other users, and nobody shows who they are for it."""
        for headers, expected in (
            ({"X_Caller": "alice"}, None),
            ({"Authorization": "Bearer sesame"}, None),
            ({"X_Caller": "bob"}, NoSuchToken),
            ({}, Unauthorized),
            ({"X_Caller": "wrong"}, Unauthorized),
        ):
            self.assertIs(self.answer(self.bound, self.keeper(), **headers), expected, headers)

    def test_of_nobody(self) -> None:
        """A token that is nobody's is its own permission."""
        for headers in ({}, {"X_Caller": "bob"}, {"X_Caller": "wrong"}):
            self.assertIsNone(self.answer(self.free, self.keeper(), **headers))

    def test_not_binding(self) -> None:
        """Where users are not bound, every token is."""
        for headers in ({}, {"X_Caller": "bob"}):
            self.assertIsNone(self.answer(self.bound, self.keeper(bind_user=False), **headers))

    def test_guest(self) -> None:
        """Without a token users show who they are, where they can; the rest need not."""
        for keeper, headers, refused in (
            (self.keeper(bind_user=False), {}, True),
            (self.keeper(bind_user=False), {"X_Caller": "wrong"}, True),
            (self.keeper(bind_user=False), {"X_Caller": "bob"}, False),
            (make_doorkeeper(self.desk, secret="sesame"), {}, False),
            (make_doorkeeper(self.desk), {}, False),
        ):
            checked = Deferred.fromCoroutine(keeper.check_guest(shown(**headers)))
            if refused:
                self.failureResultOf(checked, Unauthorized)
            else:
                self.successResultOf(checked)

    def test_unknown(self) -> None:
        """An unknown token is unknown, whoever asks."""
        for bind in (True, False):
            for headers in ({}, {"X_Caller": "bob"}, {"X_Caller": "wrong"}):
                self.assertIs(self.answer("x", self.keeper(bind), **headers), NoSuchToken)

    def test_cancelled(self) -> None:
        """Who hangs up is not told, and the check goes on."""
        source = Slow()
        told = make_doorkeeper(self.desk, source).caller(shown())
        told.cancel()
        self.failureResultOf(told, CancelledError)
        source.answer(Caller(user="alice"))
