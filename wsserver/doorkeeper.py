"""What the doors ask before they let somebody in: who is it, and whose is this token."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from wsserver.access import Caller, may_have
from wsserver.desk import Desk
from wsserver.errors import NoSuchToken
from wsserver.identity import Credentials, Identity


class Doorkeeper:
    """Knows callers by ``identity``, which may be exchanged for another at any time.

    Where ``bind_user`` is on, a reservation that was made for a user is theirs alone.
    """

    def __init__(self, desk: Desk, identity: Identity, bind_user: bool = False) -> None:
        self.identity = identity
        self._desk = desk
        self._bind_user = bind_user

    def caller(self, shown: Credentials) -> Deferred[Caller]:
        """Return who sends a request; raises what ``Identity.caller`` does.

        To cancel this is not to cancel the check: who hangs up has failed all the same.
        """
        told: Deferred[Caller] = Deferred()
        Deferred.fromCoroutine(self.identity.caller(shown)).chainDeferred(told)
        return told

    async def check_guest(self, shown: Credentials) -> None:
        """Let in who comes without a token: where users can show who they are, they must.

        The security token alone asks nobody, as no browser could show it (contract.md,
        "Websocket").  Raises what ``caller`` raises.
        """
        if self.identity.knows_users:
            await self.caller(shown)

    async def check_holder(self, token: str, shown: Credentials) -> None:
        """Let in who may use a token.

        To somebody else it is unknown; where nobody is told from others, or the reservation
        is nobody's, the token alone counts.

        Raises:
            NoSuchToken, and what ``caller`` raises.
        """
        reservation = self._desk.find(token)
        if not self._bind_user or reservation.user is None:
            return
        if not may_have(reservation, await self.caller(shown)):
            raise NoSuchToken
