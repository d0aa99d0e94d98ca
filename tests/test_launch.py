"""The command that starts several processes, and that they find each other."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from aent.launch import launch_command, threads_each

MODULE = """\
import json, os, sys
import torch.distributed as dist

dist.init_process_group("gloo")
ranks = [None] * dist.get_world_size()
dist.all_gather_object(ranks, dist.get_rank())
with open(f"{sys.argv[1]}/{dist.get_rank()}.json", "w") as file:
    json.dump([ranks, os.environ["OMP_NUM_THREADS"]], file)
dist.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("threads", "processes", "nodes", "expected"),
    [
        (1, 1, 1, 1),
        (8, 1, 1, 8),
        (8, 4, 1, 2),
        (8, 3, 1, 2),  # two threads stay idle
        (1, 4, 1, 1),  # each needs one
        (16, 8, 2, 4),  # four processes a node
    ],
)
def test_processes_share_the_threads_of_their_node(threads, processes, nodes, expected):
    assert threads_each(threads, processes, nodes) == expected


@pytest.mark.slow
def test_processes_of_one_node_find_each_other(tmp_path):
    (tmp_path / "gathering.py").write_text(MODULE)
    command = launch_command("gathering", [str(tmp_path)], processes=2, threads=6)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for process in range(2):
        found = json.loads((tmp_path / f"{process}.json").read_text())
        assert found == [[0, 1], "3"]


def test_several_nodes_are_a_launcher_each(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "12345")
    command = launch_command("aent", ["train", "--log", "a b"], processes=8, nodes=2, threads=16)
    assert command[:4] == ["srun", "--nodes=2", "--ntasks=2", "--cpus-per-task=16"]
    line = command[-1]
    assert line.startswith(f"exec {sys.executable} -m accelerate.commands.launch --multi_gpu ")
    assert "--num_processes=8 --num_machines=2 --num_cpu_threads_per_process=4 " in line
    assert "--main_process_port=22345 " in line
    assert line.endswith(""" --machine_rank="$SLURM_PROCID" -m aent train --log 'a b'""")


def test_several_nodes_need_a_job(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(RuntimeError, match="Slurm job of 2 nodes"):
        launch_command("aent", [], processes=4, nodes=2)


def test_processes_are_spread_evenly():
    with pytest.raises(ValueError, match=r"3 processes .* 2 nodes"):
        launch_command("aent", [], processes=3, nodes=2)
