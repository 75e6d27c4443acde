"""Websockets on the HTTP port: the connection of an upgrade request changes hands."""

from __future__ import annotations

from typing import Any

from autobahn.twisted.resource import WebSocketResource
from twisted.protocols.policies import ProtocolWrapper


class Upgrade(WebSocketResource):
    """Hands a connection on to a websocket, with all that came right behind its request."""

    def render(self, request: Any) -> Any:
        """Answer the request, or begin to."""
        channel, transport = request.channel, request.channel.transport
        answer = super().render(request)
        if channel.transport is None:
            # Autobahn has taken it, and has left what the channel had read already.
            below_tls = isinstance(transport, ProtocolWrapper)
            channel.hand_on(transport.wrappedProtocol if below_tls else transport.protocol)
        return answer
