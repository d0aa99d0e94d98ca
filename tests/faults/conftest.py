"""A toy run that is disturbed on purpose, and what it must come to all the same."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aent import trainer
from aent.config import Run, load
from aent.models import build_tokenizer, create_model, save_model
from aent.problems import load_problems
from aent.problems.record import write_problems

CONFIG = Path(__file__).parents[1] / "config.yaml"


@dataclass(frozen=True)
class Toy:
    """The inputs of a toy run and how to start it."""

    model: Path
    problems: Path
    spawn: Any

    def run(self, method: str = "aent", seed: int = 0, **trainer: Any) -> Run:
        """The toy setting's run of a method, with changes to the trainer."""
        run = load(CONFIG).run("toy", method, seed).model_dump(mode="json")
        run["setting"]["trainer"] |= trainer
        return Run.model_validate(run)

    def train(self, run: Run, output: Path, uri: str | None = None) -> None:
        """Train in this process."""
        trainer.train(run, self.model, self.problems, output, uri)

    def start(
        self,
        run: Run,
        output: Path,
        uri: str | None = None,
        target: Callable[..., None] = trainer.train,
        first: tuple[Any, ...] = (),
    ) -> Any:
        """Train in a process of its own; `target` takes `first` and the trainer's arguments."""
        process = self.spawn.Process(
            target=target, args=(*first, run, self.model, self.problems, output, uri)
        )
        process.start()
        return process


@pytest.fixture(scope="session")
def spawn() -> Any:
    """Starts processes in no time: they are forked from a server that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["aent.trainer", "snakemake.cli"])
    return context


@pytest.fixture(scope="session")
def toy(spawn: Any, tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """A fresh model that has learnt nothing, its problems, and how to start processes."""
    folder = tmp_path_factory.mktemp("toy")
    config = load(CONFIG)
    scratch = config.models["tiny"]
    save_model(create_model(scratch), build_tokenizer(scratch.vocabulary), folder / "model")
    write_problems(folder / "problems.jsonl", load_problems(config.problems["train"]))
    return Toy(folder / "model", folder / "problems.jsonl", spawn)


@pytest.fixture(scope="session")
def undisturbed(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Run], Path]:
    """Function: a run -> a folder in which nothing disturbed it."""
    done: dict[str, Path] = {}

    def folder(run: Run) -> Path:
        key = hashlib.sha256(run.model_dump_json().encode()).hexdigest()
        if key not in done:
            done[key] = tmp_path_factory.mktemp("undisturbed") / "run"
            toy.train(run, done[key])
        return done[key]

    return folder


def metrics(folder: Path) -> pd.DataFrame:
    """A run's metrics, timings aside."""
    frame = pd.read_parquet(folder / "metrics.parquet")
    return frame.drop(columns=[c for c in frame if c.startswith(("time/", "throughput/"))])


def digests(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file in a folder, Snakemake's own (hidden) ones aside."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    }


@pytest.fixture(scope="session")
def same_outputs() -> Callable[[Path, Path], None]:
    """Function that asserts that two runs left the same metrics, weights and completions."""

    def compare(ours: Path, theirs: Path) -> None:
        pd.testing.assert_frame_equal(metrics(ours), metrics(theirs), check_exact=True)
        assert digests(ours / "checkpoints") == digests(theirs / "checkpoints")
        files = [pd.read_parquet(run / "completions.parquet") for run in (ours, theirs)]
        pd.testing.assert_frame_equal(*files, check_exact=True)

    return compare
