"""Python loads this at its start where PYTHONPATH names this folder: a stack on SIGUSR1.

The handler is C's and holds no lock, so that it answers whatever the process is doing.
"""

import faulthandler
import os
import signal

if folder := os.environ.get("AENT_TEST_STACKS"):
    # Who sees the file may send the signal, which would end a process that does not expect it.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    file = open(os.path.join(folder, str(os.getpid())), "wb", buffering=0)  # noqa: SIM115
    faulthandler.register(signal.SIGUSR1, file, all_threads=False)
