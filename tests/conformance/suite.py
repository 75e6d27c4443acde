"""The Autobahn test suite itself, which needs CPython 2.7."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: Where the suite is put, once.
PLACE = Path("build/conformance/suite")
PACKAGE = "autobahntestsuite==25.10.1"
PASSED = {"OK", "INFORMATIONAL"}
#: Its command, without the wrapper that pip makes.
_RUN = "import sys; from autobahntestsuite import wstest; sys.argv[0] = 'wstest'; wstest.run()"


def python27() -> str | None:
    """Return a CPython 2.7: that of the PATH, or of pyenv; None where there is none."""
    found = [shutil.which(name) for name in ("python2.7", "python2")]
    if shutil.which("pyenv"):
        made = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=False)
        found += sorted(map(str, Path(made.stdout.strip()).glob("versions/2.7*/bin/python2.7")))
    for program in filter(None, found):
        asked = [program, "-c", "import platform as p; print(p.python_implementation() + '2.7')"]
        # A shim of pyenv may stand on the PATH without a version behind it.
        told = subprocess.run(asked, capture_output=True, text=True, check=False)
        if told.stdout.strip() == "CPython2.7":
            return program
    return None


def install(python: str) -> bool:
    """Bring in the suite; tell whether it is there."""
    if (PLACE / "zope/__init__.py").exists():
        return True
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", str(PLACE), PACKAGE], check=False, capture_output=True)
    if not (PLACE / "autobahntestsuite").exists():
        return False
    # Without it Python 2 does not find zope.interface beside itself.
    (PLACE / "zope/__init__.py").touch()
    return True


class Run:
    """One run of some cases against one server, in the background."""

    def __init__(self, python: str, name: str, url: str, cases: Iterable[str]) -> None:
        self._reports = Path("build/conformance") / name
        shutil.rmtree(self._reports, ignore_errors=True)
        self._reports.mkdir(parents=True)
        spec = {
            "outdir": str(self._reports),
            "servers": [{"agent": "wsserver", "url": url}],
            "cases": [f"{case}.*" for case in cases],
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        file = self._reports / "spec.json"
        file.write_text(json.dumps(spec))
        self._log = self._reports / "log.txt"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [python, "-c", _RUN, "-m", "fuzzingclient", "-s", str(file)],
                env={**os.environ, "PYTHONPATH": str(PLACE.resolve())},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def verdicts(self, seconds: float) -> dict[str, str]:
        """Wait for the end, and return the verdict of each case."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        index = self._reports / "index.json"
        if not index.exists():
            raise RuntimeError(f"the suite has written no report:\n{self._log.read_text()}")
        cases = json.loads(index.read_text())["wsserver"]
        return {case: self._verdict(told) for case, told in cases.items()}

    def _verdict(self, told: dict[str, Any]) -> str:
        case = json.loads((self._reports / told["reportfile"]).read_text())
        echoes = [part for part in case["received"] if part[0] == "message"]
        closed_well = case["behaviorClose"] in PASSED
        if case["behavior"] in PASSED and closed_well:
            return "OK"
        if case["remoteCloseCode"] == 1003 and not echoes:
            return "1003"
        if case["behavior"] in {"NON-STRICT", "UNIMPLEMENTED"} and closed_well:
            return str(case["behavior"])
        return "FAILED"
