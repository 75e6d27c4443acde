"""``make fuzz COUNT=...``: heads, frames, REST and files, seeded; exit status 1 on any problem."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

from tests.fuzz.frames import fuzz_frames
from tests.fuzz.handshakes import fuzz_handshakes
from tests.fuzz.paths import fuzz_paths
from tests.fuzz.report import Problem
from tests.fuzz.rest import fuzz_rest

#: How many problems of a part are printed.
SHOWN = 10


def main() -> int:
    """Run what is asked for; return the exit status."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="how many of each part")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rest_seconds", type=int, default=24, help="for schemathesis, 0 for none")
    parser.add_argument("--only", choices=("handshakes", "frames", "paths", "rest"))
    args = parser.parse_args()
    over_sockets = min(args.count // 2, 20_000)
    parts = {
        "handshakes": (args.count, fuzz_handshakes(args.count, args.seed)),
        "frames": (args.count, fuzz_frames(args.count, args.seed)),
        "paths": (over_sockets, fuzz_paths(over_sockets, args.seed)),
        "rest": (0, fuzz_rest(args.rest_seconds, args.seed)),
    }
    if not args.rest_seconds:
        del parts["rest"]
    wanted = {name: part for name, part in parts.items() if args.only in (None, name)}
    return sum(_run(name, count, part) for name, (count, part) in wanted.items()) > 0


def _run(name: str, count: int, part: Iterator[Problem]) -> int:
    began, problems = time.monotonic(), 0
    for problem in part:
        problems += 1
        if problems <= SHOWN:
            print(f"{problem.part}: {problem.what}", flush=True)
    seconds = time.monotonic() - began
    rate = f"{count} in {seconds:.1f} s, {count / seconds:.0f}/s" if count else f"{seconds:.1f} s"
    print(f"{name}: {rate}, {problems or 'no'} problems", flush=True)
    return problems


if __name__ == "__main__":
    sys.exit(main())
