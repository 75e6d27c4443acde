"""Jobs of Slurm: what Slurm's words mean.  The real Slurm: integration."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from wsserver import ServiceFailed
from wsserver.services import _password, slurm_session
from wsserver.services.slurm_session import MAX_FAILURES, Job, SlurmSession

SHOWN = (
    "JobId=7 JobName=wsserver-1 UserId=viz(1000) Partition=main JobState={state} "
    "Reason={reason} ExitCode={code}:0 Restarts={restarts} BatchHost=node7 Command=/x y"
)


def shown(state: str, reason: str = "None", code: int = 0, restarts: int = 0) -> str:
    return SHOWN.format(state=state, reason=reason, code=code, restarts=restarts)


class JobTests(SynchronousTestCase):
    def test_outcomes(self) -> None:
        """What a job has come to is told in words; one that goes on has no outcome."""
        for state, words in (
            ("PENDING", None),
            ("CONFIGURING", None),
            ("RUNNING", None),
            ("COMPLETING", None),
            ("SUSPENDED", None),
            ("CANCELLED", "the job was cancelled"),
            ("COMPLETED", "the job has ended"),
            ("TIMEOUT", "the job reached its time limit"),
            ("OUT_OF_MEMORY", "the job ran out of memory"),
            ("NODE_FAIL", "the node of the job has failed"),
            ("PREEMPTED", "the job had to make room for another"),
            ("REQUEUE_HOLD", "the job was put back into the queue"),
        ):
            self.assertEqual(Job(shown(state)).outcome, words, state)
        self.assertEqual(Job(shown("FAILED", code=3)).outcome, "the job failed, with status 3")
        words = "the job was put back into the queue"
        self.assertEqual(Job(shown("PENDING", restarts=1)).outcome, words)

    def test_nonsense(self) -> None:
        """An answer that is none is a job of which nothing is known."""
        job = Job("")
        self.assertEqual((job.state, job.outcome, job.restarts), ("", None, 0))


class SlurmCase(SynchronousTestCase):
    """A Slurm of words: `answers` are what its commands say, one after the other."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.answers: dict[str, list[str | ServiceFailed]] = {}
        self.calls: list[list[str]] = []
        self.said: list[str] = []
        self.now = 0.0
        self.patch(slurm_session.time, "monotonic", self.tick)
        self.patch(slurm_session.time, "sleep", lambda seconds: None)

    def tick(self) -> float:
        self.now += 1.0
        return self.now

    def make(self, options: dict[str, str] | None = None, **common: Any) -> SlurmSession:
        common = {"command": ["serve", "{port}"], "job_folder": str(self.folder), **common}
        script = SlurmSession("Job", 2, common, options or {})
        script.run = self.run_command  # type: ignore[method-assign]
        script.on_progress = self.said.append
        script.listens = lambda *where: True  # type: ignore[method-assign, assignment]
        return script

    def run_command(self, argv: Sequence[str], timeout: float = 30) -> str:
        self.calls.append(list(argv))
        answers = self.answers.get(argv[0], [""])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, ServiceFailed):
            raise answer
        if argv[0] == "scontrol" and "RUNNING" in answer:
            (job,) = self.folder.iterdir()
            (job / "where").write_text("node7 5907\n")
        return answer

    def start(self, script: SlurmSession, *states: str | ServiceFailed) -> tuple[str, int]:
        self.answers["sbatch"] = ["7;cluster\n"]
        self.answers["scontrol"] = list(states) or [shown("RUNNING")]
        return script.start()


class StartTests(SlurmCase):
    def test_progress(self) -> None:
        """Each change of the queue is told, and nothing twice."""
        self.answers["squeue"] = ["5\n6\n7\n", "7\n", ServiceFailed("busy"), "5\n"]
        address = self.start(
            self.make(),
            *[shown("PENDING", "Priority")] * 2,
            *[shown("PENDING", "Resources")] * 2,
            shown("CONFIGURING"),
            *[shown("RUNNING")] * 2,
        )
        self.assertEqual(address, ("node7", 5907))
        self.assertEqual(
            self.said,
            [
                "submitting the job",
                "queued, position 3 (Priority)",
                "queued, position 1 (Priority)",
                "queued (Resources)",
                "the node node7 is starting",
                "running on node7",
                "waiting for the service",
            ],
        )

    def test_submission(self) -> None:
        """sbatch has what the file says, with the options of the reservation filled in."""
        self.start(
            self.make(
                {"cores": "4"},
                partition="p",
                account="a",
                time="1:00",
                gres="gpu:1",
                sbatch=["-c{option.cores}"],
                reserve_options={"cores": {}},
            )
        )
        (folder,) = self.folder.iterdir()
        self.assertEqual(
            self.calls[0],
            [
                *("sbatch", "--no-requeue", "--partition=p", "--account=a", "--time=1:00"),
                # Ours come last: what the file says may not rename the job.
                *("--gres=gpu:1", "-c4", "--parsable", f"--job-name={folder.name}"),
                *(f"--output={folder}/output", f"{folder}/job"),
            ],
        )

    def job(self, **common: Any) -> str:
        """Return what the shell of the node makes of the job's script."""
        self.patch(_password, "obscured", lambda password: b"obscured")
        options = common.pop("options", {})
        self.start(self.make(options, **common))
        (folder,) = self.folder.iterdir()
        env = {**os.environ, "SLURMD_NODENAME": "node9"}
        done = subprocess.run(
            ["sh", str(folder / "job")], env=env, capture_output=True, text=True, check=True
        )
        self.where = (folder / "where").read_text()
        self.folder_of_job = folder
        return done.stdout

    def test_job(self) -> None:
        """The job chooses a port, tells where it is, and becomes the command."""
        said = self.job(
            command=["printf", "%s|", "{port}:{host}", "{option.x}", "it's {index}"],
            reserve_options={"x": {}},
            options={"x": "a 'b' $HOME `c`"},
        )
        node, port = self.where.split()
        self.assertEqual((node, 1 <= int(port) <= 65535), ("node9", True))
        self.assertEqual(said, f"{port}:0.0.0.0|a 'b' $HOME `c`|it's 2|")

    def test_fixed_port(self) -> None:
        """A port may be counted up by the index; the environment is filled in."""
        said = self.job(
            command=["sh", "-c", 'echo "$A"'],
            port_base=6000,
            env={"A": "<{port}>"},
            sizes=["800x600"],
        )
        self.assertEqual((said, self.where), ("<6002>\n", "node9 6002\n"))

    def test_password(self) -> None:
        """The password is in a private file alone."""
        said = self.job(command=["cat", "{password_file}"], password=True)
        self.assertEqual(said, "obscured")
        self.assertEqual(self.folder_of_job.stat().st_mode & 0o077, 0)

    def failure(self, *states: str | ServiceFailed) -> str:
        return str(self.assertRaises(ServiceFailed, self.start, self.make(), *states))

    def test_outcome(self) -> None:
        """A job that ends while it is awaited is a failure in words."""
        self.assertEqual(self.failure(shown("TIMEOUT")), "the job reached its time limit")
        gone = ServiceFailed("scontrol: slurm_load_jobs error: Invalid job id specified")
        self.assertEqual(self.failure(gone), "Slurm does not know the job any more")

    def test_busy_controller(self) -> None:
        """A Slurm that does not answer for a while is forgiven, and then given up."""
        busy = ServiceFailed("scontrol: timed out")
        self.start(self.make(), *[busy] * (MAX_FAILURES - 1), shown("RUNNING"))
        self.assertEqual(self.failure(busy), "Slurm does not answer: scontrol: timed out")

    def test_cancelled(self) -> None:
        """A start that nobody waits for comes home."""
        script = self.make()
        script.cancelled.set()
        error = self.assertRaises(ServiceFailed, self.start, script, shown("PENDING"))
        self.assertEqual(str(error), "the start was cancelled")

    def test_no_folder(self) -> None:
        """A folder that cannot be made is told."""
        self.folder.write_text("a file")
        self.assertIn("no folder for the job", self.failure())


class StopTests(SlurmCase):
    def test_cancels(self) -> None:
        """The job is cancelled by its name until it is gone, then its folder goes, too."""
        script = self.make()
        self.start(script)
        (folder,) = self.folder.iterdir()
        (folder / "output").write_text("no licence")
        self.assertIn("[job 7]\nno licence", script.output())
        self.calls.clear()
        self.answers["squeue"] = ["7\n", ""]
        self.answers["scancel"] = [ServiceFailed("busy"), ""]
        script.stop()
        cancel = ["scancel", "--name", folder.name]
        asked = ["squeue", "-h", "--name", folder.name, "-o", "%i"]
        self.assertEqual(self.calls, [cancel, cancel, asked, cancel, asked])
        self.assertFalse(folder.exists())
        script.stop()

    def test_slow_to_go(self) -> None:
        """However long Slurm takes, or is away: the stop has ended when the job has."""
        script = self.make()
        self.start(script)
        self.answers["squeue"] = [*["7\n"] * 50, ServiceFailed("away"), ""]
        script.stop()
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_refused(self) -> None:
        """Where sbatch was refused there is no job to cancel."""
        script = self.make()
        self.answers["sbatch"] = [ServiceFailed("sbatch: invalid partition")]
        self.assertRaises(ServiceFailed, script.start)
        script.stop()
        self.assertEqual([call[0] for call in self.calls], ["sbatch"])
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_unknown(self) -> None:
        """Where sbatch was not answered in time there may be a job, which is cancelled."""
        script = self.make()
        self.answers["sbatch"] = [ServiceFailed("sbatch: Socket timed out on send/recv")]
        self.assertRaises(ServiceFailed, script.start)
        script.stop()
        self.assertEqual([call[0] for call in self.calls], ["sbatch", "scancel", "squeue"])

    def test_submitted_after_stop(self) -> None:
        """A job that reaches Slurm while its session is stopped is cancelled by the second stop."""
        script = self.make()
        run = script.run

        def slow(argv: Sequence[str], timeout: float = 30) -> str:
            if argv[0] == "sbatch":
                script.cancelled.set()
                script.stop()
            return run(argv, timeout)

        script.run = slow  # type: ignore[method-assign]
        self.assertRaises(ServiceFailed, self.start, script)
        self.calls.clear()
        script.stop()
        self.assertEqual([call[0] for call in self.calls], ["scancel", "squeue"])

    def test_silence(self) -> None:
        """A Slurm that is silent for long does not end a session that runs."""
        script = self.make()
        self.start(script)
        self.answers["scontrol"] = [ServiceFailed("away")]
        for _ in range(3 * MAX_FAILURES):
            script.check_running()

    def test_never_started(self) -> None:
        """A script that was not started stops at once."""
        script = self.make()
        script.stop()
        self.assertEqual((self.calls, script.output()), ([], ""))

    def test_watch(self) -> None:
        """Once it runs, the end of the job is noticed."""
        script = self.make()
        self.start(script)
        script.check_running()
        self.answers["scontrol"] = [shown("NODE_FAIL")]
        error = self.assertRaises(ServiceFailed, script.check_running)
        self.assertEqual(str(error), "the node of the job has failed")


class OptionTests(SynchronousTestCase):
    def test_mistakes(self) -> None:
        """Mistakes in the service file are told."""
        for wrong in (
            {},
            {"command": ["x", "{prot}"]},
            {"command": ["x"], "sbatch": ["{port}"]},
            {"command": ["x"], "tunnel": "vpn"},
            {"command": ["x"], "env": {"A-B": "x"}},
            {"command": ["x"], "partitoin": "x"},
        ):
            self.assertRaises(ValueError, SlurmSession.unavailable, wrong)

    def test_missing(self) -> None:
        """Without Slurm's commands the service is unavailable."""
        self.patch(slurm_session.shutil, "which", lambda name: None)
        reason = SlurmSession.unavailable({"command": ["x"]})
        self.assertEqual(reason, "sbatch and squeue and scancel and scontrol: not installed")

    def test_reservation(self) -> None:
        """A reservation has the options that the file names, and no others."""
        SlurmSession.check({"sizes": ["800x600"]}, {"session_size": "800x600"})
        self.assertRaises(ValueError, SlurmSession.check, {}, {"x": "1"})
