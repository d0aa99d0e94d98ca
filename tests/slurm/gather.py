"""Called in a job of two nodes, starts a process on each; they write where they found each other.

gather.py FILE
"""

import json
import os
import sys
from pathlib import Path

from aent.launch import launch_command

if "RANK" not in os.environ:
    here = Path(__file__)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")])
    command = launch_command(here.stem, sys.argv[1:], processes=2, nodes=2)
    os.execvp(command[0], command)

import torch.distributed as dist

dist.init_process_group("gloo")
found = [None, None]
node, gpus = os.environ["SLURMD_NODENAME"], os.environ["CUDA_VISIBLE_DEVICES"]
dist.all_gather_object(found, {"rank": dist.get_rank(), "node": node, "gpus": gpus})
if dist.get_rank() == 0:
    Path(sys.argv[1]).write_text(json.dumps(found))
dist.destroy_process_group()
