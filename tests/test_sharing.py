"""REST for the pages of listed origins, in memory."""

from __future__ import annotations

from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.static import Data

from tests.wires import Reply, ask
from wsserver.channel import HTTPSite
from wsserver.origins import Origins
from wsserver.sharing import Shared
from wsserver.site import Root

APP = "https://app.example"


class SharedTests(TestCase):
    async def ask(self, *origins: str, method: str = "GET", **fields: str) -> Reply:
        resource = Shared(Data(b"an answer", "text/plain"), Origins(origins))
        return await ask(HTTPSite(Root(resource, Resource())), "/v1/any", method, **fields)

    async def test_listed(self) -> None:
        """The answer says that the page may read it, and that others may not."""
        for origins in ((APP,), ("*",)):
            reply = await self.ask(*origins, Origin=APP)
            self.assertEqual((reply.code, reply.body), (200, b"an answer"))
            self.assertEqual(reply.headers["Access-Control-Allow-Origin"], APP)
            self.assertEqual(reply.headers["Vary"], "Origin")
            self.assertNotIn("Access-Control-Allow-Credentials", reply.headers)

    async def test_preflight(self) -> None:
        """A browser that asks first is told what the page may send."""
        reply = await self.ask(APP, method="OPTIONS", Origin=APP)
        self.assertEqual((reply.code, reply.body), (204, b""))
        self.assertEqual(reply.headers["Access-Control-Allow-Origin"], APP)
        self.assertEqual(reply.headers["Access-Control-Allow-Methods"], "GET, POST")
        self.assertEqual(reply.headers["Access-Control-Allow-Headers"], "Authorization")

    async def test_others(self) -> None:
        """Other origins, and clients without one, get the answer alone."""
        for fields in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Origin": ""}, {}):
            for origins in ((), (APP,)):
                for method in ("GET", "OPTIONS"):
                    reply = await self.ask(*origins, method=method, **fields)
                    named = [name for name in reply.headers if name.startswith("Access-Control")]
                    self.assertEqual(named, [], fields)
                    # The resource itself does not know the method.
                    self.assertEqual(reply.code, 200 if method == "GET" else 501)
