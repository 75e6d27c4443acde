"""Service files and settings with mistakes: each problem has a place, and none a traceback."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from wsserver.config import Settings, load_services, load_settings, make_settings
from wsserver.errors import ConfigError

COUNT = 300

SERVICES: dict[str, Any] = {
    "Desktop Session": {
        "script": "desktop_session.py",
        "count": 2,
        "options": {"sizes": ["1280x800"], "display_base": 50, "group": "staff"},
        "start_timeout": 60,
    },
    "Solver": {
        "script": "solver.py",
        "count": 1,
        "options": {
            "file_ext": ["case", ".stl"],
            "page": "viewer.html",
            "reserve_options": {"nodes": {"type": "integer", "minimum": 1, "default": 2}},
        },
    },
}
SETTINGS: dict[str, Any] = {
    "http_port": 9090,
    "timeout": 300.0,
    "add_header": ["A=B"],
    "security_token": "x",
    "trusted_proxies": ["127.0.0.1"],
    "user_header": "X-User",
    "jwt_keys": "https://login.example/keys",
    "jwt_audience": "desktops",
    "htpasswd": "users",
    "bind_user": True,
    "failure_limit": 5,
    "local_session": [["envision", 2]],
}
STRANGE: list[Any] = [
    None,
    True,
    -1,
    0,
    1.5,
    1e400,
    2**70,
    "",
    "\0",
    "ä" * 300,
    [],
    [[]],
    {},
    {"a": {}},
]


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Return every place of a tree, as a container and a key of it."""
    keys = (
        list(tree) if isinstance(tree, dict) else range(len(tree) if isinstance(tree, list) else 0)
    )
    found = [(tree, key) for key in keys]
    return found + [place for key in keys for place in places(tree[key])]


def mutated(tree: Any, chance: random.Random) -> Any:
    """Return a copy with one to three mistakes in it."""
    copy = json.loads(json.dumps(tree))
    for _ in range(chance.randint(1, 3)):
        holder, key = chance.choice(places(copy))
        kind = chance.choice(["drop", "strange", "misspelt"])
        if kind == "strange":
            holder[key] = chance.choice(STRANGE)
        elif kind == "misspelt" and isinstance(key, str):
            cut = chance.randrange(len(key))
            holder[key[:cut] + key[cut + 1 :]] = holder.pop(key)
        else:
            del holder[key]
        if not places(copy):
            break
    return copy


class MutatedTests(SynchronousTestCase):
    def problems(self, load: Callable[[], object]) -> tuple[str, ...]:
        try:
            load()
        except ConfigError as error:
            return error.problems
        return ()

    def test_services(self) -> None:
        """However a service file is spoilt, every problem is led by its JSON path."""
        spoilt = 0
        for seed in range(COUNT):
            text = json.dumps(mutated(SERVICES, random.Random(seed)))
            found = self.problems(lambda text=text: load_services(text))
            spoilt += bool(found)
            for problem in found:
                self.assertRegex(problem, r"\A\$.*: .", (seed, text))
        self.assertGreater(spoilt, COUNT // 2)

    def test_torn_services(self) -> None:
        """The same for a file that is cut, or in which bytes have changed."""
        whole = json.dumps(SERVICES, indent=1).encode()
        for seed in range(COUNT):
            chance = random.Random(seed)
            data = bytearray(whole[: chance.randrange(len(whole))] if seed % 2 else whole)
            for _ in range(3):
                if data:
                    data[chance.randrange(len(data))] = chance.randrange(256)
            found = self.problems(lambda data=data: load_services(bytes(data)))
            for problem in found:
                self.assertRegex(problem, r"\A\$.*: ", (seed, data))

    def test_settings(self) -> None:
        """Every problem of settings is led by the name of the setting."""
        spoilt = 0
        for seed in range(COUNT):
            given = mutated(SETTINGS, random.Random(seed))
            found = self.problems(lambda given=given: make_settings(given))
            spoilt += bool(found)
            for problem in found:
                self.assertRegex(problem, r"(?s)\Asettings[.\[].*: ", (seed, given))
                self.assertNotIn("Traceback", problem)
        self.assertGreater(spoilt, COUNT // 2)

    def test_torn_settings(self) -> None:
        """A settings file that is no TOML says where."""
        whole = 'http_port = 9090\nadd_header = ["A=B"]\ntimeout = 300.0\n'
        for seed in range(COUNT):
            chance = random.Random(seed)
            at = chance.randrange(len(whole))
            text = whole[:at] + chance.choice('"[]{}=\n\0ä') + whole[at + chance.randrange(3) :]
            for problem in self.problems(lambda text=text: make_settings(load_settings(text))):
                self.assertTrue(problem.startswith("settings"), (text, problem))

    def test_did_you_mean(self) -> None:
        """A misspelt key is told with the one that was meant."""
        entry = {"script": "a.py", "count": 1, "options": {}, "start_timeuot": 1}
        (problem,) = self.problems(lambda: load_services(json.dumps({"A": entry})))
        self.assertEqual(problem, "$.A.start_timeuot: unknown key; did you mean start_timeout?")
        (problem,) = self.problems(lambda: make_settings({"htpaswd": "x"}))
        self.assertEqual(problem, "settings.htpaswd: unknown key; did you mean htpasswd?")
        (problem,) = self.problems(lambda: make_settings({"zzz": "x"}))
        self.assertEqual(problem, "settings.zzz: unknown key")
        rule = {"nodes": {"typ": "integer"}}
        entry = {"script": "a.py", "count": 1, "options": {"reserve_options": rule}}
        (problem,) = self.problems(lambda: load_services(json.dumps({"A": entry})))
        self.assertIn("did you mean type?", problem)

    def test_no_secret(self) -> None:
        """A secret that is wrong is not told back, as problems are printed and logged."""
        for wrong in (["canary"], {"canary": 1}, ""):
            (problem,) = self.problems(lambda wrong=wrong: make_settings({"security_token": wrong}))
            self.assertTrue(problem.startswith("settings.security_token: "), problem)
            self.assertNotIn("canary", problem)

    def test_every_setting(self) -> None:
        """The test above knows the names that there are."""
        self.assertLessEqual(set(SETTINGS), set(Settings.model_fields))
