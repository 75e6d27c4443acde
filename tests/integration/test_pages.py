"""What a person sees of a start, of the options of a service, and of a terminal."""

from __future__ import annotations

import json
import re
from typing import Any

from playwright.sync_api import Page

from tests.integration.parts import SCREENSHOTS, Server, alive, folder, until
from tests.integration.test_browser import PHONE, BrowserCase

#: Goes on when the file named by the common option is there.
STEPS = """
import pathlib
from wsserver import RemoteServiceScript, ServiceFailed

class Steps(RemoteServiceScript):
    def start(self):
        gates = pathlib.Path(self._common_options["gates"])
        for number, step in enumerate(["queued, position 3", "starting the node"]):
            self.progress(step)
            self.wait_until(gates.joinpath(str(number)).exists, "no gate")
        chosen = " ".join(f"{name}={value}" for name, value in sorted(self._options.items()))
        raise ServiceFailed("no licence is free: " + chosen)
"""

TERMINAL = {
    "script": "command_session.py",
    "count": 2,
    "options": {
        "page": "terminal.html",
        "command": ["{python}", "-m", "wsserver.services.pty_server", "{port}", "sh"],
    },
}

#: What a person could read in the terminal.
TEXT = (
    "[...document.querySelectorAll('.xterm-rows > div')].map((row) => row.textContent).join('\\n')"
)


class StartTests(BrowserCase):
    def setUp(self) -> None:
        super().setUp()
        self.folder = self.enterContext(folder())
        (self.folder / "steps.py").write_text(STEPS)
        rules: dict[str, Any] = {
            "nodes": {"title": "Number of nodes", "type": "integer", "minimum": 1, "default": 2},
            "queue": {"choices": ["short", "long"], "default": "short"},
            "shared": {"title": "Share the node", "type": "boolean", "default": False},
            "label": {"title": "Label", "pattern": "[a-z]*", "default": "run"},
            "site": {"title": "Site", "choices": ["north", "south"]},
            "project": {"title": "Project"},
        }
        options = {"gates": str(self.folder), "reserve_options": rules}
        entry = {"script": "steps.py", "count": 2, "options": options}
        file = self.folder / "services.json"
        file.write_text(json.dumps({"Job": entry}))
        self.server = self.enterContext(Server("-c", file, "--http_port", 0))

    def card(self, page: Page) -> Any:
        page.goto(self.server.http)
        return page.locator('[data-name="Job"]')

    def filled(self, page: Page) -> Any:
        """The card with what is required filled in."""
        card = self.card(page)
        card.get_by_label("Site").select_option("south")
        card.get_by_label("Project").fill("turbine")
        return card

    def test_steps(self) -> None:
        """The waiting page tells each step as it happens, and at the end why it failed."""
        # noVNC writes the failure to the console, which is right here.
        page = self.browser.new_page()
        card = self.filled(page)
        card.get_by_role("button").click()
        page.wait_for_selector("#steps li[aria-current] >> text=queued, position 3")
        self.check_accessible(page)
        page.screenshot(path=SCREENSHOTS / "waiting.png")
        (self.folder / "0").touch()
        page.wait_for_selector("#steps li[aria-current] >> text=starting the node")
        self.assertEqual(page.locator("#steps li").count(), 2)
        (self.folder / "1").touch()
        page.wait_for_selector('body[data-state="ended"]')
        self.assertIn("no licence is free", page.locator("#said").inner_text())
        page.get_by_text("Technical detail").click()
        self.assertIn("starting the node", page.locator("#detail").inner_text())
        self.check_accessible(page)

    def test_options(self) -> None:
        """The options of a service are a form; what is chosen reaches the service."""
        for gate in "01":
            (self.folder / gate).touch()
        page = self.browser.new_page()
        card = self.card(page)
        nodes = card.get_by_label("Number of nodes")
        self.assertEqual(nodes.input_value(), "2")
        nodes.fill("5")
        card.get_by_label("queue").select_option("long")
        card.get_by_label("Share the node").check()
        # An empty text is a value too, where there is another by default.
        card.get_by_label("Label").fill("")
        # What is required has to be there: the browser says so itself.
        card.get_by_role("button").click()
        self.assertEqual(page.evaluate("document.activeElement.name"), "site")
        card.get_by_label("Site").select_option("north")
        card.get_by_role("button").click()
        self.assertEqual(page.evaluate("document.activeElement.name"), "project")
        card.get_by_label("Project").fill("turbine")
        self.check_accessible(page)
        page.screenshot(path=SCREENSHOTS / "options.png")
        # The page refreshes itself, and leaves the form alone.
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        page.wait_for_load_state("networkidle")
        self.assertEqual(nodes.input_value(), "5")
        card.get_by_role("button").click()
        page.wait_for_selector('body[data-state="ended"]')
        chosen = "label= nodes=5 project=turbine queue=long shared=true site=north"
        # The close and the words come by two connections.
        until(lambda: chosen in page.locator("#said").inner_text())

    def test_refused_option(self) -> None:
        """What the server refuses is said at the card, in its words."""
        page = self.browser.new_page()
        card = self.filled(page)
        card.get_by_label("Label").fill("NOT SO")
        card.get_by_role("button").click()
        page.wait_for_selector('[data-name="Job"] .error:not(:empty)')
        self.assertIn("label must be of the form [a-z]*", card.locator(".error").inner_text())
        self.assertEqual(card.get_by_label("Label").input_value(), "NOT SO")

    def test_phone(self) -> None:
        """The form fits a phone, in light and in dark."""
        for scheme in ("light", "dark"):
            page = self.page(viewport=PHONE, color_scheme=scheme)
            self.card(page).wait_for()
            self.check_accessible(page)
            page.screenshot(path=SCREENSHOTS / f"options-{scheme}.png")
            page.close()


class TerminalTests(BrowserCase):
    def setUp(self) -> None:
        super().setUp()
        home = self.enterContext(folder())
        file = home / "services.json"
        file.write_text(json.dumps({"Terminal": TERMINAL}))
        self.server = self.enterContext(Server("-c", file, "--http_port", 0, cwd=home))

    def open_terminal(self, **options: Any) -> Page:
        page = self.page(**options)
        page.goto(self.server.http)
        page.locator('[data-name="Terminal"]').get_by_role("button").click()
        page.wait_for_selector('body[data-state="connected"] .xterm-rows')
        return page

    def text(self, page: Page) -> str:
        text: str = page.evaluate(TEXT)
        return text

    def run_line(self, page: Page, line: str, answer: str) -> re.Match[str]:
        """Type a line, and return the match of its answer."""
        page.keyboard.type(line + "\n")
        pattern = re.compile(rf"^{answer}\s*$", re.MULTILINE)
        return until(lambda: pattern.search(self.text(page)))

    def test_terminal(self) -> None:
        """What is typed is run, and what it prints is shown."""
        page = self.open_terminal(viewport={"width": 900, "height": 600})
        self.assertNotIn("token", page.url)
        self.run_line(page, "echo $((6*7))", "42")
        self.run_line(page, "printf 'gr\\303\\274n \\342\\234\\223\\n'", "grün ✓")
        self.check_accessible(page)
        page.mouse.move(450, 1)
        page.wait_for_selector("#bar.shown")
        page.screenshot(path=SCREENSHOTS / "terminal.png", animations="disabled")
        shells = self.server.children()
        self.assertIn("sh", {shell.name() for shell in shells})
        page.get_by_role("button", name="End", exact=True).click()
        page.wait_for_selector('body[data-state="ended"]')
        until(lambda: not self.server.instances("Terminal"))
        until(lambda: not list(filter(alive, shells)))

    def test_size(self) -> None:
        """The program knows the size of the window, also of one that changes."""
        page = self.open_terminal(viewport={"width": 900, "height": 600})
        rows = page.locator(".xterm-rows > div").count()
        self.run_line(page, "stty size", rf"{rows} \d+")
        page.set_viewport_size({"width": 600, "height": 300})
        until(lambda: page.locator(".xterm-rows > div").count() < rows)
        smaller = page.locator(".xterm-rows > div").count()
        self.run_line(page, "clear; stty size", rf"{smaller} \d+")

    def test_much(self) -> None:
        """Much output comes through whole, and the terminal goes on."""
        page = self.open_terminal()
        # Several times what the server sends ahead of what is shown.
        self.run_line(page, "seq 1 200000; echo do''ne", "done")
        self.assertIn("\n200000", self.text(page))

    def test_interrupt(self) -> None:
        """Output without end does not pile up before what comes after Ctrl-C."""
        page = self.open_terminal()
        self.run_line(page, "yes", "y")
        page.keyboard.press("Control+c")
        self.run_line(page, "clear; echo $((6*7))", "42")

    def test_keyboard(self) -> None:
        """The keys lead out of the terminal, to the bar and its buttons."""
        page = self.open_terminal()
        for move in (page.keyboard.down, page.keyboard.up):
            for key in ("Control", "Alt", "Shift"):
                move(key)
        page.wait_for_selector("#bar.shown #smaller:focus")
        page.locator("#end").focus()
        page.keyboard.press("Enter")
        page.wait_for_selector('body[data-state="ended"]')
        self.assertEqual(page.evaluate("document.activeElement.id"), "reason")

    def test_exit(self) -> None:
        """The end of the shell is the end of the session."""
        page = self.open_terminal()
        page.keyboard.type("exit\n")
        page.wait_for_selector('body[data-state="ended"]')
        self.assertIn("The session ended", page.locator("#reason").inner_text())
        until(lambda: not self.server.instances("Terminal"))
        self.check_accessible(page)

    def test_jobs(self) -> None:
        """Jobs that the shell has left in the background end with the session."""
        page = self.open_terminal()
        self.run_line(page, "nohup sleep 1000 >/dev/null 2>&1 & echo le''ft", "left")
        children = self.server.children()
        self.assertIn("sleep", {child.name() for child in children})
        page.close()
        until(lambda: not self.server.instances("Terminal"))
        until(lambda: not list(filter(alive, children)))

    def test_phone(self) -> None:
        """The terminal fits a phone."""
        page = self.open_terminal(viewport=PHONE, color_scheme="dark")
        self.run_line(page, "echo ok", "ok")
        self.check_accessible(page)
        page.screenshot(path=SCREENSHOTS / "terminal-phone.png")


class PasswordTests(BrowserCase):
    def test_one_time_password(self) -> None:
        """The page gets in with the password of the session, and nobody is asked for one."""
        file = self.enterContext(folder()) / "services.json"
        options = {"password": True, "display_base": 190}
        entry = {"script": "desktop_session.py", "count": 1, "options": options}
        file.write_text(json.dumps({"Desktop": entry}))
        server = self.enterContext(Server("-c", file, "--http_port", 0))
        page = self.page()
        # Nobody knows the password who could type it here.
        self.open(page, server, "Desktop")
        self.assertFalse(page.locator("#login").is_visible())
        self.check_accessible(page)
