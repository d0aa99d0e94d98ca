"""Where the processes of a killed run began: each has to take the newest state that it found."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

SAID = re.compile(r"\d\d:\d\d:\d\d.*going on after step (\d+)")
"""A line of the log, which may be shown several times: its time tells it from another one."""


def newest_state(folder: Path) -> int:
    """Step of the newest state of the run in a folder; 0 when there is none."""
    names = [path.stem for path in (folder / "state").glob("state-*.pt")]
    return max((int(name.removeprefix("state-")) for name in names), default=0)


class Resumed:
    """Follows a run from process to process."""

    def __init__(self, folder: Path, log: Callable[[], str]):
        """Begin before the first process.

        Args:
            folder: the run's.
            log: gives what was logged so far, by the last process at least.
        """
        self.folder, self.log = folder, log
        self.seen: set[str] = set()
        self.state = newest_state(folder)

    def check(self, ended: bool = False) -> None:
        """See where the last process began, after its end.

        Args:
            ended: it was not killed; else it may not have come so far.
        """
        said = {match[0]: int(match[1]) for match in SAID.finditer(self.log())}
        began = [step for line, step in said.items() if line not in self.seen]
        if began or (ended and self.state):
            assert began == [self.state], f"{began}, the newest state is of step {self.state}"
        assert not list(self.folder.rglob("*.unusable"))
        self.seen |= said.keys()
        self.state = newest_state(self.folder)
