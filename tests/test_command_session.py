"""Any program as a service: what of the service file reaches it, and when it is ready."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.fakes import make_desk
from wsserver import ServiceFailed, scripts
from wsserver.config import ServiceSpec
from wsserver.desk import Desk
from wsserver.errors import BadRequest, ConfigError
from wsserver.offers import load_offers
from wsserver.services import _password, _template
from wsserver.services.command_session import CommandOptions, CommandSession

SERVER = """
import os, socket, sys, time
print("one moment", flush=True)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("ready at last", flush=True)
while True:
    listener.accept()[0].sendall(sys.argv[2].encode())
"""


class TemplateTests(SynchronousTestCase):
    def test_fill(self) -> None:
        """Placeholders are filled in, once; doubled braces are braces."""
        values = {"port": "1", "option.x": "{port}"}
        self.assertEqual(_template.fill("a{port}b{{port}}{option.x}", values), "a1b{port}{port}")

    def test_arguments(self) -> None:
        """A value stays inside its argument; one that is an empty value is left out."""
        values = {"x": "a b; c", "none": ""}
        words = ["{x}", "-{none}", "{none}", ""]
        self.assertEqual(_template.fill_all(words, values), ["a b; c", "-", ""])

    def test_mistakes(self) -> None:
        """Unknown names and single braces are found before anything runs."""
        for text in ("{prot}", "{", "a}", "{}", "{port"):
            self.assertRaises(ValueError, _template.check, [text], ["port"])
        error = self.assertRaises(ValueError, _template.check, ["{x}"], ["port", "index"])
        self.assertEqual(str(error), "{x} is unknown; there are {index}, {port}")

    def test_single_brace(self) -> None:
        """A brace that stands alone is told with the way out."""
        error = self.assertRaises(ValueError, _template.fill, "a}b", {})
        self.assertEqual(str(error), "a single } in 'a}b': write it twice")

    def test_checked(self) -> None:
        """All mistakes of the options are told at once, each with its place."""
        wrong = {"command": [1, "x"], "prot": 1, "port": 0, "group": "staff"}
        error = self.assertRaises(ValueError, _template.checked, CommandOptions, wrong)
        places = [problem.split(": ")[0] for problem in str(error).split("; ")]
        self.assertEqual(places, ["command.0", "port", "prot"])


class LoadTests(SynchronousTestCase):
    """The script as the server meets it."""

    def desk(self, **options: Any) -> Desk:
        spec = ServiceSpec(name="Any", script="command_session.py", count=1, options=options)
        return make_desk(Clock(), *load_offers([spec], Path(self.mktemp())).values())

    def test_unknown_placeholder(self) -> None:
        """A placeholder that nothing fills in is found before the server starts."""
        error = self.assertRaises(ConfigError, self.desk, command=["sh", "{option.x}"])
        self.assertTrue(error.problems[0].startswith("$.Any.options: "), error.problems)
        self.assertIn("{option.x} is unknown; there are {index}, ", error.problems[0])

    def test_unknown_option(self) -> None:
        """A reservation with an option that the file does not name is refused with words."""
        for named in ({}, {"reserve_options": {"x": {"default": "1"}}}):
            desk = self.desk(command=["sh"], **named)
            error = self.assertRaises(BadRequest, desk.reserve, "Any", {"y": "1"})
            self.assertIn("y is no option of this service", str(error))
            desk.reserve("Any", {})


class OptionTests(SynchronousTestCase):
    def wrong(self, **common: Any) -> str:
        common = {"command": ["sh"], **common}
        return str(self.assertRaises(ValueError, CommandSession.unavailable, common))

    def test_mistakes(self) -> None:
        """Every mistake in the options is told with its place."""
        self.assertIn("command: ", self.wrong(command=[]))
        self.assertIn("command.1: ", self.wrong(command=["sh", 1]))
        self.assertIn("prot: ", self.wrong(prot=1))
        self.assertIn("exclude one another", self.wrong(port=1, port_base=2))
        self.assertIn("{option.x} is unknown", self.wrong(env={"A": "{option.x}"}))
        for ready in ("soon", {}, {"banner": "a", "line": "b"}, {"line": "("}):
            self.assertIn("ready", self.wrong(ready=ready))

    def test_sound(self) -> None:
        """The keys of the system are not the script's business; its options are known."""
        common = {
            "command": ["sh", "{option.x}", "{option.session_size}", "{password_file}"],
            "reserve_options": {"x": {}},
            "sizes": ["1024x768"],
            "group": "staff",
            "file_ext": [],
            "page": "p.html",
        }
        self.assertIsNone(CommandSession.unavailable(common))

    def test_missing(self) -> None:
        """A program that is not there makes the service unavailable."""
        reason = CommandSession.unavailable({"command": ["no-such-program"]})
        self.assertEqual(reason, "no-such-program is not installed")
        self.assertIsNone(CommandSession.unavailable({"command": ["{python}"]}))

    def test_reservation(self) -> None:
        """A reservation has the options that the file names, and no others."""
        common = {"command": ["sh"], "reserve_options": {"x": {}}, "sizes": ["1024x768"]}
        CommandSession.check(common, {"x": "1", "session_size": "1024x768"})
        self.assertRaises(ValueError, CommandSession.check, common, {"y": "1"})
        self.assertRaises(ValueError, CommandSession.check, common, {"session_size": "1x1"})
        self.assertRaises(ValueError, CommandSession.check, {"command": ["sh"]}, {"x": "1"})


class Hasty:
    """A clock by which every look takes a minute."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 60
        return self.now


class StartTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir()
        (self.folder / "server.py").write_text(SERVER)

    def make(self, index: int = 0, options: Any = None, **common: Any) -> CommandSession:
        common.setdefault("command", ["{python}", "server.py", "{port}", "hello {index}"])
        common.setdefault("cwd", str(self.folder))
        self.assertIsNone(CommandSession.unavailable(common))
        script = CommandSession("Test", index, common, options or {})
        self.addCleanup(script.stop)
        return script

    def read(self, address: tuple[str, int]) -> bytes:
        with socket.create_connection(address, timeout=10) as peer:
            return peer.recv(1000)

    def free(self) -> int:
        return self.make().free_port()

    def test_free_port(self) -> None:
        """By default a free port is chosen, and the program awaited on it."""
        self.assertEqual(self.read(self.make(3).start()), b"hello 3")

    def test_chosen_port(self) -> None:
        """A port may be fixed, or counted up by the index."""
        port = self.free()
        self.assertEqual(self.make(port=port).start(), ("127.0.0.1", port))
        base = self.free() - 1
        self.assertEqual(self.make(1, port_base=base).start(), ("127.0.0.1", base + 1))

    def test_taken_port(self) -> None:
        """A port that somebody else has is not taken for the program's."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            error = self.assertRaises(ServiceFailed, self.make(port=port).start)
        self.assertEqual(str(error), f"port {port} is taken by another program")

    def test_ready_line(self) -> None:
        """A line of the output may tell that the program is ready."""
        self.assertEqual(
            self.read(self.make(ready={"line": "^ready .* last$"}).start()), b"hello 0"
        )

    def test_ready_line_never(self) -> None:
        """A program that ends without the line is a failure."""
        script = self.make(command=["sh", "-c", "echo no"], ready={"line": "yes"})
        self.assertIn("sh ended at once", str(self.assertRaises(ServiceFailed, script.start)))

    def test_ready_banner(self) -> None:
        """So may the first bytes that it says."""
        self.assertEqual(self.read(self.make(ready={"banner": "hell"}).start()), b"hello 0")

    def test_slow(self) -> None:
        """How long the program may take is start_timeout's business alone."""
        # Each look at the clock finds a minute gone.
        self.patch(scripts, "time", Hasty())
        late = ["sh", "-c", 'sleep 0.2; exec "$@"', "sh"]
        command = [*late, "{python}", "server.py", "{port}", "hello"]
        for ready in ("port", {"banner": "hello"}, {"line": "^ready"}):
            self.assertEqual(self.read(self.make(command=command, ready=ready).start()), b"hello")

    def test_cancelled(self) -> None:
        """A program that is never ready is waited for as long as somebody wants it."""
        script = self.make(command=["sleep", "60"])
        self.patch(script.cancelled, "wait", lambda _: script.cancelled.set())
        error = self.assertRaises(ServiceFailed, script.start)
        self.assertEqual(str(error), "the start was cancelled")

    def test_environment(self) -> None:
        """Environment and folder are filled in as well, with the options of the reservation."""
        script = self.make(
            command=[
                "sh",
                "-c",
                'pwd; echo "$A"; exec "$0" ../server.py "$1" x',
                "{python}",
                "{port}",
            ],
            env={"A": "<{option.x}>"},
            cwd=f"{self.folder}/{{option.x}}",
            reserve_options={"x": {}},
            options={"x": "sub"},
        )
        (self.folder / "sub").mkdir()
        script.start()
        self.assertIn(f"{self.folder}/sub\n<sub>\n", script.output())

    def test_size(self) -> None:
        """A size that nobody has chosen is the first."""
        script = self.make(
            command=["{python}", "server.py", "{port}", "{option.session_size}"],
            sizes=["800x600", "1024x768"],
        )
        self.assertEqual(self.read(script.start()), b"800x600")

    def test_password(self) -> None:
        """The password is in a private file, told to the holder of the token, and forgotten."""
        self.patch(_password, "obscured", lambda password: password.encode())
        shared: list[Any] = []
        script = self.make(
            command=["{python}", "server.py", "{port}", "{password_file}"], password=True
        )
        script.on_share = shared.append
        file = Path(self.read(script.start()).decode())
        self.assertEqual([{"password": file.read_text()}], shared)
        self.assertEqual(file.parent.stat().st_mode & 0o077, 0)
        self.assertNotIn(file.read_text(), script.output())
        script.stop()
        self.assertFalse(file.exists())
        script.stop()


class PasswordTests(SynchronousTestCase):
    def test_new(self) -> None:
        """Passwords are as long as counts, and differ."""
        passwords = {_password.new_password() for _ in range(100)}
        self.assertEqual({len(password) for password in passwords}, {8})
        self.assertEqual(len(passwords), 100)

    def test_program(self) -> None:
        """vncpasswd is told by its standard input; without it there is no password."""
        folder = Path(self.mktemp()).resolve()
        folder.mkdir()
        program = folder / "vncpasswd"
        program.write_text(
            f"#!{sys.executable}\nimport sys; print(sys.argv[1:], sys.stdin.read())\n"
        )
        program.chmod(0o755)
        self.patch(os, "environ", {**os.environ, "PATH": str(folder)})
        self.assertEqual(_password.obscured("secret"), b"['-f'] secret\n")
        program.unlink()
        self.assertRaises(ServiceFailed, _password.obscured, "secret")
