"""The options of a reservation: which a service allows, and whether a given one is right.

An administrator describes them in the service file, as ``options.reserve_options``; the
same description becomes the form on the front page.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

#: The longest value of an option, in characters.
MAX_LENGTH = 4096

_NUMBERS = {
    "integer": (re.compile(r"[+-]?[0-9]{1,18}"), "a whole number"),
    "number": (re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?"), "a number"),
}


class Rule(BaseModel):
    """What one option of a reservation may be.  Without a default it must be given."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: Literal["string", "integer", "number", "boolean"] = "string"
    title: Annotated[str | None, Field(description="label of the form")] = None
    choices: Annotated[list[str] | None, Field(min_length=1)] = None
    pattern: Annotated[
        str | None, Field(description="regular expression that matches all of a string")
    ] = None
    minimum: float | None = None
    maximum: float | None = None
    default: bool | int | float | str | None = None

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def _default_is_right(self) -> Rule:
        if self.default is not None:
            self.check("default", self.text)
        return self

    @property
    def text(self) -> str:
        """The default as it would stand in a query."""
        return str(self.default).lower() if isinstance(self.default, bool) else str(self.default)

    def check(self, name: str, value: str) -> None:
        """Raise ValueError, with a message for the user, unless the value is right."""
        if len(value) > MAX_LENGTH:
            raise ValueError(f"{name} is longer than {MAX_LENGTH} characters")
        if self.choices is not None:
            _demand(value in self.choices, name, f"one of {', '.join(self.choices)}", value)
        elif self.type == "boolean":
            _demand(value in ("true", "false"), name, "true or false", value)
        elif self.type == "string":
            self._check_string(name, value)
        else:
            self._check_number(name, value)

    def describe(self, name: str) -> dict[str, Any]:
        """Return what a program needs to offer the option to a person."""
        shown = self.model_dump(exclude={"default"})
        default = None if self.default is None else self.text
        return {"name": name, **shown, "default": default, "required": default is None}

    def _check_string(self, name: str, value: str) -> None:
        if self.pattern is not None:
            fits = re.fullmatch(self.pattern, value) is not None
            _demand(fits, name, f"of the form {self.pattern}", value)
            return
        if value == "" and self.default == "":
            return
        # It may become an argument of a program, where a dash would make it an option, and
        # nothing at all would let the next argument take its place.
        _demand(value != "", name, "given", value)
        plain = not value.startswith("-") and value.isprintable()
        _demand(plain, name, "plain text that does not begin with a dash", value)

    def _check_number(self, name: str, value: str) -> None:
        shape, what = _NUMBERS[self.type]
        _demand(shape.fullmatch(value) is not None, name, what, value)
        if self.minimum is not None:
            _demand(float(value) >= self.minimum, name, f"{self.minimum:g} or more", value)
        if self.maximum is not None:
            _demand(float(value) <= self.maximum, name, f"{self.maximum:g} or less", value)


def resolve(
    rules: Mapping[str, Rule], given: Mapping[str, str], also: Collection[str] = ()
) -> dict[str, str]:
    """Return the options of a reservation with the defaults filled in.

    Those of ``also`` are let through unseen.

    Raises:
        ValueError: with a message for the user.
    """
    for name, value in given.items():
        if name in rules:
            rules[name].check(name, value)
        elif name not in also:
            allowed = ", ".join(sorted({*rules, *also})) or "none"
            raise ValueError(f"{name} is no option of this service; allowed: {allowed}")
    for name, rule in rules.items():
        if rule.default is None and name not in given:
            raise ValueError(f"{name} is missing")
    defaults = {name: rule.text for name, rule in rules.items() if rule.default is not None}
    return {**defaults, **given}


def _demand(true: bool, name: str, what: str, value: str) -> None:
    if not true:
        raise ValueError(f"{name} must be {what}, not {value[:60]!r}")
