"""A real Slurm of several nodes on this machine, with its own configuration, ports and key.

munged, slurmctld and one slurmd a node run in a temporary folder and end with it; an installed
Slurm of the machine is neither used nor touched. The GPUs are plain files that Slurm counts.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
_START_S = 30.0
_END_S = 5.0
_CONFIGURATION = """\
ClusterName=attnbench
SlurmctldHost={host}
SlurmctldPort={controller_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,batch_sched_delay=0,bf_interval=2
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdTimeout={silence_s}
SlurmctldTimeout=30
InactiveLimit=0
KillWait=1
MinJobAge=300
Waittime=0
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL Default=NO MaxTime=INFINITE State=UP PriorityTier=10
"""


class ClusterError(RuntimeError):
    """A daemon or a command of the cluster failed; the message has its last words."""


@dataclass(frozen=True, slots=True)
class Node:
    """A virtual node."""

    name: str
    kind: str
    """Type of its GPUs."""
    gpus: int


NODES = (Node("n1", "red", 2), Node("n2", "red", 2), Node("n3", "blue", 2))
"""Two nodes of one kind, one of another."""


def missing() -> str | None:
    """Say why no Slurm can be started here; None where it can."""
    absent = [name for name in _PROGRAMS if _program(name) is None]
    if absent:
        return f"Slurm is not installed ({', '.join(absent)}): apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "slurmd starts jobs only as root"
    try:
        socket.getaddrinfo(_host(), None)
    except OSError:
        return f"the name of this machine, {_host()}, has no address"
    return None


@dataclass(slots=True)
class SlurmCluster:
    """The running daemons; a context manager that leaves none behind."""

    folder: Path
    nodes: tuple[Node, ...] = NODES
    silence_s: int = 5
    """Seconds after which a node that does not answer is down."""
    _daemons: dict[str, "subprocess.Popen[bytes]"] = field(
        default_factory=dict[str, "subprocess.Popen[bytes]"]
    )

    def __enter__(self) -> "SlurmCluster":
        try:
            self._configure()
            self._start_munge()
            self._start("slurmctld", "-D", "-i", "-f", str(self.configuration))
            for node in self.nodes:
                self.start_node(node.name)
            self.wait_for(lambda: set(self.states().values()) == {"idle"}, "all nodes idle")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def configuration(self) -> Path:
        """Its slurm.conf."""
        return self.folder / "slurm.conf"

    @property
    def variables(self) -> dict[str, str]:
        """Environment with which the clients find this cluster and no other."""
        return {"SLURM_CONF": str(self.configuration)}

    def call(self, *command: str, check: bool = True) -> str:
        """Run a client of Slurm and return what it printed."""
        done = subprocess.run(
            [str(_program(command[0])), *command[1:]],
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if check and done.returncode:
            raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}{self._last_words()}")
        return done.stdout

    def states(self) -> Mapping[str, str]:
        """State of every node in Slurm's short words."""
        lines = self.call("sinfo", "-h", "-N", "-p", "main", "-o", "%N %t", check=False)
        return dict(line.split() for line in lines.splitlines())

    def running(self) -> dict[str, str]:
        """Node of every running array task, by its name `job_index`."""
        lines = self.call("squeue", "-h", "-r", "-t", "R", "-o", "%i %N", check=False)
        return dict(line.split() for line in lines.splitlines())

    def jobs(self) -> list[str]:
        """Every job that has not ended."""
        return self.call("squeue", "-h", "-r", "-o", "%i").split()

    def hurry(self) -> None:
        """Let requeued jobs begin at once; Slurm would make them wait for two minutes."""
        lines = self.call("squeue", "-h", "-r", "-t", "PD", "-o", "%i %r", check=False)
        for job, reason in (line.split(maxsplit=1) for line in lines.splitlines()):
            if reason == "BeginTime":
                self.call("scontrol", "update", f"jobid={job}", "starttime=now", check=False)

    def settle(self) -> None:
        """Cancel every job and bring every node back."""
        for job in {job.partition("_")[0] for job in self.jobs()}:
            self.call("scancel", job, check=False)
        for node in self.nodes:
            daemon = self._daemons.get(f"slurmd-{node.name}")
            if daemon is None or daemon.poll() is not None:
                self.start_node(node.name)
            if self.states().get(node.name) not in ("idle", "mix", "alloc", "comp"):
                self.call(
                    "scontrol", "update", f"nodename={node.name}", "state=resume", check=False
                )
        self.wait_for(lambda: set(self.states().values()) == {"idle"}, "all nodes idle")

    def start_node(self, name: str) -> None:
        """Start the slurmd of a node."""
        (self.folder / f"spool-{name}").mkdir(exist_ok=True)
        arguments = ("-D", "-N", name, "-f", str(self.configuration))
        self._start("slurmd", *arguments, name=f"slurmd-{name}")

    def kill_node(self, name: str) -> None:
        """End a node as a power failure does: its slurmd and all jobs on it, without a word."""
        daemon = self._daemons[f"slurmd-{name}"]
        victims = self.job_processes(name)
        for pid in (daemon.pid, *victims):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        daemon.wait()

    def job_processes(self, node: str | None = None) -> list[int]:
        """Return the processes of all jobs, or of those on one node."""
        mark = f"SLURM_CONF={self.configuration}".encode()
        at = None if node is None else f"SLURMD_NODENAME={node}".encode()
        found: list[int] = []
        for path in Path("/proc").iterdir():
            words: list[bytes] = []
            if path.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (path / "environ").read_bytes().split(b"\0")
            in_job = any(word.startswith(b"SLURM_JOB_ID=") for word in words)
            if in_job and mark in words and at in (None, *words):
                found.append(int(path.name))
        return found

    def wait_for(self, happened: Callable[[], bool], what: str, seconds: float = _START_S) -> None:
        """Wait until `happened()`."""
        deadline = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > deadline:
                raise ClusterError(f"not within {seconds:g} s: {what}{self._last_words()}")
            time.sleep(0.1)

    def close(self) -> None:
        """End the jobs and the daemons."""
        if "slurmctld" in self._daemons and self._daemons["slurmctld"].poll() is None:
            with contextlib.suppress(ClusterError, subprocess.TimeoutExpired):
                for job in {job.partition("_")[0] for job in self.jobs()}:
                    self.call("scancel", "--signal=KILL", "--full", job, check=False)
                    self.call("scancel", job, check=False)
        for node in self.nodes:
            if f"slurmd-{node.name}" in self._daemons:
                self.kill_node(node.name)
        for daemon in reversed(list(self._daemons.values())):
            _end(daemon)
        self._daemons.clear()

    def _configure(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir()
        ports = _free_ports(len(self.nodes) + 1)
        lines: list[str] = []
        gpus: list[str] = []
        for node, port in zip(self.nodes, ports[1:], strict=True):
            lines.append(
                f"NodeName={node.name} NodeHostname={_host()} NodeAddr={_host()} "
                f"Port={port} CPUs=4 RealMemory=4000 "
                f"Gres=gpu:{node.kind}:{node.gpus} Feature={node.kind}"
            )
            for place in range(node.gpus):
                file = f"{self.folder}/gpu-{node.name}-{place}"
                # a device node of its own: Slurm numbers GPUs only where it finds one
                os.mknod(file, 0o600 | stat.S_IFCHR, os.makedev(1, 3 + 2 * place))
                gpus.append(f"NodeName={node.name} Name=gpu Type={node.kind} File={file}")
        owner = pwd.getpwuid(os.geteuid()).pw_name
        self.configuration.write_text(
            _CONFIGURATION.format(
                host=_host(),
                controller_port=ports[0],
                user=owner,
                folder=self.folder,
                silence_s=self.silence_s,
                nodes="\n".join(lines),
            )
        )
        (self.folder / "gres.conf").write_text("\n".join(gpus) + "\n")

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        self._start(
            "munged", "--foreground", "--force",
            f"--socket={self.folder}/munge.socket", f"--key-file={key}",
            f"--pid-file={self.folder}/munged.pid", f"--log-file={self.folder}/munged.log",
            f"--seed-file={self.folder}/munged.seed",
        )  # fmt: skip
        self.wait_for((self.folder / "munge.socket").exists, "munged listens")

    def _start(self, program: str, *arguments: str, name: str | None = None) -> None:
        path = _program(program)
        if path is None:
            raise ClusterError(f"{program} is not installed")
        name = name or program
        with (self.folder / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                [path, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={**os.environ, **self.variables},
                start_new_session=True,
            )

    def _last_words(self) -> str:
        found: list[str] = []
        for log in sorted((*self.folder.glob("*.log"), *self.folder.glob("*.out"))):
            lines = log.read_text(errors="replace").splitlines()[-5:]
            found += [f"\n{log.name}: {line}" for line in lines]
        return "".join(found)


def _program(name: str) -> str | None:
    """Daemons live where only root's PATH looks."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]


def _end(daemon: "subprocess.Popen[bytes]") -> None:
    if daemon.poll() is None:
        daemon.terminate()
        try:
            daemon.wait(_END_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
