"""The rules of architecture.md that can be read off the imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import wsserver

HOUSE = Path(wsserver.__file__).parent
SERVICES = HOUSE / "services"

#: The rooms from the ground up.  A room may import from the rows above it in this list,
#: never from its own row.  A new room has to be given its place here.
ROWS = [
    "errors addresses",  # layer 0
    "options lifecycle flood process forwarded origins policy logins failures",  # layer 1
    "hosts",
    "config logs",
    "registry access frames admission jwks cautions",
    "identity",
    "messages proc threads htpasswd bearer",  # layer 2
    "supervisor journal store passwords remote_keys",
    "family",
    "processes aftermath",
    "scripts",
    "offers",
    "ending",
    "launch",
    "desk pulse",  # layer 3
    "sessions doorkeeper",
    "outlets preamble",  # layer 4: what doors share
    "peer",
    "relay drain stall keepalive replies connect arrivals provenance pace",
    "handshake request upgrade",
    "channel",
    "tunnel api pages events sharing",  # the doors
    "site",
    "tls sources permissions redirect",  # layer 5
    "inputs",
    "server tryout",
    "tap",
]
LEVEL = {room: level for level, row in enumerate(ROWS) for room in row.split()}
DOORS = {"tunnel", "api", "pages", "events"}

PURE = ["errors", "addresses", "options", "config", "lifecycle", "registry", "access", "frames"]
PURE += ["forwarded", "origins", "policy", "admission", "logins", "failures", "identity", "jwks"]
PURE += ["cautions", "hosts"]
IMPURE = {"twisted", "autobahn", "klein", "threading", "os", "socket", "time"}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield everything that is imported anywhere, as `package.module.name`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def top_level(tree: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements that run when a module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.stmt):
            yield node
        yield from top_level(node)


def rooms() -> dict[str, Path]:
    return {path.stem: path for path in sorted(HOUSE.glob("*.py")) if path.stem != "__init__"}


def own(names: Iterator[str]) -> set[str]:
    """Return the rooms among imported names."""
    parts = [name.split(".") for name in names]
    return {part[1] for part in parts if part[0] == "wsserver" and len(part) > 1}


class LayerTests(SynchronousTestCase):
    def test_every_room_has_a_place(self) -> None:
        """The list above is that of the rooms there are."""
        self.assertEqual(set(rooms()), set(LEVEL))

    def test_downwards(self) -> None:
        """Rooms import downwards only, and no room from beside itself."""
        for room, path in rooms().items():
            for other in own(imported(parsed(path))):
                self.assertLess(LEVEL[other], LEVEL[room], f"{room} imports {other}")

    def test_doors(self) -> None:
        """Doors know nothing of one another; the site may serve pages."""
        for room in DOORS | {"site"}:
            others = own(imported(parsed(HOUSE / f"{room}.py"))) & DOORS
            self.assertLessEqual(others, {"pages"} if room == "site" else set(), room)

    def test_root(self) -> None:
        """Nothing imports the command line."""
        for path in HOUSE.rglob("*.py"):
            self.assertNotIn("tap", own(imported(parsed(path))), path)

    def test_pure(self) -> None:
        """The rules know no network, no thread, no file and no clock."""
        for room in PURE:
            packages = {name.split(".")[0] for name in imported(parsed(HOUSE / f"{room}.py"))}
            self.assertEqual(packages & IMPURE, set(), room)

    def test_absolute(self) -> None:
        """Imports name the whole way, so that the tests above see them."""
        for path in HOUSE.rglob("*.py"):
            for name in imported(parsed(path)):
                self.assertFalse(name.startswith("."), f"{path} imports {name}")

    def test_reactor(self) -> None:
        """No module takes the installed reactor along when it is imported."""
        for path in HOUSE.rglob("*.py"):
            for statement in top_level(parsed(path)):
                if isinstance(statement, ast.Import | ast.ImportFrom):
                    for name in imported(ast.Module([statement], [])):
                        self.assertNotIn("reactor", name.split("."), path)

    def test_services(self) -> None:
        """Shipped scripts use what any script may use: the public names, and one another."""
        public = {f"wsserver.{name}" for name in wsserver.__all__}
        for path in SERVICES.rglob("*.py"):
            for name in imported(parsed(path)):
                if name.split(".")[0] == "wsserver" and not name.startswith("wsserver.services."):
                    self.assertIn(name, public, path)

    def test_public_names(self) -> None:
        """The public names are there, and importing the package loads nothing else."""
        for name in wsserver.__all__:
            self.assertTrue(callable(getattr(wsserver, name)), name)
        self.assertRaises(AttributeError, getattr, wsserver, "no_such_name")
        at_once = parsed(HOUSE / "__init__.py").body
        loaded = own(
            imported(ast.Module([n for n in at_once if isinstance(n, ast.ImportFrom)], []))
        )
        self.assertEqual(loaded, set())

    def test_supervisor(self) -> None:
        """What a supervisor is made of loads nothing that is slow to import, or large."""
        rooms = {"wsserver"}
        fast = {"__future__", "ctypes", "errno", "marshal", "os", "select", "signal", "socket"}
        for room in ("supervisor", "messages", "proc"):
            at_once = [n for n in parsed(HOUSE / f"{room}.py").body if not isinstance(n, ast.If)]
            packages = {name.split(".")[0] for name in imported(ast.Module(at_once, []))}
            self.assertLessEqual(packages, fast | rooms | {"sys", "time"}, room)
