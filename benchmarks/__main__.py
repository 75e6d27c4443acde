"""``python -m benchmarks``: measure the server beside its peers."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from benchmarks import plots, report
from benchmarks.peers import Host, versions
from benchmarks.processes import raise_file_limit
from benchmarks.rounds import QUICK, Plan, Session
from benchmarks.service import service

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure, print the table, and write everything down."""
    options = _options()
    plan = QUICK if options.quick else Plan()
    if options.rounds:
        plan = replace(plan, rounds=options.rounds)
    files = raise_file_limit()
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {what}", flush=True)

    with tempfile.TemporaryDirectory() as folder, service() as behind:
        session = Session(Host(Path(folder), behind.port, files), behind, plan, say)
        for name, step in session.steps().items():
            if not options.only or name in options.only:
                step()
    results = session.results
    about = {"date": f"{datetime.date.today():%Y-%m-%d}", "machine": machine(files)}
    about |= {"versions": versions(), "plan": vars(plan)}
    table = report.table(results)
    print(table, report.busy(results), sep="\n")
    options.to.mkdir(parents=True, exist_ok=True)
    said = {**about, **report.as_json(results)}
    (options.to / "results.json").write_text(json.dumps(said, indent=1) + "\n")
    (options.to / "table.md").write_text(f"{_about(about)}\n\n{table}\n{report.busy(results)}")
    plots.draw(results, options.to)
    say(f"written to {options.to}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="less of everything, in 2 minutes")
    parser.add_argument("--rounds", type=int, help="how often everything is visited; 5")
    steps = ["rounds", "memory", "stalled", "crowd", "sessions"]
    parser.add_argument("--only", action="append", choices=steps, help="this part alone")
    parser.add_argument("--to", type=Path, default=RESULTS, help="where the results go")
    return parser.parse_args()


def machine(files: int) -> dict[str, object]:
    """Return what matters of the machine; it has no name here."""
    cpu = Path("/proc/cpuinfo").read_text()
    models = {line.partition(": ")[2] for line in cpu.splitlines() if line.startswith("model name")}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": ", ".join(sorted(models)),
        "cores": os.cpu_count(),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "open files": files,
    }


def _about(about: dict[str, object]) -> str:
    parts = [str(about["date"])]
    for group in ("machine", "versions"):
        parts += [f"{name} {value}" for name, value in dict(about[group]).items()]  # type: ignore[call-overload]
    return "; ".join(parts)


if __name__ == "__main__":
    main()
