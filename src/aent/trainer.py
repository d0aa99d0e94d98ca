"""The training loop: collect, reward, advantages, minibatch updates, coefficient, record.

Differs from the textbook in what it survives. A step is a function of the state before it
(`aent.session`). What a resumed run needs lives in `state/` (see `aent.folder`); checkpoints are
published when the run is complete. One process at a time writes to a run's folder (`aent.lease`),
and looks whether it still may before each write. SIGTERM ends it with status 75 and a saved state
(`aent.signals`).

By hand, after `snakemake results/models/tiny results/problems/train.jsonl`:

    aent train --config config/config.yaml --setting laptop --method aent --seed 0
"""

from __future__ import annotations

import logging
import time
from contextlib import closing
from pathlib import Path

from aent.config import Run
from aent.experience import Experience
from aent.folder import RunFolder, completion_steps
from aent.lease import Lease
from aent.processes import open_processes, termination_of
from aent.progress import Progress
from aent.provenance import describe_run, hub_commits
from aent.rewards import Verifier
from aent.session import Session
from aent.signals import Terminated
from aent.tracking import RunRecorder

log = logging.getLogger(__name__)


def train(
    run: Run, model_dir: Path, problems: Path, output: Path, tracking_uri: str | None = None
) -> None:
    """Train one run, or finish an interrupted one, and write all its outputs.

    The state stays, because whoever asked for the outputs may lose them before they are accepted;
    `RunFolder.discard_state` drops it then. Until that, training a finished run publishes it again.

    Args:
        run: the resolved run.
        model_dir: base model, a directory that AutoModelForCausalLM opens.
        problems: training problems in the record schema.
        output: the run's folder; gets metrics.parquet, run.json, completions.parquet and
            checkpoints/step-*.
        tracking_uri: MLflow store to mirror to; None for none.

    Raises:
        aent.session.TrainingError: see `Session`.
        aent.lease.LeaseError: another process writes to the folder.
        aent.signals.Terminated: SIGTERM; the state is saved.
        aent.files.StorageError: the disk is full or gone; what was saved is unharmed.
    """
    started = time.time()
    with open_processes(run.setting.trainer) as processes, termination_of(processes) as termination:
        if not processes.first:
            session = Session(run, model_dir, problems, output, processes, termination)
            _take_steps(session, _Unwritten())
            return
        with Lease(output) as lease:
            RunFolder(output).sweep()
            session = Session(run, model_dir, problems, output, processes, termination)
            first = session.step + 1
            with closing(RunRecorder(output, run, tracking_uri, first)) as recorder:
                _take_steps(session, _Written(session, recorder, lease))
                lease.check()
                recorder.finish()
            info = describe_run(run, started) | {
                "inputs": session.inputs,
                "commits": hub_commits(model_dir, problems),
                "parameters": sum(parameter.numel() for parameter in session.policy.parameters()),
                "prompts_left_out": session.left_out,
                "processes": processes.count,
                "mlflow_run_id": recorder.mlflow_run_id,
            }
            lease.check()
            session.folder.publish(run.setting.trainer.checkpoint_steps, info)


class _Unwritten:
    """What all processes but the first write beside weights: nothing."""

    def record(self, metrics: dict[str, float]) -> None:
        """Record the session's step."""

    def keep_completions(self, experience: Experience) -> None:
        """Keep some of the step's completions to read."""

    def sync(self) -> None:
        """Make sure that what was written is on the disk."""

    def check(self) -> None:
        """See that this process may still write; else raise."""


class _Written(_Unwritten):
    """What the first process writes beside weights."""

    def __init__(self, session: Session, recorder: RunRecorder, lease: Lease):
        self.session, self.recorder, self.lease = session, recorder, lease
        steps = session.run.setting.trainer.steps
        self.progress = Progress(session.run.name, steps, session.step)

    def record(self, metrics: dict[str, float]) -> None:
        self.recorder.log(self.session.step, metrics)
        self.progress.show(self.session.step, metrics)

    def keep_completions(self, experience: Experience) -> None:
        self.session.folder.keep_completions(self.session.step, experience, self.check)

    def sync(self) -> None:
        self.recorder.sync()

    def check(self) -> None:
        self.lease.check()


def _take_steps(session: Session, files: _Unwritten) -> None:
    """The loop. A state is saved after all that it counts on."""
    trainer = session.run.setting.trainer
    try:
        # Each process scores its own responses, while torch has nothing to do.
        with Verifier(workers=session.threads) as verifier:
            while session.step < trainer.steps:
                experience = session.collect(verifier)
                with session.termination.deferred():
                    metrics = session.learn(experience)
                    files.check()
                    files.record(metrics)
                    if session.step in trainer.checkpoint_steps:
                        session.save_checkpoint(files.check)
                    if session.step in completion_steps(trainer):
                        files.keep_completions(experience)
                    if session.step % trainer.state_every == 0 or session.step == trainer.steps:
                        files.sync()
                        session.save(files.check)
    except Terminated:
        if session.saved < session.step:
            files.sync()
            session.save(files.check)
        log.warning("ended by SIGTERM; the state of step %d is saved", session.step)
        raise
