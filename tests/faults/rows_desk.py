"""Rows 38 to 48: tokens that are raced for, used up, released, forgotten; services in demand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import defaultdict
from random import Random
from urllib.parse import quote

from tests.faults.rows_script import echoes
from tests.faults.table import row
from tests.faults.wire import Gone, Refused, connection, fetch, send_all, service
from tests.faults.world import DEADLINES, SERVICES, Session, Violation, World


async def admitted(session: Session) -> bool:
    """Try to connect; tell whether that was accepted."""
    try:
        await session.connect()
    except Refused as refused:
        if refused.status not in (404, 409):
            raise
        return False
    return True


def expect(got: object, *wanted: object) -> None:
    if got not in wanted:
        raise Violation("answer", f"{got}, and not {wanted}")


@row(38, weight=3)
async def many_race_for_a_token(world: World, rng: Random) -> None:
    """Twenty websockets at once with one token: as many get in as may, one start."""
    name = rng.choice(["Double", "Shared"])
    racers = rng.randint(2, 20)
    async with world.session("slow", name, delay=rng.choice([0, 0.1])) as session:
        won = sum(await asyncio.gather(*(admitted(session) for _ in range(racers))))
        limit = SERVICES[name].get("max_connections", 1)
        if won != min(limit, racers):
            raise Violation("start", f"{won} of {racers} were let in")
        await asyncio.sleep(rng.uniform(0, 0.3))


@row(39)
async def token_is_used_again(world: World, rng: Random) -> None:
    """A token that has been used up: 404, however often."""
    async with world.session() as session:
        browser = await session.connect()
        if rng.random() < 0.5:
            await echoes(session, browser)
        browser.close()
        await session.reached("")
        for _ in range(3):
            if await admitted(session):
                raise Violation("start", "a used token was let in")


@row(43, weight=3)
async def expiry_meets_connect(world: World, rng: Random) -> None:
    """A websocket at the instant of the expiry: a whole session, or a clean 404."""
    async with world.session("port", starts=None) as session:
        began = time.monotonic()
        expiry = float(DEADLINES["timeout"]) - 0.01
        await asyncio.sleep(began + expiry + rng.uniform(-0.04, 0.04) - time.monotonic())
        if await admitted(session):
            await echoes(session, session.browsers[0])
        elif "start" in session.notes():
            raise Violation("start", "refused, and started all the same")


@row(44, weight=4)
async def release_at_any_time(world: World, rng: Random) -> None:
    """A release before, during and after everything: one start and one end, or neither."""
    async with world.session("slow", starts=None, delay=rng.uniform(0, 0.2)) as session:
        connecting = asyncio.ensure_future(admitted(session))
        await asyncio.sleep(rng.choice([0, rng.uniform(0, 0.02), rng.uniform(0, 0.6)]))
        for _ in range(rng.randint(1, 3)):
            expect(await session.release(), 200, 404)
        if await connecting:
            with contextlib.suppress(Gone):
                async with asyncio.timeout(20):
                    while True:
                        await session.browsers[0].data()


@row(45)
async def release_again_and_again(world: World, rng: Random) -> None:
    """Live and stopping: 200; unknown and ended: 404; nobody else is concerned."""
    async with world.session("port", "Short", end="never", delay=3) as session:
        await echoes(session, await session.connect())
        for _ in range(3):
            expect(await session.release(), 200)
        expect(await session.state(), "stopping", "quarantined")
        await session.reached("")
        expect(await session.release(), 404)
        unknown = quote(bytes(rng.randbytes(20)))
        expect((await fetch(world.port, f"/v1/release/{unknown}", ""))[0], 404, 400)


@row(46)
async def client_hangs_up_while_reserving(world: World, rng: Random) -> None:
    """A client that does not wait for its token: the reservation expires by itself."""
    world.marks += 1
    mark = f"{world.name}-{world.marks}"
    sock = await connection(world.port)
    head = f"GET /v1/reserve/Double?mark={mark} HTTP/1.1\r\nHost: localhost\r\n"
    await send_all(sock, f"{head}Authorization: Bearer {world.secret}\r\n\r\n".encode())
    await asyncio.sleep(rng.choice([0, 0.01]))
    sock.close()
    deadline = time.monotonic() + 8
    while mark in [i["options"].get("mark") for i in (await world.status()).values()]:
        if time.monotonic() > deadline:
            raise Violation("slot", "a reservation that nobody knows of goes on")


@row(47, weight=0.3)
async def service_is_in_demand(world: World, rng: Random) -> None:
    """Sixteen clients want two instances: never three at once, never one index twice."""
    until = time.monotonic() + 2

    async def client(own: Random) -> None:
        while time.monotonic() < until:
            try:
                async with world.session("port", "Few", starts=None) as session:
                    if own.random() < 0.7:
                        browser = await session.connect()
                        await echoes(session, browser)
            except Refused as refused:
                expect(refused.status, 503)
                await asyncio.sleep(0.02)

    async with world.turn:
        await asyncio.gather(*(client(Random(rng.random())) for _ in range(16)))
        check_leases(world, "Few", 2)


def check_leases(world: World, name: str, limit: int) -> None:
    """Check from the notes that there were never too many instances, or two of one index."""
    spans = defaultdict(list)
    for note in world.notes.all():
        if note[3] == name:
            spans[note[2], note[4]].append(int(note[0]))
    edges = [(min(times), 1, index) for (_, index), times in spans.items()]
    edges += [(max(times), -1, index) for (_, index), times in spans.items()]
    running: defaultdict[str, int] = defaultdict(int)
    for _, step, index in sorted(edges):
        running[index] += step
        if running[index] > 1 or sum(running.values()) > limit:
            raise Violation("slot", f"{dict(running)} instances at once")


@row(48)
async def options_are_odd(world: World, rng: Random) -> None:
    """Options that stand twice, are empty, or come by the thousand: an answer, and no slot lost."""
    query = rng.choice(
        ["a=1&a=2", "a=", "=", "&&&", "a" * 9000, "&".join(f"k{n}=v" for n in range(10_000)),
         "a=%00", "a=%ff%fe", "a=%0d%0aX:1", "%", "a=" + "%41" * 4000]
    )  # fmt: skip
    async with service() as there:
        try:
            status, body = await fetch(
                world.port, f"/v1/reserve/Double?port={there.port}&{query}", world.secret
            )
        except (Gone, ConnectionError):
            return  # twisted.web hangs up on a line that is too long
    expect(status, 200, 400, 413, 414, 431)
    if status == 200:
        token = json.loads(body)["token"]
        expect((await fetch(world.port, f"/v1/release/{token}", ""))[0], 200)
