"""Options of a reservation reach the program as they are: one argument each, and no command."""

from __future__ import annotations

import json
import random
import sys
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase
from websockets.sync.client import connect

from tests.integration.parts import Server, folder, until

#: Writes its arguments into a file named by the first, then listens.
RECORDER = """
import json, pathlib, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[2])))
pathlib.Path(sys.argv[1]).write_text(json.dumps(sys.argv[3:]))
listener.accept()[0].recv(1)
"""

#: What shells, option parsers and templates make something of.
PARTS = ["touch canary", "; touch canary", "$(touch canary)", "`touch canary`", "| touch canary",
         "&& touch canary", "\ntouch canary\n", "> canary", "'; touch canary; '",
         '"; touch canary; "', "-", "--", "-c", "--help", "-o/canary", "@canary", "{port}",
         "{option.x}", "{{", "}}", "{", "%s", "%(port)s", "$HOME", "~", "*", "..", "/etc/passwd",
         "\0", "\r\n", "\t", "\x1b[31m", "\u202e", "\u00e4", "\U0001f600", " ", "", "=", "a=b",
         "a" * 500, "\\", "#", "!", "\x7f"]  # fmt: skip
SEED = 20261125
COUNT = 60


def values() -> list[str]:
    """Return each part, and some of them put together, always the same."""
    dice = random.Random(SEED)
    mixed = ["".join(dice.choices(PARTS, k=dice.randint(2, 4))) for _ in range(COUNT)]
    return [*PARTS, *mixed]


class InjectionTests(SynchronousTestCase):
    def test_arguments(self) -> None:
        """What is not refused (400) arrives to the letter; nothing else runs."""
        path = self.enterContext(folder())
        told = path / "told"
        options = {
            "command": [sys.executable, "-c", RECORDER, str(told), "{port}", "{option.x}", "last"],
            "reserve_options": {"x": {"type": "string"}},
        }
        services = path / "services.json"
        entry = {"script": "command_session.py", "count": 1, "options": options}
        services.write_text(json.dumps({"R": entry}))
        common = ("--interface", "127.0.0.1", "--http_port", 0)
        server = self.enterContext(Server("-c", services, *common, cwd=path))
        passed = 0
        for value in values():
            answer = server.get(f"/v1/reserve/R?x={quote(value, safe='')}")
            if answer.status == 400:
                continue
            with connect(f"{server.ws}?token={answer.json()['token']}"):
                until(told.exists)
                until(lambda: told.read_text().endswith("]"))
                found = json.loads(told.read_text())
            self.assertEqual(found, [value, "last"] if value else ["last"], repr(value))
            told.unlink()
            passed += 1
            until(lambda: not server.instances("R"))
        self.assertGreater(passed, 20)
        self.assertEqual(list(path.rglob("*canary*")), [])

    def test_refused(self) -> None:
        """What ends a line or a string, or may be taken for an option, is refused by itself."""
        path = self.enterContext(folder())
        options = {"command": ["true", "{option.x}"], "reserve_options": {"x": {"type": "string"}}}
        services = path / "services.json"
        entry = {"script": "command_session.py", "count": 50, "options": options}
        services.write_text(json.dumps({"R": entry}))
        server = self.enterContext(Server("-c", services, "--http_port", 0))
        for value in ("a\0b", "a\nb", "a\rb", "\x1b[31m", "-c", "--help"):
            answer = server.get(f"/v1/reserve/R?x={quote(value, safe='')}")
            self.assertEqual(answer.status, 400, repr(value))
