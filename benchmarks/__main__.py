"""``python -m benchmarks``: run the figures, write the results (``make bench``)."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import plots, report
from benchmarks.peers import Host
from benchmarks.processes import raise_file_limit
from benchmarks.rounds import PARTS, Bench
from benchmarks.service import service

_RESULTS = Path(__file__).parent / "results"


def main() -> None:
    given = _arguments()
    folder = Path(given.output)
    if given.replot:
        plots.draw(json.loads((folder / "results.json").read_text()), folder)
        return
    # As Ctrl-C does, this ends all that was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    files = raise_file_limit()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, service() as behind:
        host = Host(Path(scratch), behind.port, files)
        bench = Bench(host, behind, given.rounds or (2 if given.quick else 5), given.quick)
        try:
            for name in given.only or PARTS:
                getattr(bench, name)()
        finally:
            # Where a part fails, what was measured before it is not lost.
            results = report.collect(bench, time.monotonic() - began)
            report.write(results, folder)
            plots.draw(results, folder)
    print((folder / "table.md").read_text())
    if files < 20_900:
        print(f"Only {files} open files are allowed here; 10,000 tunnels need 20,900.")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, help="default 5, with --quick 2")
    parser.add_argument("--quick", action="store_true", help="in about two minutes, and coarser")
    parser.add_argument("--only", action="append", choices=PARTS, help="may be given again")
    parser.add_argument("--output", default=str(_RESULTS), help="default benchmarks/results")
    parser.add_argument("--replot", action="store_true", help="draw the results again")
    return parser.parse_args()


if __name__ == "__main__":
    main()
