"""A run's folder: declared outputs, and outside them what an interrupted run goes on from.

Snakemake deletes the declared outputs of a job that fails, or that was running when Snakemake
itself was killed. `state/` is none of them, and stays until the outputs are known to be accepted:
killed after its last step, a run publishes again instead of training again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from aent import checksums
from aent.checkpoint import state_path
from aent.config.setting import Trainer
from aent.experience import Experience
from aent.files import PARTIAL, StorageError, remove, replacing, sweep
from aent.journal import encode, read_journal
from aent.lease import Lease, LeaseError
from aent.tracking import metrics_path

log = logging.getLogger(__name__)

SIGNATURE = "owner.json"
SHOWN_PROMPTS = 4  # prompts a checkpoint whose completions are kept to read


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its things."""

    output: Path

    @property
    def state(self) -> Path:
        """What an interrupted run goes on from."""
        return self.output / "state"

    @property
    def checkpoints(self) -> Path:
        """Published checkpoints."""
        return self.output / "checkpoints"

    @property
    def completions(self) -> Path:
        """Completions to read, before the run is complete."""
        return self.state / "completions.jsonl"

    def pending_checkpoint(self, step: int) -> Path:
        """A checkpoint before the run is complete."""
        return self.state / "checkpoints" / f"step-{step}"

    def sweep(self) -> None:
        """Remove what killed processes left half-written; for the lease's holder."""
        for folder in (self.output, self.state, self.checkpoints, self.state / "checkpoints"):
            sweep(folder)

    def lacking(self, step: int, trainer: Trainer) -> str | None:
        """What the files beside a state of this step lack, naming the place; None when nothing."""
        rows = [row["step"] for row in read_journal(metrics_path(self.output))]
        if rows[:step] != list(range(1, step + 1)):
            return f"{metrics_path(self.output)}: no intact rows of steps 1 to {step}"
        kept = Counter(record["step"] for record in read_journal(self.completions))
        for at in completion_steps(trainer):
            # Of several processes, the first may have fewer prompts than are shown.
            if at <= step and (not kept[at] or kept[at] % trainer.samples):
                return f"{self.completions}: the completions of step {at} are not all there"
        for at in trainer.checkpoint_steps:
            if at <= step and (fault := checksums.damage(self.pending_checkpoint(at))):
                return fault
        return None

    def claim_state(self, owner: str) -> None:
        """Make `state/` this owner's: another one's is set aside, ours that was aside is back.

        Args:
            owner: see `owner_of`.
        """
        present = self._signature().get("owner")
        if present not in (None, owner):
            self.set_state_aside(present)
        aside = self._aside(owner)
        if aside.exists() and not list(self.state.glob("state-*")):
            if self.state.exists():
                self.set_state_aside("unknown")
            os.replace(aside, self.state)
            log.info("%s: is back; it was set aside for another configuration", self.state)

    def sign_state(self, owner: str, every: int) -> None:
        """Write down whose `state/` is, also before there is a state in it.

        Args:
            owner: see `owner_of`.
            every: steps between two states from now on.

        Raises:
            aent.files.StorageError: the disk is full or gone.
        """
        longest = max(every, self._signature().get("every", 0))
        with replacing(self.state / SIGNATURE) as partial:
            partial.write_text(encode({"owner": owner, "every": longest}), encoding="utf-8")

    def lost_state(self, step: int, every: int) -> str | None:
        """The state that is missing after one of this step, in words; None where none is.

        A kill leaves no more behind the newest state than what is done between two. And two states
        are kept: one alone is the first one.

        Args:
            step: that of the newest usable state; 0 when there is none.
            every: steps between two states, where nobody has signed.
        """
        every = self._signature().get("every", every)
        found = _steps(self.state, "state") if step else []  # unusable ones were warned of
        newest, taken = max(found, default=0), self._taken()
        alone = len(found) == 1 and newest > every
        if taken - newest <= every - alone:
            return None
        due = state_path(self.state, taken // every * every)
        after = f"the newest usable one is of step {step}" if step else "there is no usable one"
        return f"{due}: is missing; {taken} steps left something behind, and {after}"

    def _taken(self) -> int:
        """The last step that left a row, damaged or not, or a checkpoint."""
        path = metrics_path(self.output)
        rows = path.read_bytes().count(b"\n") if path.exists() else 0
        return max([rows, *_steps(self.state / "checkpoints", "step")])

    def set_state_aside(self, owner: str) -> None:
        """Give the state of another owner a name of its own, `state-other-{owner}`."""
        aside = self._aside(owner)
        if aside.exists():
            aside = self._aside(f"{owner}-{secrets.token_hex(4)}")
        os.replace(self.state, aside)
        log.warning(
            "%s is of another configuration, base model or problem file; it is now %s, until that "
            "one is trained again or somebody removes it",
            self.state,
            aside,
        )

    def _signature(self) -> dict[str, Any]:
        """What `sign_state` wrote; empty where there is nothing intact."""
        return next(iter(read_journal(self.state / SIGNATURE)), {})

    def _aside(self, owner: str) -> Path:
        return self.output / f"state-other-{owner}"

    def keep_completions(
        self, step: int, experience: Experience, guard: Callable[[], object]
    ) -> None:
        """Add a few groups of the step to the pending completions, once a step.

        Raises:
            aent.files.StorageError: the disk is full or gone.
        """
        records = [row for row in read_journal(self.completions) if row["step"] < step]
        samples = len(experience.completions) // len(experience.prompted)
        rewards = experience.rewards.flatten().tolist()
        for row in range(min(SHOWN_PROMPTS, len(experience.prompted)) * samples):
            problem, verdict = experience.prompted[row // samples].problem, experience.verdicts[row]
            record = {
                "step": step,
                "problem_id": problem.id,
                "prompt": problem.problem,
                "completion": experience.completions[row],
                "answer": problem.answer,
                "extracted": verdict.extracted,
                "reward": rewards[row],
                "truncated": bool(experience.rollouts.truncated[row]),
            }
            records.append(record)
        with replacing(self.completions, guard) as partial:
            partial.write_text("".join(map(encode, records)), encoding="utf-8")

    def publish(self, steps: list[int], info: dict[str, Any]) -> None:
        """Give what was pending its declared names; run.json comes last.

        Raises:
            aent.files.StorageError: the disk is full or gone; the state is unharmed.
        """
        with replacing(self.output / "completions.parquet") as partial:
            frame = pd.DataFrame(read_journal(self.completions))
            frame.to_parquet(partial, index=False)
        for step in steps:
            target = self.checkpoints / f"step-{step}"
            # Links, not moves: killed half-way, the run can publish again.
            with replacing(target) as partial:
                shutil.copytree(self.pending_checkpoint(step), partial, copy_function=_link)
        with replacing(self.output / "run.json") as partial:
            partial.write_text(json.dumps(info, indent=2) + "\n")

    def discard_state(self) -> None:
        """Drop the last state of the finished run that run.json describes, if nobody writes here.

        Call when the outputs were accepted. By then another training may have begun in the folder:
        its state stays, and so does this one when the disk takes no lease; the log says so.
        """
        if not self.state.exists():
            return
        try:
            with Lease(self.output, waits=False):
                if not self._is_done():
                    log.info("%s stays: it is not the last one of run.json's run", self.state)
                    return
                # Renamed first: half a state must not look like one.
                done = self.output / f".state-{secrets.token_hex(4)}{PARTIAL}"
                os.replace(self.state, done)
                remove(done)
        except (LeaseError, StorageError) as error:
            log.info("%s stays: %s", self.state, error)

    def _is_done(self) -> bool:
        """Whether the state is that of run.json's run, after its last step."""
        try:
            info = json.loads((self.output / "run.json").read_text())
        except FileNotFoundError:  # Snakemake removes it before it trains again
            return False
        last = state_path(self.state, info["run"]["setting"]["trainer"]["steps"])
        ours = owner_of(info["hash"], info["inputs"])
        return self._signature().get("owner") == ours and last.exists()


def _steps(folder: Path, kind: str) -> list[int]:
    """Steps of all `{kind}-{step}` in a folder, whatever their suffix."""
    found = (re.match(rf"{kind}-(\d+)(\.|$)", path.name) for path in folder.glob("*"))
    return [int(match[1]) for match in found if match]


def owner_of(run_hash: str, inputs: dict[str, str]) -> str:
    """A short name for all that a state belongs to: configuration, base model, problem file.

    Args:
        run_hash: the run's `hash`.
        inputs: digests of base model and problem file.
    """
    return hashlib.sha256(json.dumps([run_hash, inputs]).encode()).hexdigest()[:12]


def completion_steps(trainer: Trainer) -> list[int]:
    """Steps whose completions are kept to read."""
    return sorted({1, *trainer.checkpoint_steps})


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
