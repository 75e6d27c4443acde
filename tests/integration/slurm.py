"""A real Slurm of one node: munged, slurmctld and slurmd with a configuration of their own."""

from __future__ import annotations

import atexit
import os
import secrets
import socket
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from tests.integration.parts import free_port, until

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
KillWait=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """The cluster; ``host`` is the name of its node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.host = socket.gethostname().partition(".")[0]
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._processes: list[subprocess.Popen[bytes]] = []
        for name in ("state", "spool", "jobs"):
            (folder / name).mkdir()
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        ports = {"controller": free_port(), "daemon": free_port()}
        (folder / "slurm.conf").write_text(CONFIG.format(host=self.host, folder=folder, **ports))

    def start(self) -> None:
        files = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid"}
        files |= {"log-file": "munged.log", "seed-file": "munged.seed"}
        options = [f"--{name}={self.folder / file}" for name, file in files.items()]
        self._run("munged", "--foreground", "--force", *options)
        until((self.folder / "munge.sock").exists)
        self._run("slurmctld", "-D", "-i")
        self._run("slurmd", "-D")
        until(lambda: "idle" in self.call("sinfo", "-h", "-o", "%T", check=False))

    def stop(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
            process.wait()

    def call(self, *argv: str, check: bool = True) -> str:
        """Run a command of Slurm; return what it prints."""
        done = subprocess.run(argv, env=self._env, capture_output=True, text=True, check=check)
        return done.stdout

    def jobs(self) -> list[str]:
        """Return the names of the jobs that wait or run."""
        return self.call("squeue", "-h", "-o", "%j").split()

    def occupy(self) -> str:
        """Fill the node with a job; return its number."""
        argv = ["sbatch", "--parsable", "-n2", "-o", "/dev/null", "--wrap", "sleep 1000"]
        number = self.call(*argv).strip()
        until(lambda: "RUNNING" in self.call("squeue", "-h", "-j", number, "-o", "%T"))
        return number

    @property
    def _env(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

    def _run(self, *argv: str) -> None:
        log = (self.folder / f"{argv[0]}.out").open("wb")
        with log:
            process = subprocess.Popen(argv, env=self._env, stdout=log, stderr=log)
        self._processes.append(process)


@cache
def shared_slurm() -> Slurm:
    """Start the cluster for the first test that wants it; it ends with the process."""
    folder = tempfile.TemporaryDirectory()
    cluster = Slurm(Path(folder.name))

    def end() -> None:
        cluster.stop()
        folder.cleanup()

    atexit.register(end)
    cluster.start()
    return cluster
