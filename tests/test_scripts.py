from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import make_spec, wait_until
from wsserver import scripts
from wsserver.config import ServiceSpec
from wsserver.errors import ConfigError, ServiceFailed
from wsserver.scripts import RemoteServiceScript, ScriptError, find_script, load_script

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
        self.patch(scripts, "SHIPPED", shipped)
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
    def load(self, text: str) -> scripts.Script:
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
        self.assertEqual(scripts._where(KeyError("x"), Path("a.py")), "KeyError: 'x'")
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
        offers = scripts.load_offers(specs, self.folder)
        self.assertEqual([o.unavailable for o in offers.values()], [None, "no display"])
        self.assertEqual([o.spec for o in offers.values()], specs)

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
        error = self.assertRaises(ConfigError, scripts.load_offers, specs, self.folder)
        starts = ['$["Two Classes"].script: two.py defines', "$.Missing.script: no.py stands"]
        starts += ["$.Options.options: the script does not accept them: KeyError: 'display'"]
        self.assertEqual(len(error.problems), len(starts))
        for problem, start in zip(error.problems, starts, strict=True):
            self.assertTrue(problem.startswith(start), problem)


class Plain(RemoteServiceScript):
    """A script that ends what it started in no time."""

    patience = 20.0


class HelperTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.script = self.make({})
        self.addCleanup(self.script.stop)

    def make(self, options: Mapping[str, str]) -> RemoteServiceScript:
        return Plain("Demo", 0, {}, options)

    def spawn(self, text: str, **rest: Any) -> Any:
        return self.script.spawn(["sh", "-c", text], **rest)

    def test_start_is_the_author_s(self) -> None:
        """A script without a start of its own does not start."""
        self.assertRaises(NotImplementedError, self.script.start)

    def test_stop_ends_everything(self) -> None:
        """Whatever was spawned ends with `stop`, the last first; twice is no harm."""
        ended: list[str] = []
        groups = [self.spawn("exec sleep 60"), self.spawn("exec sleep 60")]
        for number, group in enumerate(groups):
            real = group.stop
            self.patch(group, "stop", lambda t, n=number, r=real: (ended.append(n), r(t)))
        self.script.stop()
        self.script.stop()
        self.assertEqual(ended, [1, 0])
        self.assertEqual([g.running for g in groups], [False, False])

    def test_stop_while_spawning(self) -> None:
        """A program that a late start adds while another is being ended is ended as well."""
        first = self.spawn("exec sleep 60")
        real, late = first.stop, []

        def stop(timeout: float) -> None:
            if not late:
                late.append(self.spawn("exec sleep 60"))
            real(timeout)

        self.patch(first, "stop", stop)
        self.script.stop()
        self.assertEqual((first.running, late[0].running), (False, False))

    def test_environment(self) -> None:
        """A program has the server's environment and its own, but not the security token."""
        self.patch(os, "environ", {**os.environ, "WEBSOCKETSERVER_SECURITY_TOKEN": "s3cret"})
        os.environ["INHERITED"], os.environ["CHANGED"] = "yes", "no"
        group = self.spawn("env; echo end", env={"CHANGED": "yes", "ADDED": "yes"})
        wait_until(lambda: group.output().endswith("end\n"))
        lines = group.output().splitlines()
        for line in ("INHERITED=yes", "CHANGED=yes", "ADDED=yes"):
            self.assertIn(line, lines)
        self.assertNotIn("s3cret", group.output())

    def test_folder(self) -> None:
        """A program may be started in a folder."""
        folder = Path(self.mktemp())
        folder.mkdir()
        group = self.spawn("pwd", cwd=str(folder))
        wait_until(lambda: group.output().endswith("\n"))
        self.assertEqual(group.output(), f"{folder.resolve()}\n")

    def test_cannot_spawn(self) -> None:
        """A program that cannot be started is told to the user by its name."""
        error = self.assertRaises(ServiceFailed, self.script.spawn, ["/no/such/program"])
        words = "/no/such/program cannot be started: No such file or directory"
        self.assertEqual(str(error), words)

    def test_cancelled(self) -> None:
        """Once nobody waits for the start, its helpers raise."""
        self.script.cancelled.set()
        for call in (lambda: self.spawn("exit"), lambda: self.script.wait_for_port(1)):
            error = self.assertRaises(ServiceFailed, call)
            self.assertEqual(str(error), "the start was cancelled")

    def test_output(self) -> None:
        """The output of all programs is read under their names."""
        one, two = self.spawn("echo one"), self.spawn("echo two")
        wait_until(lambda: one.output() and two.output())
        self.assertEqual(self.script.output(), "[sh]\none\n\n[sh]\ntwo\n")

    def test_progress(self) -> None:
        """Progress is one line of bounded length, whatever the script says."""
        said: list[str] = []
        self.script.progress("nobody listens yet")
        self.script.on_progress = said.append
        self.script.progress("  warming\nup\t now ")
        self.script.progress("x" * 999)
        self.assertEqual(said, ["warming up now", "x" * 200])


class PortTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.script = Plain("Demo", 0, {}, {})
        self.addCleanup(self.script.stop)

    def listen(self, port: int = 0) -> int:
        server = socket.create_server(("127.0.0.1", port))
        self.addCleanup(server.close)
        return server.getsockname()[1]

    def wait(self, port: int, **rest: Any) -> str:
        error = self.assertRaises(ServiceFailed, self.script.wait_for_port, port, **rest)
        return str(error)

    def test_free_port(self) -> None:
        """A free port can be listened on, and nobody does yet."""
        port = self.script.free_port()
        self.assertIn("nothing listens", self.wait(port, timeout=0))
        self.assertEqual(self.listen(port), port)

    def test_listening(self) -> None:
        """As soon as something listens its address is returned."""
        port = self.listen()
        self.assertEqual(self.script.wait_for_port(port), ("127.0.0.1", port))

    def test_listens_later(self) -> None:
        """A service may take a while to listen."""
        port = self.script.free_port()
        looks: list[float] = []

        def pause(seconds: float) -> None:
            looks.append(seconds)
            if len(looks) == 3:
                self.listen(port)

        self.patch(self.script.cancelled, "wait", pause)
        self.assertEqual(self.script.wait_for_port(port), ("127.0.0.1", port))
        self.assertEqual(len(looks), 3)

    def test_timeout(self) -> None:
        """A service that never listens is given up after the time it was given."""
        port = self.script.free_port()
        self.assertEqual(self.wait(port, timeout=0.05), f"nothing listens on port {port}")

    def test_connected_to_itself(self) -> None:
        """A probe that got the very port that it knocks at has found nobody there."""

        def connect(*args: Any, **rest: Any) -> socket.socket:
            probe = socket.socket()
            probe.bind(("127.0.0.1", 0))
            probe.connect(probe.getsockname())
            return probe

        self.patch(socket, "create_connection", connect)
        self.assertEqual(self.wait(5900, timeout=0), "nothing listens on port 5900")

    def test_process_died(self) -> None:
        """A program that ends instead of listening is told at once, with its status."""
        group = self.script.spawn(["sh", "-c", "exit 7"])
        words = "sh ended at once, with status 7"
        self.assertEqual(self.wait(self.script.free_port(), process=group), words)

    def test_process_runs(self) -> None:
        """A program that runs is waited for."""
        group = self.script.spawn(["sleep", "60"])
        words = self.wait(self.script.free_port(), process=group, timeout=0.05)
        self.assertIn("nothing listens", words)

    def test_cancelled_while_waiting(self) -> None:
        """A wait ends as soon as nobody waits for the start any more."""
        self.patch(self.script.cancelled, "wait", lambda _: self.script.cancelled.set())
        self.assertEqual(self.wait(self.script.free_port()), "the start was cancelled")
