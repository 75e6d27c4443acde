"""wsserver inside a reactor that does something else as well.

Run it: python examples/embed.py [HTTP_PORT] [OTHER_PORT]
"""

import sys

from twisted.internet import endpoints, reactor
from twisted.internet.protocol import Factory, Protocol

from wsserver import make_service


class Shout(Protocol):
    """The other service: answers in capitals."""

    def dataReceived(self, data: bytes) -> None:
        """Answer, or end wsserver alone on "stop"."""
        if data.strip() == b"stop":
            stopped = server.stopService()
            stopped.addCallback(lambda _: self.transport.write(b"STOPPED\n"))
        else:
            self.transport.write(data.upper())


http_port, other_port = map(int, sys.argv[1:3] or (9090, 9091))
server = make_service(reactor, http_port=http_port, interface="127.0.0.1")
server.startService()
reactor.addSystemEventTrigger("before", "shutdown", server.stopService)

where = endpoints.TCP4ServerEndpoint(reactor, other_port, interface="127.0.0.1")
where.listen(Factory.forProtocol(Shout))
print(f"http://127.0.0.1:{http_port}/ and a shout on {other_port}", flush=True)
reactor.run()
