"""Commands of the service file: placeholders filled in, and the file's own mistakes found.

``{NAME}`` is replaced, ``{{`` and ``}}`` are the braces themselves.  What is filled in
stays inside the argument where it stands: no shell is involved.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
#: What the system itself reads of the options of a service (contract.md, "Service file").
SYSTEM_KEYS = frozenset({"group", "file_ext", "sizes", "page", "reserve_options"})

M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    """The options of a script: unknown keys and near misses are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return the text with its placeholders filled in; raise ValueError for an unknown one."""

    def replaced(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            if len(found[0]) == 1:
                raise ValueError(f"a single {found[0]} in {text!r}: write it twice")
            return found[0][0]
        if name not in values:
            raise ValueError(f"{{{name}}} is unknown; there are {_listed(values)}")
        return values[name]

    return _BRACES.sub(replaced, text)


def fill_all(argv: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Fill in a command.

    An argument that is one placeholder, with an empty value, is left out.
    """
    filled = [(word, fill(word, values)) for word in argv]
    return [text for word, text in filled if text or not _BRACES.fullmatch(word)]


def check(texts: Iterable[str], names: Collection[str]) -> None:
    """Raise ValueError for a placeholder that is not one of ``names``."""
    for text in texts:
        fill(text, dict.fromkeys(names, ""))


def option_values(options: Mapping[str, str]) -> dict[str, str]:
    """Return the options of a reservation as placeholders, ``option.NAME``."""
    return {f"option.{name}": value for name, value in options.items()}


def option_names(common_options: Mapping[str, Any]) -> set[str]:
    """Return the options that a reservation of the service may have."""
    named = set(common_options.get("reserve_options", {}))
    return named | {"session_size"} if common_options.get("sizes") else named


def checked(model: type[M], common_options: Mapping[str, Any]) -> M:
    """Return the script's own options as a model; raise ValueError with all their mistakes."""
    own = {name: value for name, value in common_options.items() if name not in SYSTEM_KEYS}
    try:
        return model.model_validate(own)
    except ValidationError as error:
        found = [(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
        raise ValueError("; ".join(f"{where}: {what}" for where, what in found)) from None


def _listed(values: Iterable[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in sorted(values))
