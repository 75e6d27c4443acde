"""What browsers are told."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from wsserver.policy import CSP, Policy


class PolicyTests(SynchronousTestCase):
    def test_every_answer(self) -> None:
        """By default nothing runs, nothing is guessed, nothing leaks, and only we frame it."""
        headers = dict(Policy().headers)
        self.assertIn("script-src 'none'", headers[CSP])
        self.assertIn("frame-ancestors 'self'", headers[CSP])
        self.assertEqual(headers["X-Frame-Options"], "SAMEORIGIN")
        self.assertEqual(headers["X-Content-Type-Options"], "nosniff")
        self.assertEqual(headers["Referrer-Policy"], "no-referrer")
        self.assertNotIn("Strict-Transport-Security", headers)

    def test_pages(self) -> None:
        """Our pages run our own files alone; nothing inside a page is a script."""
        for csp in (Policy().of_page(), Policy().of_page(inline_styles=True)):
            rules = dict(rule.strip().split(" ", 1) for rule in csp.split(";"))
            self.assertEqual(rules["default-src"], "'self'")
            self.assertEqual(rules["object-src"], "'none'")
            self.assertEqual(rules["frame-ancestors"], "'self'")
            self.assertNotIn("script-src", rules)
        self.assertNotIn("unsafe-inline", Policy().of_page())

    def test_frames(self) -> None:
        """Who may frame us is told in both ways, where the old one can."""
        for ancestors, csp, option in (
            (["none"], "'none'", "DENY"),
            (["self", "https://app.example"], "'self' https://app.example", None),
            (["*"], "*", None),
        ):
            policy = Policy(ancestors)
            headers = dict(policy.headers)
            self.assertTrue(headers[CSP].endswith(f"frame-ancestors {csp}"))
            self.assertTrue(policy.of_page().endswith(f"frame-ancestors {csp}"))
            self.assertEqual(policy.of_files, f"frame-ancestors {csp}")
            self.assertEqual(headers.get("X-Frame-Options"), option)

    def test_added(self) -> None:
        """What the operator adds wins, and stands there once."""
        added = [("x-frame-options", "DENY"), ("content-security-policy", "sandbox"), ("A", "b")]
        policy = Policy(added=added)
        names = [name.lower() for name, _ in policy.headers]
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual(policy.headers[-3:], added)
        self.assertEqual(policy.of_files, "sandbox")
        self.assertEqual(policy.of_page(), "sandbox")
        self.assertEqual(policy.of_page(inline_styles=True), "sandbox")
        self.assertIn("default-src 'self'", Policy(added=added[::2]).of_page())
        both = [(CSP, "sandbox"), (CSP.lower(), "img-src 'none'")]
        self.assertEqual(Policy(added=both).of_page(), "sandbox, img-src 'none'")

    def test_hsts(self) -> None:
        """Browsers come by TLS alone where that is asked for."""
        headers = dict(Policy(hsts=3600).headers)
        self.assertEqual(headers["Strict-Transport-Security"], "max-age=3600")
