"""``--try``: start one instance of a service by itself, look at it, stop it, and tell all.

The conformance kit of service scripts: what it does here is what the server does with
it, in the same order, and afterwards it looks for what was left behind.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import psutil

from wsserver.errors import ServiceFailed
from wsserver.launch import Addresses, named_addresses
from wsserver.offers import Offer
from wsserver.scripts import Address, RemoteServiceScript
from wsserver.supervisor import adopt_orphans

#: How long a service may take to say something first, as VNC servers do, in seconds.
BANNER_TIMEOUT = 1.0
#: How long a start that was given up may take to come home, in seconds.
HOME_TIMEOUT = 5.0
#: How long a service is left alone, in seconds: programs that are told to end while they
#: still start may leave files, which is nobody's fault.
SETTLE = 0.5

#: What the folder for temporary files is called meanwhile.
_PREFIX = "wsserver-try-"

Say = Callable[[str], None]


class _Late(Exception):
    """A call did not return in time; its thread goes on."""

    def __init__(self, thread: Thread) -> None:
        super().__init__()
        self.thread = thread


class TryFailed(Exception):
    """A step went wrong; the message says which and why."""


def try_service(offer: Offer, options: Mapping[str, str], say: Say = print) -> bool:
    """Start and stop one instance, telling each step; return whether all was well.

    ``say`` is given one line at a time; times are seconds since the beginning.
    """
    began = time.monotonic()

    def step(text: str) -> None:
        say(f"{time.monotonic() - began:7.2f} s  {text}")

    say(f"{offer.spec.name}, instance 0, by {offer.spec.script}")
    with _own_temporary_folder() as folder:
        before = _traces(folder)
        problems = _run(offer, options, step)
        problems += _left_behind(_traces(folder) - before)
    for problem in problems:
        say(f"problem: {problem}")
    say("problems found" if problems else "no process, port or file is left; all is well")
    return not problems


def _run(offer: Offer, options: Mapping[str, str], step: Say) -> list[str]:
    """Take all steps; return what went wrong."""
    problems: list[str] = []
    script: RemoteServiceScript | None = None
    addresses: Addresses = {}
    try:
        if offer.unavailable is not None:
            raise TryFailed(f"unavailable: {offer.unavailable}")
        script = _create(offer, options, step)
        addresses = _start(script, offer.spec.start_timeout)
        step("start has returned")
        for name, address in addresses.items():
            step(f"{name}: {_reach(address, offer.spec.connect_timeout)}")
        time.sleep(SETTLE)
        script.check_running()
    except (TryFailed, ServiceFailed) as error:
        problems.append(str(error))
        step("failed")
    except BaseException as error:
        # Ctrl-C, too: what was started is stopped in any case.
        problems.append(repr(error))
        step("failed")
    if script is not None:
        problems += _stop(script, offer.spec.stop_timeout, step, show=bool(problems))
        problems += _ran_away(script)
        problems += _still_open(addresses)
    return problems


def _create(offer: Offer, options: Mapping[str, str], step: Say) -> RemoteServiceScript:
    spec = offer.spec
    try:
        options = spec.resolve(options)
        offer.script.check(spec.options, options)
    except ValueError as error:
        raise TryFailed(f"the options are refused: {error}") from error
    script = offer.script.create(spec.name, 0, spec.options, options)
    script.on_progress = lambda text: step(f"progress: {text}")
    script.on_share = lambda credentials: step(f"shares with the viewer: {', '.join(credentials)}")
    return script


def _start(script: RemoteServiceScript, timeout: float) -> Addresses:
    try:
        reply = _in_time(script.start, timeout)
    except _Late as late:
        script.cancelled.set()
        late.thread.join(HOME_TIMEOUT)
        raise TryFailed(f"start did not return within {timeout:g} s") from None
    except ServiceFailed:
        raise
    except BaseException as error:
        raise TryFailed(f"start raised {error!r}") from error
    return named_addresses(reply)


def _reach(address: Address, timeout: float) -> str:
    """Connect as the server does; return what there is to tell."""
    host, port = address
    deadline = time.monotonic() + timeout
    while True:
        try:
            with socket.create_connection(address, timeout=1) as peer:
                peer.settimeout(BANNER_TIMEOUT)
                with contextlib.suppress(TimeoutError):
                    return f"{host}:{port} accepts, and says {peer.recv(64)!r}"
                return f"{host}:{port} accepts, and says nothing first"
        except OSError as error:
            if time.monotonic() >= deadline:
                raise TryFailed(f"{host}:{port} does not answer: {error}") from error
        time.sleep(0.05)


def _stop(script: RemoteServiceScript, timeout: float, step: Say, show: bool) -> list[str]:
    """Stop twice, as may happen; return what went wrong."""
    output = script.output()
    if show and output.strip():
        step(f"the programs have printed:\n{output}")
    for turn in ("stop", "stop, the second time,"):
        try:
            _in_time(script.stop, timeout)
        except _Late:
            return [f"{turn} did not return within {timeout:g} s"]
        except BaseException as error:
            return [f"{turn} raised {error!r}"]
        step(f"{turn} has returned")
    return []


def _ran_away(script: RemoteServiceScript) -> list[str]:
    """Say which programs of the session stop has not reached, and end them as the server does."""
    found = [f"the process {process} is left; ended now" for process in script.family.left()]
    script.family.close(0)
    return found


def _still_open(addresses: Addresses) -> list[str]:
    found = []
    for host, port in addresses.values():
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
            found.append(f"{host}:{port} still accepts after stop")
    return found


def _in_time(function: Callable[[], Any], timeout: float) -> Any:
    """Call a function in a thread, as the server does; raise _Late where it hangs."""
    outcome: Queue[tuple[Any, BaseException | None]] = Queue()

    def call() -> None:
        try:
            outcome.put((function(), None))
        except BaseException as error:
            outcome.put((None, error))

    thread = Thread(target=call, daemon=True)
    thread.start()
    try:
        result, error = outcome.get(timeout=timeout)
    except Empty:
        raise _Late(thread) from None
    if error is not None:
        raise error
    return result


@contextlib.contextmanager
def _own_temporary_folder() -> Iterator[Path]:
    """Let everything temporary be made in a new folder, where it can be found."""
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        old = os.environ.get("TMPDIR"), tempfile.tempdir
        os.environ["TMPDIR"] = tempfile.tempdir = name
        try:
            yield Path(name)
        finally:
            os.environ.pop("TMPDIR")
            if old[0] is not None:
                os.environ["TMPDIR"] = old[0]
            tempfile.tempdir = old[1]


def _traces(folder: Path) -> set[psutil.Process | Path]:
    """Return the processes and files by which a service can be noticed on this host."""
    # Programs that ran away from their parents come to us, and are seen.
    adopt_orphans()
    places = [folder.glob("*"), Path().glob("*"), Path("/tmp").glob("wsserver-*")]  # noqa: S108
    places += [Path("/tmp").glob(".X*-lock"), Path("/tmp/.X11-unix").glob("*")]  # noqa: S108
    # Somebody else may be trying at the same time.
    files = {path for place in places for path in place if not path.name.startswith(_PREFIX)}
    return {*files, *filter(_alive, psutil.Process().children(recursive=True))}


def _left_behind(traces: set[psutil.Process | Path]) -> list[str]:
    """Say what is left, and end the processes."""
    problems = []
    for trace in traces:
        if isinstance(trace, Path):
            problems.append(f"the file {trace} is left")
            continue
        with contextlib.suppress(psutil.NoSuchProcess):
            problems.append(f"the process {trace.pid} ({trace.name()}) is left; killed now")
            trace.kill()
    return sorted(problems)


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
