"""Script files: found, imported, checked."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import make_spec
from wsserver import offers
from wsserver.config import ServiceSpec
from wsserver.errors import ConfigError
from wsserver.offers import ScriptError, find_script, load_script
from wsserver.scripts import RemoteServiceScript

ONE = """
from wsserver import RemoteServiceScript
class One(RemoteServiceScript):
    def start(self):
        return "127.0.0.1", 1
"""
TWO = ONE + "class Two(RemoteServiceScript): pass\n"
IMPORTS_ONLY = "from wsserver import RemoteServiceScript\n"
CREATE = "def create(*args): return args\n"


class FolderTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve() / "folder"
        self.folder.mkdir(parents=True)
        self.addCleanup(sys.modules.pop, "wsserver_script_demo_under_test", None)

    def write(self, name: str, text: str) -> Path:
        """Write a file beside the service file."""
        path = self.folder / name
        path.write_text(text)
        return path


class FindTests(FolderTestCase):
    def find(self, name: str) -> Path:
        return find_script(name, self.folder)

    def refused(self, name: str) -> str:
        return str(self.assertRaises(ScriptError, self.find, name))

    def test_beside_the_service_file(self) -> None:
        """A script is looked for beside the service file, also in a folder below."""
        path = self.write("demo.py", ONE)
        (self.folder / "sub").mkdir()
        below = self.write("sub/demo.py", ONE)
        self.assertEqual((self.find("demo.py"), self.find("sub/demo.py")), (path, below))

    def test_shipped(self) -> None:
        """Then among the scripts that come with the package; the user's own goes first."""
        shipped = self.folder.parent / "shipped"
        shipped.mkdir()
        (shipped / "demo.py").write_text(ONE)
        self.patch(offers, "SHIPPED", shipped)
        self.assertEqual(self.find("demo.py"), shipped / "demo.py")
        path = self.write("demo.py", ONE)
        self.assertEqual(self.find("demo.py"), path)

    def test_missing(self) -> None:
        """A script that is nowhere is told with where it was looked for; a folder is none."""
        words = f"no.py stands neither in {self.folder} nor among the shipped scripts"
        self.assertEqual(self.refused("no.py"), words)
        (self.folder / "demo.py").mkdir()
        self.assertIn("stands neither", self.refused("demo.py"))

    def test_outside(self) -> None:
        """A script outside of the two folders is refused, whichever way it is named."""
        outside = self.folder.parent / "outside.py"
        outside.write_text(ONE)
        (self.folder / "link.py").symlink_to(outside)
        for name in ("../outside.py", str(outside), "link.py", "/etc/passwd", "../no.py"):
            self.assertIn(f"{name} lies outside of", self.refused(name))

    def test_link_inside(self) -> None:
        """A link that stays within the folder is followed."""
        path = self.write("demo.py", ONE)
        (self.folder / "link.py").symlink_to("demo.py")
        self.assertEqual(self.find("link.py"), path)

    def test_no_name(self) -> None:
        """What cannot be the name of a file is told as such."""
        (self.folder / "loop.py").symlink_to("loop.py")
        for name in ("a\0b.py", "x" * 5000, "\ud800.py"):
            self.assertIn("is no file name", self.refused(name))
        self.refused("loop.py")


class LoadTests(FolderTestCase):
    def load(self, text: str) -> offers.Script:
        return load_script(self.write("demo_under_test.py", text))

    def refused(self, text: str) -> str:
        message = str(self.assertRaises(ScriptError, self.load, text))
        self.assertNotIn("wsserver_script_demo_under_test", sys.modules)
        return message

    def test_one_subclass(self) -> None:
        """The one subclass of a script file makes its instances."""
        script = self.load(ONE)
        made = script.create("Demo", 3, {"a": 1}, {"b": "2"})
        self.assertIsInstance(made, RemoteServiceScript)
        self.assertEqual((made._name, made._index), ("Demo", 3))
        self.assertEqual((made._common_options, made._options), ({"a": 1}, {"b": "2"}))
        self.assertEqual(made.start(), ("127.0.0.1", 1))
        self.assertIsNone(script.unavailable({}))
        self.assertIsNone(script.check({}, {}))

    def test_create(self) -> None:
        """A function called create makes the instances, with a subclass and without."""
        for text in (CREATE, IMPORTS_ONLY + CREATE, ONE + CREATE, TWO + CREATE):
            script = self.load(text)
            self.assertEqual(script.create("Demo", 0, {}, {}), ("Demo", 0, {}, {}))
            self.assertIsNone(script.unavailable({}))
            self.assertIsNone(script.check({}, {}))

    def test_own_checks(self) -> None:
        """A subclass may check its options, and say that it cannot run here."""
        script = self.load(
            ONE
            + "    @classmethod\n    def unavailable(cls, common): return 'no ' + common['x']\n"
            + "    @classmethod\n    def check(cls, common, own): raise ValueError('bad')\n"
            + CREATE
        )
        self.assertEqual(script.unavailable({"x": "display"}), "no display")
        self.assertRaises(ValueError, script.check, {}, {})

    def test_imported_subclass(self) -> None:
        """A subclass that is merely imported does not count."""
        self.write("other_under_test.py", ONE)
        sys.path.insert(0, str(self.folder))
        self.addCleanup(sys.modules.pop, "other_under_test", None)
        self.addCleanup(sys.path.remove, str(self.folder))
        imported = "from other_under_test import One\n"
        script = self.load(imported + "class Mine(One): pass\n")
        self.assertEqual(script.create("Demo", 0, {}, {}).__class__.__name__, "Mine")
        message = str(self.assertRaises(ScriptError, self.load, imported))
        self.assertIn("defines no subclass of RemoteServiceScript", message)

    def test_second_name(self) -> None:
        """A second name for the same subclass is no second subclass."""
        script = self.load(ONE + "Service = One\n")
        self.assertEqual(script.create("Demo", 0, {}, {}).__class__.__name__, "One")

    def test_no_subclass(self) -> None:
        """A file without a service is refused."""
        for text in ("", IMPORTS_ONLY, "create = 3\n"):
            message = str(self.assertRaises(ScriptError, self.load, text))
            words = "defines no subclass of RemoteServiceScript, and no create()"
            self.assertEqual(message, f"demo_under_test.py {words}")

    def test_two_subclasses(self) -> None:
        """Two subclasses are one too many; both are named."""
        message = str(self.assertRaises(ScriptError, self.load, TWO))
        self.assertIn("defines 2 subclasses (One, Two) of RemoteServiceScript", message)

    def test_raising(self) -> None:
        """A script that cannot be imported is told with the line and the reason."""
        for text, words in (
            ("\n\n1 / 0\n", "line 3: ZeroDivisionError: division by zero"),
            ("def f():\n    raise KeyError\n\nf()\n", "line 2: KeyError"),
            ("import no_such_module_at_all\n", "line 1: ModuleNotFoundError: No module named"),
            ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
            ("raise SystemExit\n", "line 1: SystemExit"),
            ("\nx = = 1\n", "line 2: invalid syntax"),
            ("if True:\npass\n", "line 2: expected an indented block"),
        ):
            message = self.refused(text)
            self.assertIn(f"demo_under_test.py cannot be imported: {words}", message)

    def test_without_line(self) -> None:
        """Where no line of the script is to blame, the reason stands alone."""
        self.assertEqual(offers._where(KeyError("x"), Path("a.py")), "KeyError: 'x'")
        path = self.folder / "gone.py"
        message = str(self.assertRaises(ScriptError, load_script, path))
        self.assertIn("gone.py cannot be imported: FileNotFoundError", message)

    def test_syntax_error_elsewhere(self) -> None:
        """A syntax error in what the script imports is not blamed on a line of the script."""
        self.write("broken_under_test.py", "\n\n\nx = = 1\n")
        sys.path.insert(0, str(self.folder))
        self.addCleanup(sys.path.remove, str(self.folder))
        message = self.refused("import broken_under_test\n")
        self.assertIn("SyntaxError: invalid syntax (broken_under_test.py, line 4)", message)

    def test_no_python(self) -> None:
        """A file that is no Python file is refused, also where it could be one within."""
        path = self.write("demo.txt", ONE)
        message = str(self.assertRaises(ScriptError, load_script, path))
        self.assertEqual(message, "demo.txt is no Python file")

    def test_dataclass(self) -> None:
        """A script may define dataclasses, which look their module up."""
        text = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        self.load(text + ONE + "@dataclass\nclass Pair:\n    a: int\n")


class OffersTests(FolderTestCase):
    def spec(self, name: str, script: str, **options: Any) -> ServiceSpec:
        return make_spec(name, options=options).model_copy(update={"script": script})

    def test_offers(self) -> None:
        """Each service is offered with its script, and why it cannot run, if so."""
        text = "    @classmethod\n    def unavailable(cls, common): return common.get('why')\n"
        self.write("demo.py", ONE + text)
        specs = [self.spec("One", "demo.py"), self.spec("Two", "demo.py", why="no display")]
        found = offers.load_offers(specs, self.folder)
        self.assertEqual([o.unavailable for o in found.values()], [None, "no display"])
        self.assertEqual([o.spec for o in found.values()], specs)

    def test_problems(self) -> None:
        """All problems of all scripts are told at once, each by its path."""
        text = "    @classmethod\n    def unavailable(cls, common): common['display']\n"
        self.write("good.py", ONE)
        self.write("two.py", TWO)
        self.write("options.py", ONE + text)
        specs = [
            self.spec("Good", "good.py"),
            self.spec("Two Classes", "two.py"),
            self.spec("Missing", "no.py"),
            self.spec("Options", "options.py"),
        ]
        error = self.assertRaises(ConfigError, offers.load_offers, specs, self.folder)
        starts = ['$["Two Classes"].script: two.py defines', "$.Missing.script: no.py stands"]
        starts += ["$.Options.options: the script does not accept them: KeyError: 'display'"]
        self.assertEqual(len(error.problems), len(starts))
        for problem, start in zip(error.problems, starts, strict=True):
            self.assertTrue(problem.startswith(start), problem)
