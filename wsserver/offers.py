"""What can be reserved: services with their script files, found, imported and checked."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from wsserver.config import ServiceSpec, json_path
from wsserver.errors import ConfigError
from wsserver.scripts import RemoteServiceScript

#: The scripts shipped with the package.
SHIPPED = Path(__file__).parent / "services"

Create = Callable[[str, int, Mapping[str, Any], Mapping[str, str]], RemoteServiceScript]


def _no_reason(common_options: Mapping[str, Any]) -> str | None:
    return None


def _no_check(common_options: Mapping[str, Any], options: Mapping[str, str]) -> None:
    return None


@dataclass(frozen=True)
class Script:
    """What a script file offers."""

    create: Create
    unavailable: Callable[[Mapping[str, Any]], str | None] = _no_reason
    check: Callable[[Mapping[str, Any], Mapping[str, str]], None] = _no_check


@dataclass(frozen=True)
class Offer:
    """A service type together with its script, ready to be reserved.

    ``unavailable`` says why it cannot run on this machine, where it cannot.
    """

    spec: ServiceSpec
    script: Script = field(repr=False)
    unavailable: str | None = None


def load_offers(specs: Iterable[ServiceSpec], folder: Path) -> dict[str, Offer]:
    """Find, import and check the script of each service.

    Raises:
        ConfigError: with every problem of every script.
    """
    offers: dict[str, Offer] = {}
    problems: list[str] = []
    for spec in specs:
        try:
            script = load_script(find_script(spec.script, folder))
            reason = script.unavailable(spec.options)
        except ScriptError as error:
            problems.append(f"{json_path(spec.name, 'script')}: {error}")
        except Exception as error:
            where = json_path(spec.name, "options")
            problems.append(f"{where}: the script does not accept them: {_brief(error)}")
        else:
            offers[spec.name] = Offer(spec, script, reason)
    if problems:
        raise ConfigError(problems)
    return offers


class ScriptError(Exception):
    """A script file cannot be used; the message says why."""


def find_script(name: str, folder: Path) -> Path:
    """Return the file of a script: beside the service file first, then among the shipped.

    Raises:
        ScriptError: there is none, or it lies outside of those folders.
    """
    for base in (folder, SHIPPED):
        try:
            path = (base / name).resolve()
            found = path.is_file()
        except (OSError, ValueError, RuntimeError) as error:
            raise ScriptError(f"{name!r} is no file name: {error}") from None
        if not path.is_relative_to(base.resolve()):
            raise ScriptError(f"{name} lies outside of {base}")
        if found:
            return path
    raise ScriptError(f"{name} stands neither in {folder} nor among the shipped scripts")


def load_script(path: Path) -> Script:
    """Import a script file and find what it offers.

    Raises:
        ScriptError: the import fails, or there is not exactly one service script in it.
    """
    module = _import(path)
    create = getattr(module, "create", None)
    # A class that has two names there is still one.
    found = list(
        {
            value: None
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, RemoteServiceScript)
            and value.__module__ == module.__name__
        }
    )
    if len(found) == 1:
        one = found[0]
        return Script(create if callable(create) else one, one.unavailable, one.check)
    if callable(create):
        return Script(create)
    names = ", ".join(c.__name__ for c in found)
    what = f"{len(found)} subclasses ({names})" if found else "no subclass"
    raise ScriptError(f"{path.name} defines {what} of RemoteServiceScript, and no create()")


def _import(path: Path) -> ModuleType:
    name = f"wsserver_script_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ScriptError(f"{path.name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up by name.
    before = sys.modules.get(name)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise ScriptError(f"{path.name} cannot be imported: {_where(error, path)}") from error
    return module


def _where(error: BaseException, path: Path) -> str:
    # A syntax error may also be one of a module that the script imports.
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"line {error.lineno}: {error.msg}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return f"line {lines[-1]}: {_brief(error)}" if lines else _brief(error)


def _brief(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
