"""A real Slurm on this machine: two small nodes with fake GPUs, for as long as the tests run."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
NODES = ("n1", "n2")
GPUS = 2  # a node
CPUS, MEMORY_MB = 4, 8000  # a node; promised, as no job uses what it asks for

# Loopback only, no systemd, no cgroups, no accounting; clients wait for nothing.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmctldPort={control}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,bf_interval=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
MinJobAge=3600
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """The daemons of a cluster, and its commands."""

    def __init__(self, folder: Path):
        """Write the configuration; nothing runs yet.

        Args:
            folder: for everything that Slurm writes.
        """
        self.folder, self.daemons = folder, list[subprocess.Popen[bytes]]()
        self.environment = os.environ | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }
        (folder / "bin").mkdir()
        (folder / "state").mkdir()
        self._configure()

    def _configure(self) -> None:
        control, *ports = free_ports(1 + len(NODES))
        nodes = [
            f"NodeName={name} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={CPUS} RealMemory={MEMORY_MB} Gres=gpu:fake:{GPUS}"
            for name, port in zip(NODES, ports, strict=True)
        ]
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=socket.gethostname(),
                folder=self.folder,
                control=control,
                nodes="\n".join(nodes),
            )
        )
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        for number in range(GPUS):  # Slurm hands out character devices; these are /dev/null's kin
            os.mknod(self.folder / f"gpu{number}", 0o20666, os.makedev(1, 3))
        devices = f"Name=gpu Type=fake File={self.folder}/gpu[0-{GPUS - 1}]"
        (self.folder / "gres.conf").write_text(devices + "\n")
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(os.urandom(1024))
        # The plugin's inner srun is started without SLURM_CONF.
        srun = self.folder / "bin/srun"
        setting = f"export SLURM_CONF={self.folder}/slurm.conf"
        srun.write_text(f'#!/bin/sh\n{setting}\nexec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)

    def start(self) -> None:
        """Start the daemons and wait until all nodes are idle.

        Raises:
            RuntimeError: a daemon ends, or the nodes are not idle within half a minute; the
                message ends with the logs.
        """
        munge = [f"--{key}={self.folder}/munge.{key.split('-')[0]}" for key in MUNGE_FILES]
        self._daemon("munged", "--foreground", "--force", *munge)
        self._daemon("slurmctld", "-D", "-c")
        for name in NODES:
            self._daemon("slurmd", "-D", "-c", "-N", name)
        end = time.monotonic() + 30
        while self("sinfo", "-hN", "-o", "%T").split() != ["idle"] * len(NODES):
            if time.monotonic() > end or any(daemon.poll() for daemon in self.daemons):
                logs = [path.read_text()[-2000:] for path in self.folder.glob("*.log")]
                self.stop()
                raise RuntimeError("\n".join(["Slurm does not start", *logs]))
            time.sleep(0.1)

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("ab") as output:
            self.daemons.append(
                subprocess.Popen(
                    command, env=self.environment, stdout=output, stderr=subprocess.STDOUT
                )
            )

    def stop(self) -> None:
        """Cancel all jobs and end the daemons."""
        try:
            self("scancel", "--user=root")
            end = time.monotonic() + 20
            while self("squeue", "-h") and time.monotonic() < end:
                time.sleep(0.2)
        finally:
            for daemon in reversed(self.daemons):
                daemon.kill()
                daemon.wait()

    def __call__(self, *command: str) -> str:
        """Output of a command of Slurm's; empty when it fails."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=30
        )
        return done.stdout

    def jobs(self, submission: str, rule: str) -> list[dict[str, str]]:
        """What Slurm knows of the jobs that Snakemake submitted for a rule, in order.

        Args:
            submission: name of the jobs, the same for all jobs of one call of Snakemake.
            rule: its name and the values of its wildcards, as in `train_policy_toy_grpo_0`.
        """
        found = []
        for line in self("scontrol", "--details", "--oneliner", "show", "job").splitlines():
            job = dict(re.findall(r"(\S+?)=(\S*)", line))
            comment = job.get("Comment", "").replace("_wildcards_", "_")
            if comment == f"rule_{rule}" and job["JobName"] == submission:
                found.append(job)
        return sorted(found, key=lambda job: int(job["JobId"]))


MUNGE_FILES = ("key-file", "socket", "pid-file", "log-file", "seed-file")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A cluster that runs jobs."""
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons start as root only")
    if missing := [program for program in (*DAEMONS, *CLIENTS) if not shutil.which(program)]:
        pytest.skip(f"no {', '.join(missing)}: apt-get install slurm-wlm munge")
    try:
        cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    except PermissionError as error:  # root of a container without the right to make devices
        pytest.skip(f"the fake GPUs cannot be made: {error}")
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's profile with its three lines edited, as a site does it."""
    lines = (ROOT / "workflow/profiles/slurm/config.yaml").read_text().splitlines()
    edited = {"slurm_partition": "test", "slurm_account": "research", "jobs": "8"}
    marked = [number for number, line in enumerate(lines) if "# site" in line]
    assert len(marked) == 3
    for number in marked:
        key, _ = lines[number].split(":", 1)
        lines[number] = f"{key}: {edited.pop(key.strip())}"
    folder = tmp_path_factory.mktemp("profile")
    (folder / "config.yaml").write_text("\n".join(lines) + "\n")
    return folder
