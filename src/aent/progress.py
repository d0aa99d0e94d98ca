"""Progress lines: what a long job is doing, in the terminal and in its log."""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)


class Progress:
    """Says step k of n, the numbers that matter and the time left, every few seconds."""

    def __init__(self, name: str, steps: int, done: int = 0, every_s: float = 5.0):
        """Start the clock.

        Args:
            name: the run's name, in front of each line.
            steps: number of the last step.
            done: steps done before this process started.
            every_s: seconds between lines; the first and the last step always speak.
        """
        self.name, self.steps, self.done, self.every_s = name, steps, done, every_s
        self.start = time.monotonic()
        self.spoke = -every_s

    def show(self, step: int, metrics: dict[str, float]) -> None:
        """Log a line for this step if it is time for one."""
        now = time.monotonic() - self.start
        if now - self.spoke < self.every_s and step < self.steps:
            return
        self.spoke = now
        left = now / (step - self.done) * (self.steps - step)
        log.info(
            "%s step %d of %d, reward %.3f, entropy %.3f, clamped %.3f, lambda %.5f, "
            "%.0f tokens/s, %s left",
            self.name,
            step,
            self.steps,
            metrics["reward/mean"],
            metrics["entropy/full"],
            metrics["entropy/clamped"],
            metrics["entropy/coefficient"],
            metrics["throughput/tokens_per_s"],
            duration(left),
        )


def duration(seconds: float) -> str:
    """Seconds as 45s, 3m05s or 2h07m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
