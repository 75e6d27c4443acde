"""A session that runs as a job of Slurm, on whichever node the scheduler finds for it.

Common options: ``command`` (run on the node; no shell sees its arguments), ``env``,
``partition``, ``account``, ``time``, ``gres``, ``sbatch`` (further arguments of sbatch),
``tunnel`` ("direct": the node's port is reached from here; "ssh": through ssh to the
node, with ``ssh`` as in x11vnc_desktop_session.py), ``port_base`` (the instance's index
is added; else a free port of the node), ``banner`` (what the service says first),
``password`` (true: a random one-time VNC password), ``job_folder`` (shared with the
nodes), ``poll`` (seconds).

``command``, ``env`` and ``sbatch`` may hold ``{index}`` and ``{option.NAME}``; ``command``
and ``env`` also ``{port}``, ``{host}`` (the address to listen on) and ``{password_file}``.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from wsserver import RemoteServiceScript, ServiceFailed
from wsserver.services import _desktop, _password, _template
from wsserver.services._remote import Ssh, SshOptions

#: How often a busy controller may fail to answer before the session is given up.
MAX_FAILURES = 5
#: How long to wait at most before asking again whether a cancelled job is gone, in seconds.
MAX_PAUSE = 5.0
#: How much of the job's output is kept for the log, in bytes.
TAIL_SIZE = 16 * 1024

_PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol")
_FREE_PORT = (
    "python3 -c 'import socket; s = socket.socket(); s.bind((\"\", 0)); print(s.getsockname()[1])'"
)
#: What a job has come to that runs no more.
_OUTCOMES = {
    "BOOT_FAIL": "the node of the job did not start",
    "CANCELLED": "the job was cancelled",
    "COMPLETED": "the job has ended",
    "DEADLINE": "the job missed its deadline",
    "FAILED": "the job failed",
    "NODE_FAIL": "the node of the job has failed",
    "OUT_OF_MEMORY": "the job ran out of memory",
    "PREEMPTED": "the job had to make room for another",
    "TIMEOUT": "the job reached its time limit",
}
_REQUEUED = ("REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT")


class SlurmOptions(_template.Strict):
    """The common options."""

    command: Annotated[list[str], Field(min_length=1)]
    env: dict[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")], str] = {}
    partition: str | None = None
    account: str | None = None
    time: str | None = None
    gres: str | None = None
    sbatch: list[str] = []
    tunnel: Literal["direct", "ssh"] = "direct"
    ssh: SshOptions = SshOptions()
    port_base: Annotated[int, Field(ge=1, le=65535)] | None = None
    banner: str = ""
    password: bool = False
    job_folder: str = "~/.cache/wsserver/slurm"
    poll: Annotated[float, Field(gt=0)] = 1.0


class Job:
    """What Slurm says of a job at one moment."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self.state = self._field("JobState")
        self.reason = self._field("Reason")
        self.partition = self._field("Partition")
        self.node = self._field("BatchHost")
        self.restarts = int(self._field("Restarts") or 0)

    @property
    def outcome(self) -> str | None:
        """Why the job runs no more, in words, or None."""
        if self.restarts or self.state in _REQUEUED:
            return "the job was put back into the queue"
        words = _OUTCOMES.get(self.state)
        if words is not None and self.state == "FAILED":
            return f"{words}, with status {self._field('ExitCode').partition(':')[0]}"
        return words

    def _field(self, name: str) -> str:
        found = re.search(rf"(?:^|\s){name}=(\S*)", self._shown)
        return found[1] if found else ""


class SlurmSession(RemoteServiceScript):
    """Submits a job, waits for its service, and cancels it."""

    watch_period = 10.0

    _folder: Path | None = None
    _ssh: Ssh | None = None
    _id = ""
    #: Slurm may have a job of ours.
    _submitted = False
    _failures = 0
    _said = ""
    #: When to look after the job again, monotonic.
    _next_look = 0.0

    @classmethod
    def unavailable(cls, common_options: Mapping[str, Any]) -> str | None:
        """Tell whether Slurm is missing; raise ValueError for a mistake in the options."""
        options = _template.checked(SlurmOptions, common_options)
        named = {f"option.{name}" for name in _template.option_names(common_options)} | {"index"}
        _template.check(options.sbatch, named)
        own = {"port", "host", "password_file"}
        _template.check([*options.command, *options.env.values()], named | own)
        missing = [name for name in _PROGRAMS if shutil.which(name) is None]
        return f"{' and '.join(missing)}: not installed" if missing else None

    @classmethod
    def check(cls, common_options: Mapping[str, Any], options: Mapping[str, str]) -> None:
        """Let a reservation have the options that the service file names, and no others."""
        _desktop.check_size(common_options, options)
        for name in set(options) - _template.option_names(common_options):
            raise ValueError(f"{name} is no option of this service")

    def start(self) -> tuple[str, int]:
        """Submit the job; return where its service is reached, once it is."""
        options = _template.checked(SlurmOptions, self._common_options)
        folder = self._folder = self._new_folder(options)
        self._write_job(options, folder)
        self.progress("submitting the job")
        self._submit(options, folder)
        node, port = self._wait_for_node(options, folder)
        if options.tunnel == "ssh":
            self.progress(f"connecting to {node}")
            self._ssh = Ssh(self, node, options.ssh)
            node, port = "127.0.0.1", self._ssh.connect(f"127.0.0.1:{port}")
        self.progress("waiting for the service")
        while not self._service_listens(node, port, options.banner.encode()):
            self._pause(0.1, options.poll)
        return node, port

    def check_running(self) -> None:
        """Raise ServiceFailed where the job runs no more; a Slurm that is silent is no end."""
        self._look()
        self._failures = 0

    def stop(self) -> None:
        """Cancel the job, wait until it is gone, and forget its folder."""
        super().stop()
        if self._ssh is not None:
            self._ssh.forget()
        if self._folder is not None:
            # Kept in mind: a start that is still under way may submit the job after this.
            if self._submitted:
                self._cancel(self._folder.name)
            shutil.rmtree(self._folder, ignore_errors=True)

    def output(self) -> str:
        """Return the end of what the job has printed."""
        if self._folder is None:
            return super().output()
        said = b""
        with contextlib.suppress(OSError), (self._folder / "output").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_SIZE))
            said = file.read(TAIL_SIZE)
        return f"{super().output()}\n[job {self._id}]\n{said.decode('utf-8', 'replace')}".strip()

    # -- the job

    def _new_folder(self, options: SlurmOptions) -> Path:
        folder = Path(options.job_folder).expanduser() / f"wsserver-{secrets.token_hex(12)}"
        try:
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise ServiceFailed(f"no folder for the job: {error.strerror}") from error
        return folder

    def _write_job(self, options: SlurmOptions, folder: Path) -> None:
        """Write the script of the job; it tells by a file where its service listens."""
        mark = secrets.token_hex(8)
        values = self._values() | {
            # The node fills this in itself.
            "port": mark,
            "host": "0.0.0.0" if options.tunnel == "direct" else "127.0.0.1",  # noqa: S104
            "password_file": str(self._password_file(folder)) if options.password else "",
        }
        port = (
            _FREE_PORT if options.port_base is None else f"echo {options.port_base + self._index}"
        )
        lines = ["#!/bin/sh", "umask 077", f"port=$({port}) || exit"]
        for name, text in options.env.items():
            lines.append(f"export {name}={_quoted(_template.fill(text, values), mark)}")
        where = _quoted(str(folder / "where"), mark)
        lines.append(f'echo "$SLURMD_NODENAME $port" >{where}.new && mv {where}.new {where}')
        words = _template.fill_all(options.command, values)
        lines.append("exec " + " ".join(_quoted(word, mark) for word in words))
        (folder / "job").write_text("\n".join([*lines, ""]), "utf-8")

    def _values(self) -> dict[str, str]:
        chosen = dict(self._options)
        if self._common_options.get("sizes"):
            chosen["session_size"] = _desktop.chosen_size(self._common_options, self._options)
        return {"index": str(self._index), **_template.option_values(chosen)}

    def _password_file(self, folder: Path) -> Path:
        password = _password.new_password()
        file = folder / "password"
        file.touch(0o600)
        file.write_bytes(_password.obscured(password))
        self.share(password=password)
        return file

    def _submit(self, options: SlurmOptions, folder: Path) -> None:
        # A session that begins anew by itself would have nobody to use it.
        argv = ["sbatch", "--no-requeue"]
        for name in ("partition", "account", "time", "gres"):
            if (value := getattr(options, name)) is not None:
                argv.append(f"--{name}={value}")
        argv += _template.fill_all(options.sbatch, self._values())
        # Last, as the last one counts: by its name the job is found again.
        argv += ["--parsable", f"--job-name={folder.name}", f"--output={folder / 'output'}"]
        self._submitted = True
        try:
            said = self.run([*argv, str(folder / "job")])
        except ServiceFailed as error:
            # Where nobody has answered in time there may be a job all the same.
            late = isinstance(error.__cause__, TimeoutError)
            self._submitted = late or "timed out" in str(error).lower()
            raise
        self._id = said.strip().rpartition("\n")[2].partition(";")[0]

    def _cancel(self, name: str) -> None:
        """Cancel the job of that name, and block until it is gone, however long that takes.

        By its name, as the number of a job just under way to Slurm is not known yet.
        """
        pause = 0.2
        while True:
            with contextlib.suppress(ServiceFailed):
                self.run(["scancel", "--name", name])
                if not self.run(["squeue", "-h", "--name", name, "-o", "%i"]).strip():
                    return
            time.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE)

    # -- waiting for it

    def _wait_for_node(self, options: SlurmOptions, folder: Path) -> tuple[str, int]:
        where = folder / "where"
        while not where.exists():
            self._pause(0.1, options.poll)
        node, port = where.read_text().split()
        return node, int(port)

    def _service_listens(self, node: str, port: int, banner: bytes) -> bool:
        if self._ssh is not None and not banner:
            return self._ssh.listens(port)
        return self.listens(port, node, banner)

    def _pause(self, seconds: float, poll: float) -> None:
        """Wait a little; look after the job every ``poll`` seconds."""
        if self.cancelled.wait(seconds):
            raise ServiceFailed("the start was cancelled")
        if time.monotonic() >= self._next_look:
            self._tell(self._look())
            self._next_look = time.monotonic() + poll

    def _look(self) -> Job | None:
        """Ask Slurm for the job, None while it does not answer.

        Raises:
            ServiceFailed: the job runs no more; or Slurm has been silent too often.
        """
        try:
            job = Job(self.run(["scontrol", "show", "job", "-o", self._id]))
        except ServiceFailed as error:
            if "Invalid job id" in str(error):
                raise ServiceFailed("Slurm does not know the job any more") from error
            self._failures += 1
            if self._failures >= MAX_FAILURES:
                raise ServiceFailed(f"Slurm does not answer: {error}") from error
            return None
        self._failures = 0
        if job.outcome is not None:
            raise ServiceFailed(job.outcome)
        return job

    def _tell(self, job: Job | None) -> None:
        """Report where the job stands, when that has changed."""
        if job is None:
            return
        if job.state == "PENDING":
            text = self._queued(job)
        elif job.state == "CONFIGURING":
            text = f"the node {job.node} is starting"
        else:
            text = f"running on {job.node}"
        if text != self._said:
            self._said = text
            self.progress(text)

    def _queued(self, job: Job) -> str:
        reason = "" if job.reason in ("", "None") else f" ({job.reason})"
        try:
            line = ["squeue", "-h", "-t", "PD", "-p", job.partition, "--sort=-p,i", "-o", "%i"]
            waiting = self.run(line).split()
            return f"queued, position {waiting.index(self._id) + 1}{reason}"
        except (ServiceFailed, ValueError):
            return f"queued{reason}"


def _quoted(word: str, mark: str) -> str:
    """Return a word for a shell, with its variable ``port`` in place of ``mark``."""
    inside = word.replace("'", "'\"'\"'").replace(mark, "'\"$port\"'")
    return f"'{inside}'"
