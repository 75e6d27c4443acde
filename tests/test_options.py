"""The options of a reservation: which are allowed, and which are right."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from twisted.trial.unittest import SynchronousTestCase

from wsserver.options import MAX_LENGTH, Rule, resolve


def rule(**described: Any) -> Rule:
    return Rule.model_validate(described)


class RuleTests(SynchronousTestCase):
    def check(self, one: Rule, right: list[str], wrong: list[str]) -> None:
        for value in right:
            one.check("x", value)
        for value in wrong:
            error = self.assertRaises(ValueError, one.check, "x", value)
            self.assertTrue(str(error).startswith("x "), str(error))

    def test_string(self) -> None:
        """Plain text that can become an argument of a program, and no option of it."""
        self.check(rule(), ["a b", "/tmp/ä", "$HOME;"], ["", "-x", "a\nb", "a\0", "\x1b[1m"])
        self.check(rule(default=""), ["", "a"], ["-x"])
        self.check(rule(), ["y" * MAX_LENGTH], ["y" * (MAX_LENGTH + 1)])

    def test_pattern(self) -> None:
        """A pattern has to match all of a value, and then decides alone."""
        self.check(rule(pattern="[a-z-]+"), ["a", "-x"], ["", "a1", "a\n"])

    def test_choices(self) -> None:
        """One of the choices, as it is written."""
        self.check(rule(choices=["-a", "B"]), ["-a", "B"], ["b", "", "-a B"])
        self.check(rule(choices=["1"], type="integer"), ["1"], ["01"])

    def test_numbers(self) -> None:
        """Numbers are decimal, and within their limits."""
        integer = rule(type="integer", minimum=-5, maximum=8)
        self.check(integer, ["-5", "0", "+8", "007"], ["-6", "9", "1.0", "", "1e0", "٣", "0x1"])
        number = rule(type="number", minimum=0.5)
        self.check(number, ["0.5", "7"], ["0.4", ".5", "5.", "nan", "inf", "1,5"])

    def test_boolean(self) -> None:
        """Words, as in JSON."""
        self.check(rule(type="boolean"), ["true", "false"], ["True", "1", ""])

    def test_nonsense(self) -> None:
        """A description that makes no sense is a mistake of the file."""
        for wrong in (
            {"type": "text"},
            {"choices": []},
            {"pattern": "("},
            {"type": "integer", "default": "three"},
            {"type": "integer", "maximum": 2, "default": 3},
            {"choices": ["a"], "default": "b"},
            {"colour": "red"},
            {"title": 1},
        ):
            self.assertRaises(ValidationError, Rule.model_validate, wrong)

    def test_describe(self) -> None:
        """What a form needs; an option without a default is required."""
        shown = rule(type="boolean", default=False, title="Shared").describe("shared")
        self.assertEqual((shown["name"], shown["title"]), ("shared", "Shared"))
        self.assertEqual((shown["default"], shown["required"]), ("false", False))
        shown = rule(type="integer", minimum=1).describe("n")
        self.assertEqual((shown["default"], shown["required"]), (None, True))
        self.assertEqual((shown["minimum"], shown["maximum"]), (1, None))

    @given(st.integers(-(10**17), 10**17))
    def test_any_integer(self, number: int) -> None:
        """Every whole number of sensible length is one."""
        rule(type="integer").check("x", str(number))


class ResolveTests(SynchronousTestCase):
    rules = {"nodes": rule(type="integer", default=2), "file": rule()}

    def test_defaults(self) -> None:
        """Defaults are filled in as text."""
        self.assertEqual(resolve(self.rules, {"file": "f"}), {"nodes": "2", "file": "f"})
        given = {"file": "f", "nodes": "3"}
        self.assertEqual(resolve(self.rules, given), given)

    def refusal(self, given: dict[str, str], *also: str) -> str:
        return str(self.assertRaises(ValueError, resolve, self.rules, given, also))

    def test_refused(self) -> None:
        """What is unknown, missing or wrong is named."""
        self.assertEqual(self.refusal({}), "file is missing")
        self.assertIn("nodes must be a whole number, not 'x'", self.refusal({"nodes": "x"}))
        self.assertEqual(
            self.refusal({"file": "f", "colour": "red"}, "session_size"),
            "colour is no option of this service; allowed: file, nodes, session_size",
        )

    def test_also(self) -> None:
        """Options that somebody else looks at are let through."""
        given = {"file": "f", "session_size": "1x1"}
        self.assertEqual(resolve(self.rules, given, ["session_size"])["session_size"], "1x1")

    def test_none(self) -> None:
        """A service without options has none."""
        error = self.assertRaises(ValueError, resolve, {}, {"a": "b"})
        self.assertIn("allowed: none", str(error))
