"""Many sockets at one time with one token (T5 of reliability.md), over real connections."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from tests.integration.parts import Server, folder, until
from tests.wires import request

TOKENS = 200
SOCKETS = 20
#: So many tokens are used at one time.
AT_ONCE = 20

#: Notes each start by the name of its reservation; offers a port where nobody says a word.
COUNTING = r"""
import pathlib, socket
from wsserver import RemoteServiceScript

LISTENER = socket.create_server(("127.0.0.1", 0), backlog=1024)

class Counting(RemoteServiceScript):
    def start(self):
        with pathlib.Path(self._common_options["starts"]).open("a") as starts:
            starts.write(self._options["name"] + "\n")
        return LISTENER.getsockname()
"""
#: One client does it all here.
UNLIMITED = ("max_starting", "max_connections_per_address", "max_reservations_per_address")


class ReplayTests(SynchronousTestCase):
    def serve(self, connections: int) -> Server:
        home = self.enterContext(folder())
        (home / "counting.py").write_text(COUNTING)
        self.starts = home / "starts"
        self.starts.touch()
        entry = {
            "script": "counting.py",
            "count": TOKENS,
            "options": {"starts": str(self.starts)},
            "max_connections": connections,
        }
        file = home / "services.json"
        file.write_text(json.dumps({"Counting": entry}))
        limits = [word for name in UNLIMITED for word in (f"--{name}", 0)]
        return self.enterContext(Server("-c", file, "--http_port", 0, *limits))

    def started(self) -> Counter[str]:
        return Counter(self.starts.read_text().split())

    def test_many_sockets(self) -> None:
        """Of twenty sockets so many get in as may share the token; its service starts once."""
        for connections in (1, 3):
            with self.subTest(connections=connections):
                self.check(self.serve(connections), connections)

    def check(self, server: Server, connections: int) -> None:
        tokens = {f"n{n}": server.reserve("Counting", f"name=n{n}") for n in range(TOKENS)}
        answers = asyncio.run(self.dial_all(server.http_port, tokens))
        expected = Counter({101: connections, 409: SOCKETS - connections})
        self.assertEqual([Counter(codes) for codes in answers], [expected] * TOKENS)
        until(lambda: not server.instances("Counting"), 60)
        once = Counter(dict.fromkeys(tokens, 1))
        self.assertEqual(self.started(), once)
        # Dead for ever.
        some = dict(list(tokens.items())[:5])
        again = asyncio.run(self.dial_all(server.http_port, some))
        self.assertEqual([Counter(codes) for codes in again], [Counter({404: SOCKETS})] * 5)
        self.assertEqual(self.started(), once)

    async def dial_all(self, port: int, tokens: dict[str, str]) -> list[list[int]]:
        """Return the answers to the sockets of each token."""
        limit = asyncio.Semaphore(AT_ONCE)

        async def dial(name: str, token: str) -> list[int]:
            async with limit:
                ends = [asyncio.open_connection("127.0.0.1", port) for _ in range(SOCKETS)]
                links = await asyncio.gather(*ends)
                for _, writer in links:
                    writer.write(request(f"?token={token}"))
                heads = await asyncio.gather(*(reader.readline() for reader, _ in links))
                # Nobody leaves before the service has started.
                async with asyncio.timeout(60):
                    while name not in self.started():
                        await asyncio.sleep(0.02)
                for _, writer in links:
                    writer.close()
                return [int(head.split()[1]) for head in heads]

        return await asyncio.gather(*(dial(*pair) for pair in tokens.items()))
