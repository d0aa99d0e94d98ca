"""The processes of a job: one plain process, or several on PyTorch's engines through accelerate."""

from aent.processes.leaving import termination_of
from aent.processes.one import Processes, ProcessesError
from aent.processes.opening import open_processes, open_scoring
from aent.processes.share import Share

__all__ = [
    "Processes",
    "ProcessesError",
    "Share",
    "open_processes",
    "open_scoring",
    "termination_of",
]
