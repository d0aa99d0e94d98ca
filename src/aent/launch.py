"""Several processes for one run: their threads, and the command that starts them."""

from __future__ import annotations

import os
import shlex
import socket
import sys

FIRST_PORT, PORTS = 20_000, 10_000  # below the ports that systems give away by themselves


def threads_each(threads: int, processes: int, nodes: int = 1) -> int:
    """CPU threads of each process of a job.

    Args:
        threads: of the job on each of its nodes (`trainer.threads`), shared by its processes.
        processes: on all nodes together.
        nodes: of the job.

    Returns:
        An equal part, rounded down; one where there are more processes than threads.
    """
    return max(1, threads * nodes // processes)


def launch_command(
    module: str, arguments: list[str], processes: int, nodes: int = 1, threads: int = 1
) -> list[str]:
    """The command that runs `python -m module arguments` in several processes that find each other.

    On one node this is accelerate's launcher. On several it has to be called inside a Slurm job
    of that many nodes, on the first of them: `srun` starts a launcher on each, and the first one's
    is where they meet.

    Args:
        module: module to run.
        arguments: its command line.
        processes: processes on all nodes together, a multiple of `nodes`.
        nodes: nodes of the job.
        threads: CPU threads on each node, shared by its processes.

    Raises:
        ValueError: `nodes` does not divide `processes`.
        RuntimeError: several nodes, but this is no Slurm job.
    """
    if processes % nodes:
        raise ValueError(f"{processes} processes cannot be spread evenly over {nodes} nodes")
    launcher = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
        *(f"--num_processes={processes}", f"--num_machines={nodes}"),
        f"--num_cpu_threads_per_process={threads_each(threads, processes, nodes)}",
        # Said here, or the launcher takes them from a file in the user's home or warns.
        *("--mixed_precision=no", "--dynamo_backend=no"),
    ]
    program = ["-m", module, *arguments]
    if nodes == 1:
        return [*launcher, "--main_process_port=0", *program]
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        raise RuntimeError(f"a run on {nodes} nodes needs a Slurm job of {nodes} nodes")
    launcher += [
        f"--main_process_ip={socket.gethostname()}",
        f"--main_process_port={FIRST_PORT + int(job) % PORTS}",
    ]
    ranked = f'exec {shlex.join(launcher)} --machine_rank="$SLURM_PROCID" {shlex.join(program)}'
    tasks = [f"--nodes={nodes}", f"--ntasks={nodes}", f"--cpus-per-task={threads}"]
    return ["srun", *tasks, "--kill-on-bad-exit", "bash", "-c", ranked]
