"""A person with a browser: choose, open, work, leave.  Real Chromium, noVNC and Xvnc."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright
from twisted.trial.unittest import SynchronousTestCase

from tests.integration.parts import ROOT, SCREENSHOTS, Server, alive, chromium, folder, until

AXE = Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"
PHONE = {"width": 375, "height": 740}

# A number for what the canvas shows, so that a change of the picture can be seen.
PICTURE = """() => {
  const canvas = document.querySelector("#screen canvas");
  const { width, height } = canvas;
  const data = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  let sum = 0;
  for (let i = 0; i < data.length; i += 4) sum = (sum * 31 + data[i] + data[i + 1] * 3) % 1e9;
  return sum;
}"""


class BrowserCase(SynchronousTestCase):
    def setUp(self) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        playwright = self.enterContext(sync_playwright())
        self.browser = self.enterContext(chromium(playwright))

    def page(self, **options: Any) -> Page:
        """A new tab; whatever its console complains of fails the test."""
        page = self.browser.new_page(**options)
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: m.type == "error" and complaints.append(m.text))
        self.addCleanup(lambda: self.assertEqual(complaints, []))
        return page

    def check_accessible(self, page: Page) -> None:
        """axe-core finds nothing, and nothing sticks out of the window."""
        # The policy of our pages forbids foreign scripts, hence no script tag.
        page.evaluate(AXE.read_text() + "; undefined")
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        short = [(v["id"], v["nodes"][0]["html"]) for v in found["violations"]]
        self.assertEqual(short, [])
        self.assertTrue(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))

    def open(self, page: Page, server: Server, name: str, size: str | None = None) -> None:
        """Choose a service on the front page, and wait for its picture."""
        page.goto(server.http)
        card = page.locator(f'[data-name="{name}"]')
        if size is not None:
            card.locator("select").select_option(size)
        card.get_by_role("button").click()
        page.wait_for_selector('body[data-state="connected"] #screen canvas', timeout=30_000)

    def picture(self, page: Page) -> int:
        value: int = page.evaluate(PICTURE)
        return value

    def check_changes(self, page: Page) -> None:
        before = self.picture(page)
        until(lambda: self.picture(page) != before)


class DesktopTests(BrowserCase):
    def test_desktop(self) -> None:
        """Reserve on the front page, type into a real desktop, close the tab: all is gone."""
        services = ROOT / "etc" / "services.json"
        home = self.enterContext(folder())
        server = self.enterContext(Server("-c", services, "--http_port", 0, cwd=home))
        page = self.page(viewport={"width": 1280, "height": 800})
        self.open(page, server, "Desktop Session", "1280x800")
        # The token is not left in the address bar.
        self.assertNotIn("token", page.url)
        self.assertEqual(server.instances("Desktop Session")[0]["state"], "open")
        names = {child.name() for child in server.children()}
        self.assertIn("Xvnc", "".join(names) + "Xvnc" * ("Xtigervnc" in names))
        self.wait_steady(page)
        before = self.picture(page)
        typed = home / "typed"

        def has_typed() -> bool:
            # The window, and its focus after the click, come when the desktop likes.
            page.locator("#screen canvas").click(position={"x": 240, "y": 160})
            page.wait_for_timeout(300)
            page.keyboard.type("clear; uptime; echo hello from the browser | tee typed\n")
            page.wait_for_timeout(700)
            return typed.exists() and typed.read_text() == "hello from the browser\n"

        until(has_typed)
        until(lambda: self.picture(page) != before)
        self.wait_steady(page)
        page.mouse.move(640, 1)
        page.wait_for_selector("#bar.shown")
        page.screenshot(path=SCREENSHOTS / "desktop.png", animations="disabled")
        children = server.children()
        page.close()
        until(lambda: not server.instances("Desktop Session"))
        self.assertEqual([child for child in children if alive(child)], [])
        services_now = server.get("/v1/services").json()
        free = {s["name"]: s["free"] for s in services_now}
        self.assertEqual(free["Desktop Session"], 2)

    def wait_steady(self, page: Page) -> None:
        """Wait until the desktop has drawn itself."""
        last = [0]

        def steady() -> bool:
            now = self.picture(page)
            same, last[0] = now == last[0], now
            page.wait_for_timeout(300)
            return same

        until(steady)

    def test_shared_display(self) -> None:
        """x11vnc shows a display of this host."""
        services = ROOT / "etc" / "services.json"
        server = self.enterContext(Server("-c", services, "--http_port", 0))
        page = self.page()
        self.open(page, server, "Cluster Node Session")
        page.get_by_role("button", name="End", exact=True)
        page.close()
        until(lambda: not server.instances("Cluster Node Session"))
        self.assertEqual(server.children(), [])


class PageTests(BrowserCase):
    def setUp(self) -> None:
        super().setUp()
        self.folder = self.enterContext(folder())
        (self.folder / "broken.py").write_text(
            "from wsserver import RemoteServiceScript, ServiceFailed\n"
            "class Broken(RemoteServiceScript):\n"
            "    def start(self):\n        raise ServiceFailed('no licence is free')\n"
        )
        sizes = ["1024x768", "800x600"]
        file = self.folder / "services.json"
        file.write_text(
            json.dumps(
                {
                    "Demo": {
                        "script": "demo_session.py",
                        "count": 2,
                        "options": {"sizes": sizes},
                    },
                    "Broken one": {"script": "broken.py", "count": 1, "options": {}},
                }
            )
        )
        self.server = self.enterContext(Server("-c", file, "--http_port", 0))

    def test_demo(self) -> None:
        """The demo moves, shows what is typed, and ends by the button."""
        page = self.page(viewport={"width": 1024, "height": 768})
        self.open(page, self.server, "Demo", "800x600")
        self.check_changes(page)
        size = page.evaluate("(c => [c.width, c.height])(document.querySelector('#screen canvas'))")
        self.assertEqual(size, [800, 600])
        page.locator("#screen canvas").click(position={"x": 300, "y": 300})
        page.keyboard.type("hello")
        page.screenshot(path=SCREENSHOTS / "demo.png")
        self.check_accessible(page)
        page.mouse.move(500, 1)
        page.get_by_role("button", name="End", exact=True).click()
        page.wait_for_selector('body[data-state="ended"]')
        self.check_accessible(page)
        page.screenshot(path=SCREENSHOTS / "ended.png")
        until(lambda: not self.server.instances("Demo"))
        self.assertEqual(self.server.children(), [])

    def test_failure_in_words(self) -> None:
        """A service that cannot start says why, in its own words."""
        # noVNC writes the failure to the console, which is right here.
        page = self.browser.new_page()
        page.goto(self.server.http)
        page.locator('[data-name="Broken one"]').get_by_role("button").click()
        page.wait_for_selector('body[data-state="ended"]')
        self.assertIn("no licence is free", page.locator("main").inner_text())
        self.check_accessible(page)

    def test_unknown_token(self) -> None:
        """A link with an old token ends in words, not in a blank page."""
        page = self.browser.new_page()
        query = "path=websockify&token=old&session_name=N&autoconnect=true"
        page.goto(f"{self.server.http}/vnc_envision.html?{query}")
        page.wait_for_selector('body[data-state="ended"]')
        self.assertTrue(page.locator("#reason").inner_text())

    def test_documented_address(self) -> None:
        """host, port, path and token of the documented address are followed."""
        page = self.page()
        token = self.server.reserve("Demo")
        query = f"path=websockify&token={token}&session_name=N&autoconnect=true"
        place = f"&host=127.0.0.1&port={self.server.http_port}"
        page.goto(f"{self.server.http}/vnc_envision.html?{query}{place}")
        page.wait_for_selector('body[data-state="connected"] #screen canvas', timeout=30_000)

    def test_token_in_the_path(self) -> None:
        """Secrets are not left in the address, nor in what its path holds of its own."""
        page = self.page()
        token = self.server.reserve("Demo")
        query = f"path=x%3Fa%3Db%26token%3D{token}&password=canary&host=127.0.0.1&autoconnect=true"
        page.goto(f"{self.server.http}/viewer.html?{query}")
        page.wait_for_selector('body[data-state="connected"] #screen canvas', timeout=30_000)
        for secret in (token, "token", "password", "canary"):
            self.assertNotIn(secret, page.url)
        self.assertIn("path=x%3Fa%3Db&", page.url)
        page.reload()
        page.wait_for_selector('body[data-state="ended"]')
        self.assertIn("has been used", page.locator("#reason").inner_text())

    def test_full(self) -> None:
        """A full service says so and cannot be opened."""
        for _ in range(2):
            self.server.reserve("Demo")
        page = self.page()
        page.goto(self.server.http)
        card = page.locator('[data-name="Demo"]')
        page.wait_for_selector('[data-name="Demo"] [aria-disabled="true"]')
        self.assertIn("0 of 2 free", card.inner_text())

    def test_status_keeps_itself_fresh(self) -> None:
        """A new reservation shows up by itself, and can be released there."""
        page = self.page()
        page.goto(f"{self.server.http}/v1/status_view")
        self.server.reserve("Demo", "note=%3Cscript%3Ealert(1)%3C/script%3E")
        page.wait_for_selector("button.release")
        self.assertIn("<script>alert(1)</script>", page.locator("#rows").inner_text())
        self.check_accessible(page)
        page.screenshot(path=SCREENSHOTS / "status.png")
        page.locator("button.release").click()
        page.locator("button.release").click()
        until(lambda: not self.server.instances("Demo"))
        page.wait_for_selector("button.release", state="detached")

    def test_phone_and_dark(self) -> None:
        """All pages fit a phone, in light and in dark."""
        for scheme in ("light", "dark"):
            page = self.page(viewport=PHONE, color_scheme=scheme)
            page.goto(self.server.http)
            page.wait_for_selector('[data-name="Demo"]')
            self.check_accessible(page)
            page.screenshot(path=SCREENSHOTS / f"front-{scheme}.png")
            page.goto(f"{self.server.http}/v1/status_view")
            self.check_accessible(page)
            self.open(page, self.server, "Demo")
            self.check_accessible(page)
            page.close()


class SecurityTokenTests(BrowserCase):
    def test_token_is_asked_for(self) -> None:
        """With a security token the front page asks for it, once."""
        server = self.enterContext(Server("--http_port", 0, "--security_token", "sesame"))
        page = self.browser.new_page()
        page.goto(server.http)
        page.get_by_label("Access token").fill("wrong")
        page.get_by_role("button", name="Continue").click()
        page.wait_for_selector("#access-error:not(:empty)")
        page.get_by_label("Access token").fill("sesame")
        page.get_by_role("button", name="Continue").click()
        page.locator('[data-name="Demo"]').get_by_role("button").click()
        page.wait_for_selector('body[data-state="connected"] #screen canvas', timeout=30_000)
