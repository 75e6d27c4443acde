"""The opening handshake of a websocket: bounded, and refused as any HTTP client understands.

Autobahn speaks it (RFC 6455, section 4).  URLs and refusals: contract.md, "Websocket".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from wsserver.admission import Visit
from wsserver.arrivals import refusal_of
from wsserver.errors import BadRequest, WSServerError
from wsserver.identity import Credentials
from wsserver.logs import MAX_LINE, log_request, redact
from wsserver.origins import Asked

#: The largest request head, in bytes, as in twisted.web.
HEAD_BYTES = 16 * 1024

_log = Logger(namespace="wsserver.tunnel")


class Handshake(WebSocketServerProtocol):
    """A websocket up to the answer to its request."""

    #: What Autobahn has not understood yet.
    data: bytes

    #: The address of who asks, once its request is there.
    client = ""

    _refusal: WSServerError | None = None
    _visit: Visit | None = None
    #: What decides on the request; it takes a while where a password has to be checked.
    _decision: Deferred[str | None] | None = None

    def claim(self, token: str | None, socket_name: str | None) -> None:
        """Accept what the query asks for, or raise a WSServerError."""
        raise NotImplementedError

    def onConnect(self, request: ConnectionRequest) -> Deferred[str | None]:
        """Refuse with a real HTTP status foreign pages, who may not use a token, failed claims."""
        self._decision = Deferred.fromCoroutine(self._decide(request))
        return self._decision

    async def _decide(self, request: ConnectionRequest) -> str | None:
        try:
            self._admit(request.headers)
            self._check_host(request.headers)
            self.factory.origins.check_websocket(self._asked(request.headers))
            token, socket_name = _query(self.http_request_uri)
            await self._ask(token, self._shown(request.headers))
            self.claim(token, socket_name)
        except CancelledError:
            # Nobody is there any more to read it.
            raise ConnectionDeny(ConnectionDeny.BAD_REQUEST, "the client has gone") from None
        except WSServerError as error:
            self._refusal = error
            raise ConnectionDeny(error.http_status, str(error)) from error
        except Exception as error:
            # Autobahn would tell the client what went wrong.
            _log.failure("a token could not be claimed")
            raise ConnectionDeny(500, "internal error") from error
        log_request(self.client, "GET", self.http_request_uri, 101, 0)
        return "binary" if "binary" in request.protocols else None

    async def _ask(self, token: str | None, shown: Credentials) -> None:
        """Let in who may use a token, or the fixed host; raise a WSServerError for others."""
        doorkeeper = self.factory.doorkeeper
        if doorkeeper is None:
            return
        if token is not None:
            await doorkeeper.check_holder(token, shown)
        elif self.factory.basic is not None:
            await doorkeeper.check_guest(shown)

    def _admit(self, headers: Mapping[str, str]) -> None:
        """Count the websocket; raise TooMany or AtCapacity where it is one too many."""
        peer = self.transport.getPeer().host
        self.client = self.factory.proxies.client(peer, headers.get("x-forwarded-for"))
        refusal = refusal_of(self.transport)
        if refusal is None and self.client != peer:
            # Only the proxy's connection was counted when it came in.
            self._visit = self.factory.admission.visit(self.client)
            refusal = self._visit.refusal
        if refusal is not None:
            raise refusal

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone: it counts no more, and nobody is let in any more."""
        self._give_up()
        if self._visit is not None:
            self._visit.end()
        super().connectionLost(reason)

    def _check_host(self, headers: Mapping[str, str]) -> None:
        """Raise Misdirected where the request is for a host that is not ours."""
        told = headers.get("x-forwarded-host")
        peer = self.transport.getPeer().host
        host = self.factory.proxies.asked_host(peer, headers.get("host"), told)
        self.factory.hosts.check(host)

    def _asked(self, headers: Mapping[str, str]) -> Asked:
        peer = self.transport.getPeer()
        told = self.factory.proxies.host(peer.host, headers.get("x-forwarded-host"))
        return Asked(told or headers.get("host"), headers.get("origin"))

    def _shown(self, headers: Mapping[str, str]) -> Credentials:
        def values(name: str) -> Sequence[str]:
            # Autobahn joins what stands twice, with a comma: that is no name that anybody has.
            return [headers[name.lower()]] if name.lower() in headers else []

        return Credentials(self.transport.getPeer().host, self.client, values)

    def sendHttpErrorResponse(
        self,
        code: int,
        reason: str,
        responseHeaders: Any = None,  # noqa: N803
    ) -> None:
        """Answer a refused handshake; what Autobahn says may hold parts of the request."""
        reason = redact(reason[:MAX_LINE])
        # Autobahn says that of HTTP/1.0; what a client does wrong is no failure of ours.
        code = 400 if code == 505 else code
        body = f"{reason}\n".encode()
        headers = [*self.factory.http_headers, ("Content-Type", "text/plain; charset=utf-8")]
        headers += [("Content-Length", str(len(body))), ("Connection", "close")]
        if self._refusal is not None and self._refusal.retry_after is not None:
            headers.append(("Retry-After", str(self._refusal.retry_after)))
        if code == 401:
            challenges = self.factory.doorkeeper.identity.challenges
            headers += [("WWW-Authenticate", challenge) for challenge in challenges]
        phrase = "".join(c if c.isprintable() else " " for c in reason)
        lines = [f"HTTP/1.1 {code} {phrase}", *(f"{k}: {v}" for k, v in headers), "", ""]
        self.sendData("\r\n".join(lines).encode() + body)
        client = self.client or self.transport.getPeer().host
        log_request(client, "GET", getattr(self, "http_request_uri", "-"), code, len(body))

    def onOpenHandshakeTimeout(self) -> None:  # noqa: N802
        """Give up, but a turn later: where the reactor was late, what has arrived is heard."""
        self.factory.reactor.callLater(0, super().onOpenHandshakeTimeout)

    def _dataReceived(self, data: bytes) -> None:
        """Bound the request head, which Autobahn does not, and what comes before its answer."""
        if self.state == self.STATE_CONNECTING:
            if self._decision is not None and not self._decision.called:
                self._keep(data)
                return
            head = self.data + data[: HEAD_BYTES + 4]
            end = head.find(b"\r\n\r\n")
            if end > HEAD_BYTES or (end < 0 and len(head) > HEAD_BYTES):
                self.failHandshake("the request head is too large", 431)
                return
            if end >= 0 and not _is_request_line(head[: head.find(b"\r\n")]):
                self.failHandshake("the request line cannot be understood", 400)
                return
        super()._dataReceived(data)

    def _keep(self, data: bytes) -> None:
        """Keep what comes before the answer: Autobahn would take it for a second request."""
        self.data += data
        if len(self.data) > HEAD_BYTES:
            self.transport.abortConnection()
            self._give_up()

    def _give_up(self) -> None:
        if self._decision is not None:
            self._decision.cancel()


def _is_request_line(line: bytes) -> bool:
    """Tell whether three words stand there, apart by spaces alone (RFC 9112, section 3).

    Autobahn would part them at any white space of Unicode.
    """
    text = line.decode("latin-1")
    return text.count(" ") == 2 and text.split() == text.split(" ")


def _query(uri: str) -> tuple[str | None, str | None]:
    """Return ``token`` and ``socket`` of a request."""
    try:
        query = urlsplit(uri).query
        fields = parse_qs(query, keep_blank_values=True, max_num_fields=1000, errors="strict")
    except ValueError:
        raise BadRequest("the query cannot be understood") from None
    return _single(fields, "token"), _single(fields, "socket")


def _single(fields: dict[str, list[str]], name: str) -> str | None:
    values = fields.get(name, [])
    if len(values) > 1:
        raise BadRequest(f"{name} stands twice")
    return values[0] if values else None
