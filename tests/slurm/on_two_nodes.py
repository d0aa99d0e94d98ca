"""`aent train` in a job of two nodes, with a process on each; takes its arguments."""

import os
import sys

from aent.launch import launch_command

command = launch_command("aent", ["train", *sys.argv[1:]], processes=2, nodes=2)
os.execvp(command[0], command)
