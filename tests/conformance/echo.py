"""The real server, with a tunnel that hands messages back whole.

Run by ``python -m tests.conformance.echo``; command line and all else are those of twistd.

The Autobahn test suite wants its messages back as they were, text among them.  A tunnel
carries bytes, so it keeps no boundaries, and it refuses text (contract.md, "Websocket").
Here each message goes through the production's handshake, scanner, relay and sockets
to a TCP echo service like all bytes; only what was one message on the way there is put
together again on the way back.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import Any

from twisted.scripts.twistd import run

from wsserver import relay, tunnel
from wsserver.frames import Scanner, put_header
from wsserver.relay import HEAD
from wsserver.tunnel import Tunnel

TEXT, BINARY = 1, 2


class EchoScanner(Scanner):
    """Remembers where the plain frames ended that it joins."""

    messages: deque[tuple[int, int]]

    def _row(self, buffer: bytearray, here: int, end: int) -> int:
        count = super()._row(buffer, here, end)
        self.messages.extend([(BINARY, buffer[here + 1] & 0x7F)] * count)
        return count

    def _begin(self, buffer: bytearray, here: int, end: int) -> int:
        size = super()._begin(buffer, here, end)
        if size and not self._foreign:
            self.messages.append((BINARY, self._left))
        return size


class EchoRelay:
    """Mixed into each relay: sends bytes back when their message is whole."""

    def __init__(self, websocket: Any, service: Any, scanner: EchoScanner) -> None:
        self._messages = scanner.messages = websocket.messages
        self._back = bytearray()
        super().__init__(websocket, service, scanner)

    def _send_up(self, buffer: bytearray, start: int, end: int) -> bool:
        free = super()._send_up(buffer, start, end)
        # An empty message makes no byte come back.
        self._answer()
        return free

    def _send_down(self, buffer: bytearray, end: int) -> bool:
        self._back += memoryview(buffer)[HEAD:end]
        self._answer()
        return True

    def _answer(self) -> None:
        while self._messages and self._messages[0][1] <= len(self._back):
            opcode, length = self._messages.popleft()
            payload = bytes(self._back[:length])
            del self._back[:length]
            if not self.down:
                continue
            if opcode == TEXT:
                self._websocket.sendMessage(payload, isBinary=False)
            else:
                # Bytes, as the outlet would take a bytearray for a buffer of the pool.
                head = bytearray(HEAD)
                start = put_header(head, HEAD, length)
                self._to_browser.send(memoryview(bytes(head[start:]) + payload))


class EchoTunnel(Tunnel):
    """Takes text too, and remembers the messages that Autobahn has read."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: deque[tuple[int, int]] = deque()

    def onOpen(self) -> None:
        # All frames shall meet the relay: none comes before the join.
        self.transport.pauseProducing()
        super().onOpen()

    def _join(self, service: Any) -> None:
        super()._join(service)
        self.transport.resumeProducing()

    def onMessageBegin(self, isBinary: bool) -> None:
        super(Tunnel, self).onMessageBegin(isBinary)
        self._message = [BINARY if isBinary else TEXT, 0]

    def onMessageFrameData(self, payload: bytes) -> None:
        self._message[1] += len(payload)
        super().onMessageFrameData(payload)

    def onMessageEnd(self) -> None:
        opcode, length = self._message
        self.messages.append((opcode, length))


def main() -> None:
    """Run twistd with the echo in place of the tunnel."""
    for kind in (relay.Relay, relay.DirectRelay, relay.TLSRelay):
        setattr(relay, kind.__name__, type(kind.__name__, (EchoRelay, kind), {}))
    tunnel.Tunnel, tunnel.Scanner = EchoTunnel, EchoScanner  # type: ignore[misc]
    sys.argv[0] = "twistd"
    run()


if __name__ == "__main__":
    main()
