"""The REST interface of a real server, as schemathesis finds it in the description."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.fuzz.report import Problem
from tests.integration.parts import ROOT, Server, folder, until

DESCRIPTION = ROOT / "wsserver/web/openapi.json"
SECRET = "s3cret-of-the-fuzz"
#: How long an unused reservation lives, in seconds: 100,000 must be enough for all.
TIMEOUT = 2

_SCRIPT = """
from wsserver import RemoteServiceScript

class Nothing(RemoteServiceScript):
    def start(self):
        return "127.0.0.1", 9
"""
#: Each call says where it comes from; see hooks.py.
_LIMITS = ("--trusted_proxies", "127.0.0.1", "--timeout", TIMEOUT)
_RULES = {"n": {"type": "integer", "minimum": 1, "maximum": 9, "default": 2}}


class Visit(NamedTuple):
    """One run of schemathesis: which service it reserves, and what it shows and leaves out."""

    name: str
    service: str
    server: tuple[object, ...] = ()
    options: tuple[str, ...] = ()


_SECURE = ("--security_token", SECRET)
_UNSTOPPED = ("--exclude-path", "/v1/stop")
VISITS = (
    # Its service takes any option, which no data can violate.
    Visit(
        "anybody",
        "Any thing",
        (),
        (*_UNSTOPPED, "--exclude-checks", "negative_data_rejection"),
    ),
    # A description cannot tell which options a service allows, so these are refused that it allows.
    Visit(
        "with the security token",
        "Choosy",
        _SECURE,
        (
            *(*_UNSTOPPED, "--exclude-checks", "positive_data_acceptance"),
            *("-H", f"Authorization: Bearer {SECRET}"),
        ),
    ),
    # All is refused, so that the server may be asked to stop as well.
    Visit("with a wrong token", "Any thing", _SECURE, ("-H", "Authorization: Bearer wrong")),
)


def fuzz_rest(seconds: int, seed: int) -> Iterator[Problem]:
    """Let schemathesis call the server for so long in all; yield what is wrong."""
    for visit in VISITS:
        with _server(visit) as server:
            # The first request opens what stays open.
            server.get(f"/v1/status?security_token={SECRET}")
            before = psutil.Process(server.process.pid).num_fds()
            yield from _visit(visit, server, max(1, seconds // len(VISITS)), seed)
            yield from _afterwards(visit, server, before)
        yield from (Problem(visit.name, line) for line in unhandled(server.log))


def unhandled(log: str) -> list[str]:
    """Return the messages of a log that tell of what nobody has handled."""
    # The lines after the first of a message begin with a tab.
    return re.findall(r"(?m)^.*(?:Traceback|Unhandled|#critical).*\n?(?:\t.*\n?)*", log)


@contextmanager
def _server(visit: Visit) -> Iterator[Server]:
    with folder() as path:
        (path / "nothing.py").write_text(_SCRIPT)
        entry: dict[str, Any] = {"script": "nothing.py", "count": 100_000}
        services = {
            "Any thing": {**entry, "options": {}},
            "Choosy": {**entry, "options": {"sizes": ["1x1"], "reserve_options": _RULES}},
        }
        (path / "services.json").write_text(json.dumps(services))
        options = ["-c", path / "services.json", "--interface", "127.0.0.1", "--http_port", 0]
        with Server(*options, *_LIMITS, *visit.server) as server:
            yield server


def _visit(visit: Visit, server: Server, seconds: int, seed: int) -> Iterator[Problem]:
    config = ROOT / "build/fuzz/schemathesis.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(f'[parameters]\n"path.service" = {json.dumps(visit.service)}\n')
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config)]
    command += ["run", _description(visit), "--url", server.http, "--seed", str(seed)]
    command += ["--max-time", str(seconds), "--continue-on-failure", "--no-color", *visit.options]
    env = {**os.environ, "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks", "PYTHONPATH": str(ROOT)}
    told = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=config.parent, env=env
    )
    counts = re.search(r"(\d+) generated, .*", told.stdout)
    if told.returncode != 0 or counts is None:
        yield Problem(visit.name, f"schemathesis:\n{told.stdout}{told.stderr}")
    else:
        print(f"REST, {visit.name}: {counts[0]}", flush=True)


def _description(visit: Visit) -> str:
    """Return the file of the description, as it is for this server: who must log in."""
    told = json.loads(DESCRIPTION.read_text())
    if visit.server:
        told["security"].remove({})
    file = ROOT / "build/fuzz/openapi.json"
    file.write_text(json.dumps(told))
    return str(file)


def _afterwards(visit: Visit, server: Server, fds: int) -> Iterator[Problem]:
    """Whether the server still answers, and nothing is lost."""
    query = f"?security_token={SECRET}"
    services = f"/v1/services{query}"
    process = psutil.Process(server.process.pid)
    try:
        until(lambda: process.num_fds() <= fds)
        until(lambda: all(s["free"] == s["count"] for s in server.get(services).json()))
        token = server.get(f"/v1/reserve/Any%20thing{query}").json()["token"]
    except (AssertionError, OSError, KeyError) as lost:
        yield Problem(visit.name, f"after the fuzz: {lost!r}")
        return
    # Nothing may be used after it was given back.
    answers = [server.get(f"/v1/release/{token}").status for _ in range(2)]
    if answers != [200, 404]:
        yield Problem(visit.name, f"a token released twice: {answers}")
