"""The REST door (contract.md, "REST"): routes on the desk, JSON out, one error map."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from klein import Klein
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from wsserver.access import Caller, check_may_use, check_operator, may_have, may_use
from wsserver.desk import Desk
from wsserver.doorkeeper import Doorkeeper
from wsserver.errors import BadRequest, Forbidden, WSServerError
from wsserver.forwarded import Proxies
from wsserver.identity import Credentials, acting
from wsserver.lifecycle import Reservation
from wsserver.offers import Offer
from wsserver.origins import Origins
from wsserver.provenance import asked, is_local, shown_by
from wsserver.replies import error_body, json_body, refusal

P = ParamSpec("P")
Answer = bytes | str

_log = Logger(namespace="wsserver.api")

_READ = ["GET", "HEAD"]
_CHANGE = ["GET", "POST"]


def _for_callers(
    route: Callable[Concatenate[Api, Request, Caller, P], Any],
) -> Callable[Concatenate[Api, Request, P], Any]:
    """Let a route be used by those only who show who they are, where that can be shown."""

    @wraps(route)
    def guarded(self: Api, request: Request, *args: P.args, **kwargs: P.kwargs) -> Any:
        caller = self._doorkeeper.caller(_shown(request))
        return caller.addCallback(lambda who: route(self, request, who, *args, **kwargs))

    return guarded  # type: ignore[return-value]


def _changes(
    route: Callable[Concatenate[Api, Request, P], Any],
) -> Callable[Concatenate[Api, Request, P], Any]:
    """Refuse HEAD, which werkzeug lets in with every GET, where a call changes something."""

    @wraps(route)
    def refusing(self: Api, request: Request, *args: P.args, **kwargs: P.kwargs) -> Any:
        if request.method == b"HEAD":
            raise MethodNotAllowed(_CHANGE)
        return route(self, request, *args, **kwargs)

    return refusing  # type: ignore[return-value]


class Api:
    """The resource below ``/v1``.

    ``doorkeeper`` knows who asks; with ``act_for_users`` the trusted application may name
    a user.  ``stop`` shuts the server down; ``status_page`` renders the page for people;
    ``origins`` are the pages that may change things, those of our own host by default;
    ``proxies`` know who asks; ``websocket_port`` is that of a websocket listener of its
    own, if there is one.
    """

    app = Klein()

    def __init__(
        self,
        desk: Desk,
        doorkeeper: Doorkeeper,
        stop: Callable[[], object],
        status_page: Callable[[Request, Desk, Caller], Any],
        act_for_users: bool = False,
        origins: Origins = Origins(),  # noqa: B008  (never changed)
        proxies: Proxies = Proxies(),  # noqa: B008  (never changed)
    ) -> None:
        self._desk = desk
        self._doorkeeper = doorkeeper
        self._stop = stop
        self._status_page = status_page
        self._act_for_users = act_for_users
        self._origins = origins
        self._proxies = proxies
        self.websocket_port: int | None = None

    @app.route("/services", methods=_READ, strict_slashes=False)
    @_for_callers
    def services(self, request: Request, caller: Caller) -> Answer:
        """List what the caller may reserve."""
        extension = _fields(request).get("file_ext")
        offers = [o for o in self._desk.offers.values() if may_use(o.spec, caller)]
        if extension is not None:
            offers = [offer for offer in offers if offer.spec.views(extension)]
        return json_body(request, [self._service(offer) for offer in offers])

    @app.route("/reserve/<path:name>", methods=_CHANGE, strict_slashes=False)
    @_changes
    @_for_callers
    def reserve(self, request: Request, caller: Caller, name: str) -> Answer:
        """Reserve an instance; query fields are its options."""
        self._check_page(request, caller)
        name = name.removesuffix("/")
        options = _fields(request)
        options.pop("security_token", None)
        if self._act_for_users:
            caller = acting(caller, options)
        check_may_use(self._desk.offer(name).spec, caller)
        client = request.getClientAddress().host
        made = self._desk.reserve(name, options, client, for_many=caller.trusted, user=caller.user)
        return json_body(
            request,
            {
                "token": made.token,
                "service": made.service,
                "index": made.index,
                "expires_in": self._desk.timeout,
                "websocket_port": self._direct_port(request),
            },
        )

    @app.route("/release/<path:token>", methods=_CHANGE, strict_slashes=False)
    @_changes
    async def release(self, request: Request, token: str) -> Answer:
        """Release a reservation: the token itself is the permission, unless it is bound.

        A page of another site that knew it could open the websocket, so it is not asked where
        it comes from; one that does not know it cannot guess it.
        """
        token = token.removesuffix("/")
        await self._doorkeeper.check_holder(token, _shown(request))
        self._desk.release(token)
        return json_body(request, {"released": True})

    @app.route("/status", methods=_READ, strict_slashes=False)
    @_for_callers
    def status(self, request: Request, caller: Caller) -> Answer:
        """List every service that the caller may use with those live instances that they may see.

        How the operator has set up a service is not for users.
        """
        live = [r for r in self._desk.live() if may_have(r, caller)]
        return json_body(
            request,
            [
                {
                    "name": name,
                    "count": offer.spec.count,
                    "common_options": offer.spec.options if caller.operator else {},
                    "instances": [_instance(r) for r in live if r.service == name],
                }
                for name, offer in self._desk.offers.items()
                if caller.operator or may_use(offer.spec, caller)
            ],
        )

    @app.route("/status_view", methods=_READ, strict_slashes=False)
    @_for_callers
    def status_view(self, request: Request, caller: Caller) -> Any:
        """Show the status to people."""
        return self._status_page(request, self._desk, caller)

    @app.route("/stop", methods=_CHANGE, strict_slashes=False)
    @_changes
    @_for_callers
    def stop(self, request: Request, caller: Caller) -> Answer:
        """Shut the server down, after this answer.

        Without a security token only this machine may.
        """
        self._check_page(request, caller)
        check_operator(caller)
        if not caller.trusted and not is_local(request, self._proxies):
            raise Forbidden("without a security token only this machine may stop the server")
        request.notifyFinish().addBoth(lambda _: self._stop())
        return json_body(request, {"stopping": True})

    @app.handle_errors(WSServerError)  # type: ignore[arg-type]
    def failed(self, request: Request, failure: Failure) -> Answer:
        """Answer a deliberate failure."""
        error = failure.value
        assert isinstance(error, WSServerError)
        return refusal(request, error, self._doorkeeper.identity.challenges)

    @app.handle_errors(HTTPException)  # type: ignore[arg-type]
    def not_routed(self, request: Request, failure: Failure) -> Answer:
        """Answer a path or a method that does not exist."""
        error = failure.value
        assert isinstance(error, HTTPException)
        for header, value in error.get_headers():
            if header == "Allow":
                request.setHeader("Allow", value)
        return error_body(request, error.code or 500, type(error).__name__, error.name)

    @app.handle_errors(Exception)  # type: ignore[arg-type]
    def crashed(self, request: Request, failure: Failure) -> Answer:
        """Answer a bug of ours without details."""
        _log.failure("a request failed", failure=failure)
        return error_body(request, 500, "InternalError", "internal error")

    def _check_page(self, request: Request, caller: Caller) -> None:
        """Refuse pages of foreign origins, unless they show the security token.

        A browser adds nothing of the kind by itself, so who shows it means it.
        """
        if not caller.trusted:
            self._origins.check_change(asked(request, self._proxies))

    def _service(self, offer: Offer) -> dict[str, Any]:
        name = offer.spec.name
        return {
            "name": name,
            "count": offer.spec.count,
            "free": self._desk.free(name),
            "available": offer.unavailable is None,
            "reason": offer.unavailable,
            "sizes": offer.spec.sizes,
            "page": offer.spec.page,
            "reserve_options": [rule.describe(n) for n, rule in offer.spec.rules.items()],
            "retry_in": self._desk.retry_in(name),
        }

    def _direct_port(self, request: Request) -> int | None:
        """Return the websocket port, or None where it is that of this very request.

        Behind a proxy, which the port of the Host header gives away, it is the proxy
        that routes websockets.
        """
        _, _, port = (request.getHeader("host") or "").rpartition(":")
        direct = port == str(request.getHost().port)
        return self.websocket_port if direct else None


def _instance(reservation: Reservation) -> dict[str, Any]:
    return {
        "index": reservation.index,
        "token": reservation.token,
        "user": reservation.user,
        "timestamp": reservation.timestamp,
        "options": dict(reservation.options),
        "state": reservation.phase.value,
        "client": reservation.client,
        "progress": reservation.progress,
        "steps": list(reservation.steps),
        "held": reservation.held,
    }


def _shown(request: Request) -> Credentials:
    return shown_by(request, _fields(request).get("security_token"))


def _fields(request: Request) -> dict[str, str]:
    """Return the fields of the query; each may stand there once."""
    fields: dict[str, str] = {}
    for key, values in (request.args or {}).items():
        try:
            name, value = key.decode(), values[-1].decode()
        except UnicodeDecodeError:
            raise BadRequest("the query is no UTF-8") from None
        if len(values) > 1:
            raise BadRequest(f"{name} stands twice")
        fields[name] = value
    return fields
