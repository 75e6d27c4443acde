"""The REST door, in memory."""

from __future__ import annotations

from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource

from tests.fakes import WALL, FakeScript, Shows, Slow, make_desk, make_doorkeeper, make_offer
from tests.wires import DONE, Reply, Wire, ask, ask_raw
from wsserver.access import Caller
from wsserver.api import Api
from wsserver.channel import HTTPSite
from wsserver.config import Limits
from wsserver.forwarded import Proxies
from wsserver.identity import Source
from wsserver.lifecycle import Event
from wsserver.offers import Script
from wsserver.origins import Origins
from wsserver.site import Root


def pick(common_options: Any, options: Any) -> None:
    if options.get("size") == "wrong":
        raise ValueError("size must be right")


#: What browsers say where a page of another site asks.
FOREIGN = (
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site", "Origin": "http://localhost:3000"},
    {"Origin": "http://evil.example"},
    {"Referer": "http://evil.example/page"},
)


class ApiCase(TestCase):
    secret: str | None = None
    sources: tuple[Source, ...] = ()
    bind = acting = False
    picky = {"page": "terminal.html"}

    def setUp(self) -> None:
        self.clock = Clock()
        self.desk = make_desk(
            self.clock,
            make_offer("Demo one", options={"sizes": ["1x1"], "file_ext": [".CASE", "stl"]}),
            make_offer("Picky", script=Script(FakeScript, check=pick), options=self.picky),
            make_offer("Members", options={"group": "staff"}),
            make_offer("Broken", unavailable="no Xvnc"),
        )
        self.stops: list[str] = []
        self.serve()

    def serve(self, *rest: Any, **named: Any) -> None:
        """Serve with what comes last in the arguments of Api."""
        page = lambda request, desk, caller: b"<table>"  # noqa: E731
        keeper = make_doorkeeper(self.desk, *self.sources, secret=self.secret, bind_user=self.bind)
        self.api = Api(self.desk, keeper, self.stop, page, self.acting, *rest, **named)
        self.site = HTTPSite(Root(self.api.app.resource(), Resource()))

    def stop(self) -> None:
        self.stops.append("stop")

    async def get(self, path: str, **more: str) -> Reply:
        return await ask(self.site, path, **more)

    async def assert_refused(self, path: str, code: int, error: str, **more: str) -> Reply:
        """Every refusal has a status, a reason phrase, and JSON with the same words."""
        reply = await self.get(path, **more)
        self.assertEqual((reply.code, reply.json["error"]), (code, error))
        self.assertEqual(reply.reason, reply.json["message"])
        self.assertEqual(reply.headers["Content-Type"], "application/json")
        return reply


class OpenApiTests(ApiCase):
    """Without a security token everybody is a caller."""

    async def test_reserve(self) -> None:
        """The answer holds the token; query fields become options."""
        reply = await self.get("/v1/reserve/Demo%20one?colour=red&note=%C3%A4")
        self.assertEqual((reply.code, reply.reason), (200, "OK"))
        self.assertEqual(
            reply.json,
            {
                "token": "token-1",
                "service": "Demo one",
                "index": 0,
                "expires_in": 300.0,
                "websocket_port": None,
            },
        )
        self.assertEqual(self.desk.live()[0].options, {"colour": "red", "note": "ä"})
        self.assertEqual(reply.headers["Cache-Control"], "no-store")

    async def test_post(self) -> None:
        """What changes something may be posted as well, with or without a last slash."""
        made = await self.get("/v1/reserve/Demo%20one/", method="POST")
        reply = await self.get(f"/v1/release/{made.json['token']}", method="POST")
        self.assertEqual(reply.code, 200)
        self.assertEqual(self.desk.live(), [])

    async def test_posted_options(self) -> None:
        """A posted form holds options as the query does."""
        body = b"colour=red"
        raw = (
            b"POST /v1/reserve/Picky?size=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n"
        )
        self.assertEqual((await ask_raw(self.site, raw % len(body) + body)).code, 200)
        self.assertEqual(self.desk.live()[0].options, {"colour": "red", "size": "1"})

    async def test_head(self) -> None:
        """To look at a call that changes something does not make the change."""
        await self.get("/v1/reserve/Picky")
        for path in ("stop", "reserve/Picky", "release/token-1"):
            reply = await self.get(f"/v1/{path}", method="HEAD")
            self.assertEqual((reply.code, reply.headers["Allow"]), (405, "GET, POST"))
        self.assertEqual((self.stops, len(self.desk.live())), ([], 1))
        self.assertEqual((await self.get("/v1/status", method="HEAD")).code, 200)

    async def test_reserve_refusals(self) -> None:
        """Each refusal says why, in the reason phrase and in JSON."""
        await self.assert_refused("/v1/reserve/None", 404, "NoSuchService")
        await self.assert_refused("/v1/reserve/Members", 403, "Forbidden")
        await self.assert_refused("/v1/reserve/Broken", 503, "Unavailable")
        reply = await self.assert_refused("/v1/reserve/Picky?size=wrong", 400, "BadRequest")
        self.assertEqual(reply.reason, "size must be right")
        await self.assert_refused("/v1/reserve/Picky?a=1&a=2", 400, "BadRequest")
        await self.assert_refused("/v1/reserve/Picky?a=%ff", 400, "BadRequest")
        await self.assert_refused("/v1/reserve/Picky?%ff=a", 400, "BadRequest")
        self.assertEqual(self.desk.live(), [])

    async def test_full(self) -> None:
        """A full service says when to ask again."""
        for _ in range(2):
            await self.get("/v1/reserve/Picky")
        self.clock.advance(100)
        reply = await self.assert_refused("/v1/reserve/Picky", 503, "AtCapacity")
        self.assertEqual(reply.headers["Retry-After"], "200")

    async def test_draining(self) -> None:
        """A server that stops takes no reservations."""
        self.desk.drain()
        await self.assert_refused("/v1/reserve/Picky", 503, "ShuttingDown")

    async def test_release(self) -> None:
        """An unknown token cannot be released; a released one is unknown."""
        await self.assert_refused("/v1/release/nobody", 404, "NoSuchToken")
        await self.get("/v1/reserve/Picky")
        self.assertEqual((await self.get("/v1/release/token-1")).code, 200)
        await self.assert_refused("/v1/release/token-1", 404, "NoSuchToken")

    async def test_services(self) -> None:
        """What may be reserved is listed, with free counts; group services are not."""
        await self.get("/v1/reserve/Demo%20one")
        reply = await self.get("/v1/services")
        demo, picky, broken = reply.json
        self.assertEqual(
            demo,
            {
                "name": "Demo one",
                "count": 2,
                "free": 1,
                "available": True,
                "reason": None,
                "sizes": ["1x1"],
                "page": "viewer.html",
                "reserve_options": [],
                "retry_in": 300,
            },
        )
        self.assertEqual((picky["name"], picky["page"]), ("Picky", "terminal.html"))
        self.assertEqual((broken["available"], broken["reason"]), (False, "no Xvnc"))

    async def test_reserve_options(self) -> None:
        """The options of a reservation are described, checked, and filled in."""
        rules = {"nodes": {"type": "integer", "default": 2}}
        self.desk = make_desk(self.clock, make_offer(options={"reserve_options": rules}))
        self.serve()
        (service,) = (await self.get("/v1/services")).json
        (described,) = service["reserve_options"]
        self.assertEqual((described["name"], described["default"]), ("nodes", "2"))
        await self.assert_refused("/v1/reserve/Demo?nodes=many", 400, "BadRequest")
        await self.get("/v1/reserve/Demo")
        self.assertEqual(self.desk.live()[0].options, {"nodes": "2"})

    async def test_file_ext(self) -> None:
        """A file extension chooses services, without case, with or without a dot."""
        for extension, found in (("case", 1), (".STL", 1), ("txt", 0)):
            reply = await self.get(f"/v1/services?file_ext={extension}")
            self.assertEqual(len(reply.json), found, extension)

    async def test_status(self) -> None:
        """Each service with its live instances, as documented."""
        await self.get("/v1/reserve/Picky?a=b")
        self.desk.claim("token-1", "192.0.2.7")
        self.desk.note("token-1", "queued")
        self.desk.share("token-1", {"password": "canary"})
        status = (await self.get("/v1/status")).json
        self.assertEqual([s["name"] for s in status], list(self.desk.offers))
        self.assertEqual(
            status[1],
            {
                "name": "Picky",
                "count": 2,
                "common_options": self.picky,
                "instances": [
                    {
                        "index": 0,
                        "token": "token-1",
                        "user": None,
                        "timestamp": WALL,
                        "options": {"a": "b"},
                        "state": "starting",
                        "client": "192.0.2.7",
                        "progress": "queued",
                        "steps": ["queued"],
                        "held": "",
                    }
                ],
            },
        )
        self.desk.report("token-1", Event.CLOSE)
        self.desk.report("token-1", Event.STOPPED)
        self.assertEqual((await self.get("/v1/status")).json[1]["instances"], [])

    async def test_client(self) -> None:
        """A reservation knows who made it, until somebody uses it."""
        await self.get("/v1/reserve/Picky")
        self.assertEqual(self.desk.find("token-1").client, "127.0.0.1")

    async def test_too_many(self) -> None:
        """An address has its number of unused reservations, and is told when to come back."""
        self.desk._limits = Limits(max_reservations_per_address=1)
        self.assertEqual((await self.get("/v1/reserve/Picky")).code, 200)
        reply = await self.get("/v1/reserve/Picky")
        self.assertEqual((reply.code, reply.json["error"]), (429, "TooMany"))
        self.assertEqual(reply.headers["Retry-After"], "300")
        self.desk.claim("token-1")
        self.assertEqual((await self.get("/v1/reserve/Picky")).code, 200)

    async def test_status_view(self) -> None:
        """The page for people comes from the pages."""
        self.assertEqual((await self.get("/v1/status_view")).body, b"<table>")

    async def test_stop(self) -> None:
        """The server answers, and then stops."""
        reply = await self.get("/v1/stop")
        self.assertEqual((reply.code, reply.json), (200, {"stopping": True}))
        self.assertEqual(self.stops, ["stop"])
        self.assertEqual((await self.get("/v1/stop", method="POST")).code, 200)
        self.assertEqual(self.stops, ["stop", "stop"])

    async def test_stop_answers_first(self) -> None:
        """The answer of /v1/stop is written before anything stops."""
        written: list[bytes] = []
        channel = self.site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 5000))
        wire = Wire(80, 5000)
        self.stop = lambda: written.append(wire.value())  # type: ignore[method-assign]
        self.api._stop = self.stop
        channel.makeConnection(wire)
        channel.dataReceived(b"GET /v1/stop HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        channel.connectionLost(DONE)
        self.assertEqual(len(written), 1)
        self.assertIn(b'{"stopping": true}', written[0])

    async def test_what_does_not_exist(self) -> None:
        """Unknown paths and methods are told in JSON, too."""
        await self.assert_refused("/v1/nothing", 404, "NotFound")
        await self.assert_refused("/v1", 404, "NotFound")
        reply = await self.assert_refused("/v1/status", 405, "MethodNotAllowed", method="DELETE")
        self.assertIn("GET", reply.headers["Allow"])
        for path in ("services", "status", "status_view"):
            await self.assert_refused(f"/v1/{path}", 405, "MethodNotAllowed", method="POST")

    async def test_no_redirect(self) -> None:
        """A slash too many never redirects to what the Host header says."""
        reply = await self.get("/v1/status/", Host="evil.example")
        self.assertEqual(reply.code, 200)
        self.assertNotIn("Location", reply.headers)

    async def test_bug(self) -> None:
        """A bug of ours is logged, and told without details."""
        self.patch(self.desk, "live", lambda: 1 / 0)
        reply = await self.assert_refused("/v1/status", 500, "InternalError")
        self.assertNotIn(b"division", reply.body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    async def test_websocket_port(self) -> None:
        """The websocket port is told to who asked this port, not to who came by a proxy."""
        self.api.websocket_port = 9999
        for host, expected in (("here:80", 9999), ("here", None), ("proxy:443", None)):
            raw = f"GET /v1/reserve/Demo%20one HTTP/1.1\r\nHost: {host}\r\n"
            reply = await ask_raw(self.site, f"{raw}Connection: close\r\n\r\n".encode())
            self.assertEqual(reply.json["websocket_port"], expected, host)
            self.desk.release(reply.json["token"])


class PageTests(ApiCase):
    """Pages of other sites change nothing; what is no browser is not asked."""

    async def test_foreign(self) -> None:
        """Neither reserve nor stop; what changes nothing is answered."""
        await self.get("/v1/reserve/Demo%20one")
        for fields in FOREIGN:
            for path in ("reserve/Picky", "stop"):
                await self.assert_refused(f"/v1/{path}", 403, "Forbidden", **fields)
                reply = await self.get(f"/v1/{path}", method="POST", **fields)
                self.assertEqual(reply.code, 403, (path, fields))
            self.assertEqual((await self.get("/v1/services", **fields)).code, 200)
        self.assertEqual((self.stops, len(self.desk.live())), ([], 1))

    async def test_own(self) -> None:
        """Our own pages are served."""
        for fields in (
            {"Sec_Fetch_Site": "same-origin", "Origin": "http://localhost:80"},
            {"Origin": "http://localhost:80"},
            {"Referer": "http://localhost:80/"},
        ):
            made = await self.get("/v1/reserve/Picky", method="POST", **fields)
            self.assertEqual(made.code, 200)
            self.desk.release(made.json["token"])

    async def test_release(self) -> None:
        """Whoever knows the token releases, whatever page that is: one closes, one embeds us."""
        for fields in (*FOREIGN, {"Origin": "null"}, {"Sec_Fetch_Site": "same-site"}):
            made = (await self.get("/v1/reserve/Picky")).json
            path = f"/v1/release/{made['token']}"
            self.assertEqual((await self.get(path, method="POST", **fields)).code, 200, fields)
            await self.assert_refused(path, 404, "NoSuchToken", **fields)

    async def test_loaded(self) -> None:
        """A picture of a page that hides where it is changes nothing; a POST, or a token, does."""
        firefox = {"User_Agent": "Mozilla/5.0 (X11) Firefox/140.0"}
        for path in ("reserve/Picky", "stop"):
            await self.assert_refused(f"/v1/{path}", 403, "Forbidden", **firefox)
        self.assertEqual((self.stops, self.desk.live()), ([], []))
        self.assertEqual((await self.get("/v1/services", **firefox)).code, 200)
        reply = await self.get("/v1/reserve/Picky", method="POST", **firefox)
        self.assertEqual(reply.code, 200)
        bearer = await self.get("/v1/reserve/Picky", Authorization="Bearer x", **firefox)
        self.assertEqual(bearer.code, 200)

    async def test_listed(self) -> None:
        """Pages of a listed origin are served."""
        self.serve(Origins(["https://app.example"]))
        fields = {"Origin": "https://app.example", "Sec_Fetch_Site": "cross-site"}
        self.assertEqual((await self.get("/v1/reserve/Picky", **fields)).code, 200)

    async def test_proxy(self) -> None:
        """The host that the browser asked for is told by a listed proxy."""
        fields = {"Origin": "https://site.example", "X_Forwarded_Host": "site.example"}
        self.assertEqual((await self.get("/v1/reserve/Picky", **fields)).code, 403)
        self.serve(proxies=Proxies(["127.0.0.1"]))
        self.assertEqual((await self.get("/v1/reserve/Picky", **fields)).code, 200)

    async def test_stop_from_here_alone(self) -> None:
        """Without a security token nobody elsewhere stops the server."""
        for fields in ({"X_Forwarded_For": "127.0.0.1"}, {"Forwarded": "for=127.0.0.1"}):
            await self.assert_refused("/v1/stop", 403, "Forbidden", **fields)
        self.serve(proxies=Proxies(["127.0.0.1"]))
        await self.assert_refused("/v1/stop", 403, "Forbidden")
        self.serve()
        self.patch(Wire, "getPeer", lambda wire: IPv4Address("TCP", "192.0.2.1", 5000))
        await self.assert_refused("/v1/stop", 403, "Forbidden")
        self.assertEqual(self.stops, [])


class SecurityTokenTests(ApiCase):
    """With a security token only those who have it are callers."""

    secret = "sesame"

    async def test_needed(self) -> None:
        """Every call but the release needs it."""
        await self.assert_refused("/v1/status", 401, "Unauthorized", Authorization="Basic sesame")
        for path in ("services", "status", "status_view", "stop", "reserve/Picky"):
            reply = await self.assert_refused(f"/v1/{path}", 401, "Unauthorized")
            self.assertEqual(reply.headers["WWW-Authenticate"], "Bearer")
            await self.assert_refused(f"/v1/{path}?security_token=no", 401, "Unauthorized")
        self.assertEqual((self.stops, self.desk.live()), ([], []))

    async def test_given(self) -> None:
        """It may stand in the query or in a header, and is no option."""
        self.assertEqual((await self.get("/v1/reserve/Picky?security_token=sesame&a=b")).code, 200)
        self.assertEqual(self.desk.live()[0].options, {"a": "b"})
        reply = await self.get("/v1/reserve/Members", Authorization="Bearer sesame")
        self.assertEqual(reply.code, 200)
        reply = await self.get("/v1/services", Authorization="bearer  sesame")
        self.assertIn("Members", [service["name"] for service in reply.json])

    async def test_given_twice(self) -> None:
        """What stands in the query counts before what stands in a header."""
        path = "/v1/status?security_token=no"
        await self.assert_refused(path, 401, "Unauthorized", Authorization="Bearer sesame")

    async def test_foreign_pages(self) -> None:
        """A page of another site is served where it shows the security token."""
        for fields in FOREIGN:
            reply = await self.get("/v1/reserve/Picky?security_token=sesame", **fields)
            self.assertEqual(reply.code, 200, fields)
            self.desk.release(reply.json["token"])
        bearer = {"Authorization": "Bearer sesame", **FOREIGN[0]}
        self.assertEqual((await self.get("/v1/stop", **bearer)).code, 200)
        await self.assert_refused("/v1/stop?security_token=x", 401, "Unauthorized", **FOREIGN[0])

    async def test_release_without(self) -> None:
        """A browser releases by the reservation's token alone."""
        await self.get("/v1/reserve/Picky?security_token=sesame")
        self.assertEqual((await self.get("/v1/release/token-1")).code, 200)

    async def test_guessing(self) -> None:
        """After five wrong ones an address has to wait, also with the right one."""
        for _ in range(5):
            await self.assert_refused("/v1/status?security_token=no", 401, "Unauthorized")
        for secret in ("no", "sesame"):
            path = f"/v1/status?security_token={secret}"
            reply = await self.assert_refused(path, 429, "TooManyFailures")
            self.assertEqual(reply.headers["Retry-After"], "301")

    async def test_fields(self) -> None:
        """user and groups are options as any other, unless it is set otherwise."""
        await self.get("/v1/reserve/Picky?security_token=sesame&user=alice&groups=a")
        (made,) = self.desk.live()
        self.assertEqual((made.user, made.options), (None, {"user": "alice", "groups": "a"}))


class ActingTests(ApiCase):
    """The trusted application may act for a user."""

    secret = "sesame"
    acting = True
    sources = (Shows(bob=Caller(user="bob", groups=frozenset({"staff"}))),)

    async def reserve(self, query: str, service: str = "Members") -> Reply:
        return await self.get(f"/v1/reserve/{service}?security_token=sesame&{query}")

    async def test_user(self) -> None:
        """The reservation is that user's, and the fields are no options."""
        self.assertEqual((await self.reserve("user=alice&a=b")).code, 200)
        (made,) = self.desk.live()
        self.assertEqual((made.user, made.options), ("alice", {"a": "b"}))

    async def test_groups(self) -> None:
        """Groups that are named count; where none are, the application has checked."""
        for query, code in (
            ("user=alice&groups=guests,staff", 200),
            ("groups=staff", 200),
            ("user=alice&groups=guests", 403),
            ("user=alice&groups=", 403),
        ):
            reply = await self.reserve(query)
            self.assertEqual(reply.code, code, query)
            if code == 200:
                self.desk.release(reply.json["token"])

    async def test_names(self) -> None:
        """What cannot be a name is refused."""
        for query in ("user=", "user=a%00b", "groups=a,b%0ac", f"user={'x' * 257}"):
            self.assertEqual((await self.reserve(query)).code, 400, query)
        self.assertEqual(self.desk.live(), [])

    async def test_others(self) -> None:
        """A user cannot act for others, nor slip the fields in as options."""
        for query in ("user=alice", "groups=admins", "user=bob"):
            path = f"/v1/reserve/Picky?{query}"
            await self.assert_refused(path, 403, "Forbidden", X_Caller="bob")
        self.assertEqual((await self.get("/v1/reserve/Picky", X_Caller="bob")).code, 200)


class UserTests(ApiCase):
    """Users who can prove who they are."""

    secret = "sesame"
    sources = (
        Shows(
            alice=Caller(user="alice", groups=frozenset({"staff"})),
            bob=Caller(user="bob"),
        ),
    )

    async def test_nobody(self) -> None:
        """Who shows nothing, or something wrong, is told how to log in."""
        reply = await self.assert_refused("/v1/services", 401, "Unauthorized")
        self.assertEqual(reply.headers["WWW-Authenticate"], "Test")
        await self.assert_refused("/v1/services", 401, "Unauthorized", X_Caller="wrong")

    async def test_groups(self) -> None:
        """A service of a group is there for its members alone."""
        for user, listed, code in (("alice", True, 200), ("bob", False, 403)):
            for path, names in (("services", "Members"), ("status", "Members")):
                found = [s["name"] for s in (await self.get(f"/v1/{path}", X_Caller=user)).json]
                self.assertEqual(names in found, listed, (user, path))
            reply = await self.get("/v1/reserve/Members", X_Caller=user)
            self.assertEqual(reply.code, code, user)
        self.assertEqual([made.user for made in self.desk.live()], ["alice"])

    async def test_own_instances(self) -> None:
        """Status shows users their own, and the trusted application all."""
        for user in ("alice", "bob"):
            await self.get("/v1/reserve/Picky", X_Caller=user)
        for shown, seen in (
            ({"X_Caller": "alice"}, ["alice"]),
            ({"X_Caller": "bob"}, ["bob"]),
            ({"Authorization": "Bearer sesame"}, ["alice", "bob"]),
        ):
            reply = await self.get("/v1/status", **shown)
            (picky,) = [s for s in reply.json if s["name"] == "Picky"]
            self.assertEqual([i["user"] for i in picky["instances"]], seen)
            trusted = "Authorization" in shown
            self.assertEqual(picky["common_options"], self.picky if trusted else {})
            self.assertEqual(b"token-1" in reply.body, "alice" in seen)
            self.assertEqual(b"token-2" in reply.body, "bob" in seen)
        reply = await self.assert_refused("/v1/status", 401, "Unauthorized")
        self.assertNotIn(b"token-1", reply.body)

    async def test_no_stop(self) -> None:
        """Users do not stop the server."""
        await self.assert_refused("/v1/stop", 403, "Forbidden", X_Caller="alice")
        self.assertEqual(self.stops, [])

    async def test_release(self) -> None:
        """The token is the permission to release."""
        await self.get("/v1/reserve/Picky", X_Caller="alice")
        self.assertEqual((await self.get("/v1/release/token-1", X_Caller="bob")).code, 200)


class BoundTests(UserTests):
    """A reservation is of use to its own user alone."""

    bind = True

    async def test_release(self) -> None:
        """To others the token is unknown; who shows nothing is asked who they are."""
        await self.get("/v1/reserve/Picky", X_Caller="alice")
        other = await self.assert_refused("/v1/release/token-1", 404, "NoSuchToken", X_Caller="bob")
        none = await self.assert_refused("/v1/release/token-9", 404, "NoSuchToken", X_Caller="bob")
        self.assertEqual((other.body, other.headers), (none.body, none.headers))
        await self.assert_refused("/v1/release/token-1", 401, "Unauthorized")
        self.assertEqual((await self.get("/v1/release/token-1", X_Caller="alice")).code, 200)

    async def test_trusted(self) -> None:
        """The trusted application releases for anybody, and anybody what is nobody's."""
        await self.get("/v1/reserve/Picky", X_Caller="alice")
        reply = await self.get("/v1/release/token-1?security_token=sesame")
        self.assertEqual(reply.code, 200)
        await self.get("/v1/reserve/Picky?security_token=sesame")
        self.assertEqual((await self.get("/v1/release/token-2")).code, 200)


class SlowIdentityTests(ApiCase):
    """It takes a while to know who asks."""

    async def test_gone(self) -> None:
        """Who hangs up meanwhile has reserved nothing."""
        source = Slow()
        self.sources = (source,)
        self.serve()
        channel = self.site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 5000))
        wire = Wire(80, 5000)
        channel.makeConnection(wire)
        channel.dataReceived(b"GET /v1/reserve/Picky HTTP/1.1\r\nHost: x\r\n\r\n")
        channel.connectionLost(DONE)
        source.answer(Caller(user="alice"))
        self.assertEqual((self.desk.live(), wire.take()), ([], b""))

    async def test_answer(self) -> None:
        """Who waits is served."""
        source = Slow()
        self.sources = (source,)
        self.serve()
        asking = Deferred.fromCoroutine(self.get("/v1/reserve/Picky"))
        source.answer(Caller(user="alice"))
        self.assertEqual((await asking).code, 200)
        self.assertEqual(self.desk.live()[0].user, "alice")
