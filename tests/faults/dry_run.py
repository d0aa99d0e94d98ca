"""`snakemake -n` in a process forked from one that has imported it: seconds less a call."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]


def dry_run(configuration: Path, output: Path) -> None:
    """Resolve the workflow with a configuration, as the program does; ends the process.

    Args:
        configuration: the file; its folder is the working directory.
        output: gets what is printed.
    """
    from snakemake.cli import main

    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(configuration.parent)
    files = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", str(configuration)]
    main(["--dry-run", "--quiet", *files])
