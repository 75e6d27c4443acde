"""Inject faults into a real server, and check after each that nothing is left or lost.

Usage: python -m tests.faults [--seed N] [--count M] [--rows 5,22] [--report FILE]

Every row comes at least once, then rows are drawn at random until there are M faults.
Exit status 1 where anything did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random

from tests.faults import rows_desk, rows_network, rows_script, rows_server, rows_tunnel
from tests.faults.table import ROWS, Row
from tests.faults.world import Control, Violation, World

MODULES = [rows_script, rows_tunnel, rows_desk, rows_server, rows_network]
#: How many faults are under way at one time; how many come between two looks at everything.
AT_ONCE = 16
BATCH = 100
#: The longest that a row may take, in seconds.
LIMIT = 90
#: Kinds of violations that the report counts in words of their own.
KINDS = {
    "process": "leaked processes",
    "slot": "lost slots",
    "bytes": "lost bytes",
    "error": "unhandled errors",
}


def plan(rows: list[Row], count: int, rng: Random) -> list[Row]:
    """Return the rows in the order of their injection: each once, then at random."""
    first = rng.sample(rows, len(rows))[:count]
    weights = [row.weight for row in rows]
    return first + rng.choices(rows, weights, k=max(0, count - len(first)))


class Run:
    """The injection of many faults, and what came of it."""

    def __init__(self, world: World, control: Control, seed: int) -> None:
        self.world = world
        self.control = control
        self.seed = seed
        self.injected: Counter[str] = Counter()
        self.violations: list[tuple[str, str, str]] = []
        self.seconds: Counter[str] = Counter()
        self._places = asyncio.Semaphore(AT_ONCE)
        self._servers = asyncio.Semaphore(2)

    async def all(self, rows: list[Row]) -> None:
        """Inject faults, several at a time, and look at everything after each batch."""
        baseline = await self.world.census()
        for start in range(0, len(rows), BATCH):
            batch = enumerate(rows[start : start + BATCH], start)
            await asyncio.gather(*(self.one(row, n) for n, row in batch))
            await self.guarded("all", self.world.assert_clean(baseline, self.kept))
            await self.guarded("all", self.control.check())
            done = f"{start + len(rows[start : start + BATCH])} faults"
            memory = f"{self.world.rss():.0f} MiB"
            print(f"{done}, {len(self.violations)} violations, {memory}", flush=True)

    @property
    def kept(self) -> list[str]:
        return [self.control.session.token]

    async def one(self, row: Row, number: int) -> None:
        """Inject one fault."""
        async with self._servers if row.apart else self._places:
            began = time.monotonic()
            await self.guarded(row.number, row.run(self.world, Random(f"{self.seed} {number}")))
            self.injected[row.number] += 1
            self.seconds[row.number] += time.monotonic() - began

    async def guarded(self, where: str, work) -> None:
        """Note what does not hold, and go on."""
        try:
            async with asyncio.timeout(LIMIT):
                await work
        except Exception as error:
            kind = error.kind if isinstance(error, Violation) else type(error).__name__
            self.violations.append((where, kind, str(error)))
            print(f"row {where}: {kind}", flush=True)
            traceback.print_exc()

    def report(self) -> str:
        """Return the table and the totals."""
        bad = Counter(where for where, _, _ in self.violations)
        lines = [f"{'row':>5}  {'injected':>8}  {'violations':>10}  {'s each':>6}  fault"]
        for number in ROWS:
            if n := self.injected[number]:
                each = self.seconds[number] / n
                title = ROWS[number].title
                lines.append(f"{number:>5}  {n:>8}  {bad[number]:>10}  {each:>6.2f}  {title}")
        kinds = Counter(kind for _, kind, _ in self.violations)
        starts = Counter(note[2] for note in self.world.notes.all() if note[1] == "start")
        lags = self.control.lags
        lines += [
            "",
            f"seed {self.seed}: {sum(self.injected.values())} faults, "
            f"{len(self.violations)} violations",
            ", ".join(f"{kinds[kind]} {words}" for kind, words in KINDS.items()),
            f"{len(starts)} starts, at most {max(starts.values(), default=0)} for each token",
            f"control session: {sum(n for n, *_ in lags)} echoes, median "
            f"{sorted(m for _, m, *_ in lags)[len(lags) // 2]:.1f} ms, longest "
            f"{max(high for *_, high in lags):.0f} ms",
            f"server: {self.world.rss():.0f} MiB, {self.world.threads()} threads",
        ]
        return "\n".join(lines)


async def main(seed: int, count: int, rows: list[Row]) -> tuple[str, bool]:
    """Run; return the report, and whether all held."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        async with World(Path(folder)) as world, Control(world) as control:
            run = Run(world, control, seed)
            await run.all(plan(rows, count, Random(seed)))
            text = run.report() + f"\n{time.monotonic() - began:.0f} s"
        if run.violations:
            print("\n".join(world.server.log.splitlines()[-60:]))
    return text, not run.violations


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--count", type=int, default=0, help="0: each row once")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--report", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    given = arguments()
    chosen = [ROWS[number] for number in given.rows.split(",")]
    print(f"seed {given.seed}", flush=True)
    text, held = asyncio.run(main(given.seed, given.count or len(chosen), chosen))
    print(text)
    if given.report:
        given.report.write_text(text + "\n")
    sys.exit(not held)
