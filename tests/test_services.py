"""The shipped scripts: what they check, choose and start.  Real programs: integration."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import socket
import struct
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from wsserver import ServiceFailed
from wsserver.services import _desktop, _password, rfb_demo
from wsserver.services.demo_session import DemoSession
from wsserver.services.desktop_session import DesktopSession
from wsserver.services.local_session import LocalSession
from wsserver.services.x11vnc_desktop_session import X11VNCDesktopSession

SIZES = {"sizes": ["800x600", "12080x1024"]}


class FakeGroup:
    """A program that runs until it is told to end."""

    #: What it has printed, and the status with which it has ended.
    said = ""
    ended: int | None = None

    def __init__(self, argv: list[str], env: Any, stdin: bytes | None = None) -> None:
        self.argv = argv
        self.env = env
        self.stdin = stdin
        self.running = True

    def stop(self, patience: float) -> None:
        self.running = False

    def status(self) -> int | None:
        return self.ended

    def output(self) -> str:
        return self.said


class ScriptCase(SynchronousTestCase):
    """Scripts that start nothing, on a host whose programs are chosen."""

    installed = {"Xvnc", "x11vnc", "Xvfb", "openbox", "xterm", "envision"}

    def setUp(self) -> None:
        self.patch(shutil, "which", lambda name: name if name in self.installed else None)
        self.started: list[FakeGroup] = []
        self.said: list[str] = []
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.patch(_desktop, "_lock_file", lambda n: self.folder / f"lock{n}")
        self.patch(_desktop, "_socket_file", lambda n: self.folder / f"X{n}")
        self.patch(_desktop, "_in_use", set())

    def make(self, kind: type, index: int = 0, options: Any = None, **common: Any) -> Any:
        script = kind("My desk", index, common, options or {})
        self.addCleanup(script.stop)
        script.on_progress = self.said.append

        def spawn(
            argv: list[str], env: Any = None, cwd: Any = None, stdin: bytes | None = None
        ) -> FakeGroup:
            self.started.append(FakeGroup(list(argv), env, stdin))
            script._groups.append(self.started[-1])
            return self.started[-1]

        script.spawn = spawn
        script.wait_for_port = lambda port, process: ("127.0.0.1", port)
        return script


class SizeTests(ScriptCase):
    def test_check(self) -> None:
        """A size must look like one, and be offered where some are."""
        for kind in (DemoSession, DesktopSession, X11VNCDesktopSession):
            kind.check({}, {})
            kind.check({}, {"session_size": "1024x768"})
            kind.check(SIZES, {"session_size": "12080x1024"})
            for wrong in ("", "1x1", "1024", "1024x768 -ac", "0800x600", "٣٣x٣٣"):
                self.assertRaises(ValueError, kind.check, {}, {"session_size": wrong})
            error = self.assertRaises(ValueError, kind.check, SIZES, {"session_size": "640x480"})
            self.assertIn("one of 800x600, 12080x1024", str(error))

    def test_chosen(self) -> None:
        """Chosen, else the first that is offered, else a common one."""
        self.assertEqual(_desktop.chosen_size(SIZES, {"session_size": "12080x1024"}), "12080x1024")
        self.assertEqual(_desktop.chosen_size(SIZES, {}), "800x600")
        self.assertEqual(_desktop.chosen_size({}, {}), "1280x800")


class DesktopTests(ScriptCase):
    def test_start(self) -> None:
        """Xvnc on loopback, then a window manager and a terminal on its display."""
        script = self.make(DesktopSession, 1, display_base=90, **SIZES)
        self.assertEqual(script.start(), ("127.0.0.1", 5991))
        xvnc, manager, terminal = self.started
        line = " ".join(xvnc.argv)
        self.assertTrue(line.startswith("Xvnc :91 -rfbport 5991 -localhost -interface 127.0.0.1"))
        self.assertIn("-geometry 800x600 -depth 24", line)
        self.assertIn("-SecurityTypes None", line)
        self.assertEqual((manager.argv, terminal.argv[0]), (["openbox"], "xterm"))
        authority = Path(terminal.env["XAUTHORITY"])
        self.assertEqual(terminal.env["DISPLAY"], ":91")
        self.assertEqual(authority.parent.stat().st_mode & 0o077, 0)
        self.assertIn(b"MIT-MAGIC-COOKIE-1", authority.read_bytes())
        self.assertEqual(self.said, ["starting Xvnc", "starting openbox", "starting xterm"])
        script.stop()
        self.assertFalse(any(group.running for group in self.started))
        self.assertFalse(authority.exists())
        script.stop()

    def test_chosen_programs(self) -> None:
        """Commands of the service file are split, and no shell sees them."""
        script = self.make(
            DesktopSession, window_manager="twm -f '/a b'", startup=["run", "$HOME"], extra="-x 1"
        )
        script.start()
        self.assertEqual(self.started[1].argv, ["twm", "-f", "/a b"])
        self.assertEqual(self.started[2].argv, ["run", "$HOME"])
        self.assertEqual(self.started[0].argv[-2:], ["-x", "1"])

    def test_nothing_installed(self) -> None:
        """Without window manager and terminal the desktop is bare."""
        self.installed = {"Xvnc"}
        self.make(DesktopSession).start()
        self.assertEqual(len(self.started), 1)

    def test_taken_displays(self) -> None:
        """A display that is taken is skipped, and said to be."""
        (self.folder / "lock90").write_text(f"{os.getpid()}\n")
        (self.folder / "lock91").write_text("1\n")
        (self.folder / "lock92").write_text("nonsense")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(self.folder / "X92"))
            server.listen()
            script = self.make(DesktopSession, display_base=90)
            script.start()
        self.assertEqual(script.display, 93)
        self.assertIn("display :90 is taken, trying :91", self.said)
        self.assertIn("display :92 is taken, trying :93", self.said)

    def test_foreign_lock(self) -> None:
        """A lock of another user's server counts, too."""

        def kill(pid: int, number: int) -> None:
            raise PermissionError

        self.patch(os, "kill", kill)
        (self.folder / "lock90").write_text("1\n")
        script = self.make(DesktopSession, display_base=90)
        script.start()
        self.assertEqual(script.display, 91)

    def test_left_behind(self) -> None:
        """What a dead server has left does not count."""

        def kill(pid: int, number: int) -> None:
            raise ProcessLookupError

        self.patch(os, "kill", kill)
        (self.folder / "lock90").write_text("1\n")
        script = self.make(DesktopSession, display_base=90)
        script.start()
        self.assertEqual(script.display, 90)
        script.stop()
        self.assertFalse((self.folder / "lock90").exists())

    def test_side_by_side(self) -> None:
        """Two instances never choose the same display, and give it back."""
        one, two = (self.make(DesktopSession, display_base=90) for _ in range(2))
        one.start()
        two.start()
        self.assertEqual((one.display, two.display), (90, 91))
        one.stop()
        three = self.make(DesktopSession, display_base=90)
        three.start()
        self.assertEqual(three.display, 90)

    def test_none_free(self) -> None:
        """Where no display is free the user is told."""
        self.patch(_desktop, "_free", lambda number: False)
        error = self.assertRaises(ServiceFailed, self.make(DesktopSession, display_base=5).start)
        self.assertEqual(str(error), "no display from :5 to :24 is free")

    def test_password(self) -> None:
        """A password reaches Xvnc by a file that nobody else can read."""
        real = Path(self.mktemp())
        real.write_text("#!/bin/sh\ntr a-z A-Z\n")
        real.chmod(0o755)
        self.patch(shutil, "which", lambda name: str(real.resolve()))
        self.make(DesktopSession, password="secret").start()
        argv = self.started[0].argv
        self.assertIn("VncAuth", argv)
        file = Path(argv[argv.index("-PasswordFile") + 1])
        self.assertEqual((file.read_text(), file.stat().st_mode & 0o077), ("SECRET", 0))
        self.assertNotIn("secret", " ".join(argv))

    def test_one_time_password(self) -> None:
        """A password that nobody has chosen is told to the holder of the token."""
        shared: list[Any] = []
        obscured: list[str] = []
        self.patch(_password, "obscured", lambda password: obscured.append(password) or b"x")
        script = self.make(DesktopSession, password=True)
        script.on_share = shared.append
        script.start()
        self.assertEqual(shared, [{"password": obscured[0]}])
        self.assertEqual(len(obscured[0]), 8)
        self.assertNotIn(obscured[0], " ".join(self.started[0].argv))

    def test_password_needs_a_program(self) -> None:
        """Without vncpasswd there is no password, and so no desktop."""
        script = self.make(DesktopSession, password="secret")
        self.assertIn("vncpasswd", str(self.assertRaises(ServiceFailed, script.start)))

    def test_unavailable(self) -> None:
        """Where Xvnc is missing the service says so."""
        self.assertIsNone(DesktopSession.unavailable({}))
        self.assertEqual(DesktopSession.unavailable({"xvnc": "X9"}), "X9 is not installed")
        self.assertIsNone(DesktopSession.unavailable({"password": True}))
        self.assertRaises(ValueError, DesktopSession.unavailable, {"password": 1})


class X11VNCTests(ScriptCase):
    """What the shell script is told; the script itself is tested with the real programs."""

    said_there = "wsserver: starting x11vnc\nwsserver: waiting for x11vnc\nPORT=6001\nPORT=6000\n"

    def start(self, index: int = 0, **common: Any) -> dict[str, str]:
        """Start a script; return the variables of its shell script."""
        self.script = self.make(X11VNCDesktopSession, index, **common)
        self.script.listens = lambda port, host, banner: banner == b"RFB "
        self.script.on_share = self.shared.append
        self.addCleanup(setattr, FakeGroup, "said", "")
        FakeGroup.said = self.said_there
        self.address = self.script.start()
        command = self.started[-1].argv
        if command[0] == "ssh":
            command = shlex.split(command[-1])
        self.assertEqual(command[:2], ["sh", "-c"])
        text = subprocess.run(["printf", "%b", command[-1]], capture_output=True, text=True).stdout
        head = text.partition("\n# Shares an X display")[0]
        return dict(line.split("=", 1) for line in shlex.split(head))

    def setUp(self) -> None:
        super().setUp()
        self.installed = {*self.installed, "ssh", "tigervncpasswd"}
        self.shared: list[Any] = []
        self.patch(_password, "obscured", lambda password: b"obscured")

    def test_existing_display(self) -> None:
        """An existing display is shared as it is."""
        for common, index, display in (
            ({"display": ":7"}, 1, ":7"),
            ({"display_base": 3}, 2, "5"),
            ({}, 0, "0"),
        ):
            told = self.start(index, **common)
            self.assertEqual(
                (told["display"], told["tries"], told["password"]), (display, "0", "no")
            )
            self.assertEqual(self.address, ("127.0.0.1", int(told["port"])))
        self.assertEqual(self.said, ["starting x11vnc", "waiting for x11vnc"] * 3)

    def test_virtual_screen(self) -> None:
        """A virtual screen has a size and programs, which the host may choose itself."""
        told = self.start(display_base=98, xvfb=True)
        self.assertEqual((told["size"], told["tries"]), ("1280x800", str(_desktop.TRIES)))
        self.assertIn("openbox", told["window_manager"])
        told = self.start(display_base=98, xvfb=True, window_manager="", startup=["a b", "$c"])
        self.assertEqual((told["window_manager"], told["startup"]), ("", "'a b' '$c'"))

    def test_commands(self) -> None:
        """Another X server is started and ended by commands, with its display filled in."""
        told = self.start(
            2,
            display_base=10,
            start_command="Xorg :{display} -config card{index}",
            stop_command="x",
        )
        self.assertEqual(told["start_command"], "Xorg :12 -config card2")
        self.assertEqual(told["stop_command"], "x")

    def test_remote(self) -> None:
        """Another host is reached by ssh, x11vnc by a unix socket there."""
        told = self.start(host="far", ssh={"user": "viz", "port": 2222, "identity": "/key"})
        argv = self.started[-1].argv
        self.assertEqual((told["port"], told["public"]), ("", "no"))
        forward = argv[argv.index("-L") + 1]
        self.assertEqual(forward, f"127.0.0.1:{self.address[1]}:{told['folder']}/vnc")
        for flag in ("-oBatchMode=yes", "-oStrictHostKeyChecking=yes", "-oControlPath=none", "far"):
            self.assertIn(flag, argv)
        self.assertEqual(argv[argv.index("-l") + 1 : argv.index("-l") + 2], ["viz"])
        self.assertIn("connecting to far", self.said)

    def test_direct(self) -> None:
        """Without forwarding there is a password, and a port that all can reach."""
        told = self.start(1, host="far", direct=True, port_base=6000)
        self.assertEqual(self.address, ("far", 6001))
        self.assertEqual((told["port"], told["public"], told["password"]), ("6001", "yes", "yes"))
        self.assertEqual(self.started[-1].stdin, b"obscured")
        self.assertEqual(len(self.shared[0]["password"]), 8)
        told = self.start(host="far", direct=True, port_base=6000, password=False)
        self.assertEqual((told["password"], self.started[-1].stdin), ("no", b""))

    def test_failures(self) -> None:
        """What the script on the host says of a failure is told."""
        for said, status, words in (
            ("wsserver failed: Xvfb is not installed", None, "Xvfb is not installed"),
            ("", 3, "it ended, with status 3"),
        ):
            self.said_there = said
            self.patch(FakeGroup, "ended", status)
            self.assertIn(words, str(self.assertRaises(ServiceFailed, self.start)))
            error = self.assertRaises(ServiceFailed, self.start, host="far")
            self.assertIn(f"far: {words}", str(error))
        self.said_there = "Host key verification failed.\n"
        self.patch(FakeGroup, "ended", 255)
        error = self.assertRaises(ServiceFailed, self.start, host="far")
        self.assertEqual(str(error), "far cannot be reached by ssh: Host key verification failed.")

    def test_stopped_before_start(self) -> None:
        """A script that never started has nothing to end."""
        script = self.make(X11VNCDesktopSession)
        script.stop()
        self.assertEqual(self.started, [])

    def test_unavailable(self) -> None:
        """Missing programs, and mistakes in the options, are told."""
        check = X11VNCDesktopSession.unavailable
        for host in ("", "localhost", socket.gethostname()):
            self.assertIsNone(check({"host": host, "xvfb": True}))
        self.assertIsNone(check({"host": "far", "old_option": 1}))
        self.installed = set()
        self.assertEqual(check({"host": "far"}), "ssh: not installed")
        self.assertEqual(check({}), "x11vnc: not installed")
        self.assertEqual(check({"xvfb": True}), "x11vnc and Xvfb: not installed")
        for wrong in (
            {"host": "-oProxyCommand=x"},
            {"direct": True},
            {"xvfb": True, "display": ":1"},
            {"start_command": "X {port}"},
            {"ssh": {"user": "-x"}},
            {"ssh": {"options": ["nonsense"]}},
            {"ssh": {"password": "x"}},
        ):
            self.assertRaises(ValueError, check, wrong)


class LocalTests(ScriptCase):
    def test_start(self) -> None:
        """The program gets its port, and the file to open."""
        file = self.folder / "a b.case"
        file.touch()
        for options, rest in (({}, []), ({"target_pathname": str(file)}, [str(file)])):
            _, port = self.make(LocalSession, options=options, app="envision").start()
            self.assertEqual(self.started[-1].argv, ["envision", "-port", str(port), *rest])

    def test_file(self) -> None:
        """What is no file name is refused at once; what is not there, at the start."""
        for wrong in ("-exec", "a\nb", "a\0b"):
            self.assertRaises(ValueError, LocalSession.check, {}, {"target_pathname": wrong})
        LocalSession.check({}, {"target_pathname": "/a"})
        script = self.make(LocalSession, options={"target_pathname": "/no/such"}, app="envision")
        self.assertIn("/no/such", str(self.assertRaises(ServiceFailed, script.start)))

    def test_unavailable(self) -> None:
        """A program that is not on the PATH is unavailable."""
        self.assertIsNone(LocalSession.unavailable({"app": "envision"}))
        reason = LocalSession.unavailable({"app": "ensight"})
        self.assertEqual(reason, "ensight is not on the PATH")


class DemoTests(ScriptCase):
    def test_start(self) -> None:
        """The demo is a program of its own."""
        script = self.make(DemoSession, options={"session_size": "640x480"})
        _, port = script.start()
        self.assertEqual(
            self.started[0].argv[2:], ["wsserver.services.rfb_demo", str(port), "640x480"]
        )


class PictureTests(SynchronousTestCase):
    def test_edges(self) -> None:
        """What lies outside of the picture is cut, or not drawn at all."""
        picture = rfb_demo.Picture(10, 10)
        picture.fill(-5, -5, 8, 8, (1, 2, 3))
        picture.fill(20, 20, 5, 5, (9, 9, 9))
        self.assertEqual(picture.changed, [(0, 0, 3, 3)])
        self.assertEqual(picture.crop((2, 2, 2, 1)), bytes((1, 2, 3, 0, 0, 0, 0, 0)))

    def test_glyphs(self) -> None:
        """Every letter that can be typed has a glyph, and no two look the same."""
        shown = {chr(code) for code in range(0x21, 0x7F)}
        self.assertEqual({letter.upper() for letter in shown}, set(rfb_demo._GLYPHS))
        self.assertEqual(len(set(rfb_demo._GLYPHS.values())), len(rfb_demo._GLYPHS))


class SceneTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.scene = rfb_demo.Scene(400, 300)
        self.changes = self.scene.listen()
        self.changes.clear()

    def shown(self) -> bytes:
        return bytes(self.scene.picture.pixels)

    def test_moves(self) -> None:
        """Each tick changes a part of the picture, for ever within its stage."""
        for _ in range(500):
            before = self.shown()
            self.scene.tick()
            self.assertNotEqual(self.shown(), before)
        x, y, width, height = rfb_demo.bounds(self.changes)
        self.assertTrue(x >= 0 and y >= 0 and x + width <= 400 and y + height <= 300)
        self.assertLess(max(w * h for _, _, w, h in self.changes), 400 * 300 / 4)

    def test_typing(self) -> None:
        """Typed letters show, Backspace takes them back, Return begins a line."""
        empty = self.shown()
        self.scene.key(ord("a"))
        self.assertNotEqual(self.shown(), empty)
        self.scene.key(0xFF08)
        self.assertEqual(self.shown(), empty)
        self.scene.key(0xFF0D)
        self.assertNotEqual(self.shown(), empty)
        before = self.shown()
        self.scene.key(0xFFE1)
        self.assertEqual(self.shown(), before)
        for _ in range(1000):
            self.scene.key(ord("x"))
        self.assertLess(len(self.scene.typed), 100)

    def test_clicks(self) -> None:
        """A press leaves one mark where it was, however long it is held."""
        self.scene.pointer(0, 50, 50)
        self.assertEqual(self.changes, [])
        self.scene.pointer(1, 50, 250)
        self.scene.pointer(1, 60, 250)
        self.assertEqual(self.changes, [(40, 240, 21, 21)])

    def test_forgotten(self) -> None:
        """A viewer that has gone is told no more."""
        self.scene.forget(self.changes)
        self.scene.key(ord("a"))
        self.assertEqual(self.changes, [])


class ProtocolTests(SynchronousTestCase):
    """The RFB server (RFC 6143) over a real connection."""

    def run_client(
        self, client: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> None:
        async def both() -> None:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            serving = asyncio.create_task(rfb_demo.serve(port, "200x150"))
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except ConnectionRefusedError:
                    if serving.done():
                        raise
                    await asyncio.sleep(0.01)
            await asyncio.wait_for(client(reader, writer), 20)
            writer.close()
            # This task, and that of the server: the viewer's has ended.
            while len(asyncio.all_tasks()) > 2:
                await asyncio.sleep(0.001)
            serving.cancel()

        asyncio.run(both())

    async def greet(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, minor: int = 8
    ) -> tuple[int, int]:
        self.assertEqual(await reader.readexactly(12), b"RFB 003.008\n")
        writer.write(b"RFB 003.00%d\n" % minor)
        self.assertEqual(await reader.readexactly(2), b"\1\1")
        writer.write(b"\1")
        if minor == 8:
            self.assertEqual(await reader.readexactly(4), bytes(4))
        writer.write(b"\1")
        width, height = struct.unpack(">HH", await reader.readexactly(4))
        await reader.readexactly(16)
        (length,) = struct.unpack(">I", await reader.readexactly(4))
        self.assertEqual(await reader.readexactly(length), b"wsserver demo")
        return width, height

    async def update(self, reader: asyncio.StreamReader) -> list[tuple[Any, bytes]]:
        kind, count = struct.unpack(">BxH", await reader.readexactly(4))
        self.assertEqual(kind, 0)
        found = []
        for _ in range(count):
            *rect, encoding = struct.unpack(">4Hi", await reader.readexactly(12))
            self.assertEqual(encoding, 0)
            found.append((tuple(rect), await reader.readexactly(rect[2] * rect[3] * 4)))
        return found

    def test_session(self) -> None:
        """The whole picture first, then what changes; keys and clicks arrive."""

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.assertEqual(await self.greet(reader, writer), (200, 150))
            writer.write(struct.pack(">BBHi", 2, 0, 1, 0))
            writer.write(struct.pack(">B4xHxBI", 4, 0, 0, 0)[:8])
            writer.write(struct.pack(">BBHH", 5, 1, 150, 130))
            writer.write(struct.pack(">B3xI", 6, 3) + b"cut")
            writer.write(struct.pack(">BB4H", 3, 0, 0, 0, 999, 999))
            (whole, pixels), *_ = await self.update(reader)
            self.assertEqual(whole, (0, 0, 200, 150))
            self.assertEqual(pixels[:4], bytes((*rfb_demo.BACK, 0)))
            writer.write(struct.pack(">BB4H", 3, 1, 0, 0, 200, 150))
            for rect, _ in await self.update(reader):
                self.assertNotEqual(rect, (0, 0, 200, 150))

        self.run_client(client)

    def test_byte_orders(self) -> None:
        """Colours come in the byte order that the client wants."""

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self.greet(reader, writer, 7)
            for big, shifts, order in (
                (0, (16, 8, 0), (2, 1, 0)),
                (1, (24, 16, 8), (0, 1, 2)),
                (1, (16, 8, 0), (1, 2, 3)),
            ):
                form = struct.pack(">BBBBHHHBBBxxx", 32, 24, big, 1, 255, 255, 255, *shifts)
                writer.write(b"\0\0\0\0" + form + struct.pack(">BB4H", 3, 0, 0, 0, 1, 1))
                pixel = next(p for r, p in reversed(await self.update(reader)) if r[:2] == (0, 0))
                self.assertEqual(tuple(pixel[place] for place in order), rfb_demo.BACK)

        self.run_client(client)

    def assert_refused(self, sent: bytes, greeted: bool = True) -> None:
        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if greeted:
                await self.greet(reader, writer)
            writer.write(sent)
            await reader.read()

        self.run_client(client)

    def test_nonsense(self) -> None:
        """Whoever makes no sense is cut off, and nobody else."""
        self.assert_refused(b"GET / HTTP/1.1\r\n\r\n", greeted=False)
        self.assert_refused(b"\xff")
        form = struct.pack(">BBBBHHHBBBxxx", 16, 16, 0, 1, 31, 63, 31, 11, 5, 0)
        self.assert_refused(b"\0\0\0\0" + form)

    def test_main(self) -> None:
        """The program takes a port and a size."""
        seen: list[tuple[int, str]] = []

        async def serve(port: int, size: str) -> None:
            seen.append((port, size))
            raise KeyboardInterrupt

        self.patch(rfb_demo, "serve", serve)
        rfb_demo.main(["1"])
        rfb_demo.main(["2", "640x480"])
        self.assertEqual(seen, [(1, "1024x768"), (2, "640x480")])
