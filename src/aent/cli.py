"""`aent`: the parts of the pipeline by hand."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from aent.config import Config, ConfigError, Run, load
from aent.logs import configure_logging


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand; returns the exit status."""
    parser = argparse.ArgumentParser(prog="aent", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train one run, or finish an interrupted one")
    train.add_argument("--config", type=Path, default=Path("config/config.yaml"))
    train.add_argument("--setting", required=True, help="a name under settings")
    train.add_argument("--method", required=True, help="a name under methods, or a swept one")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--output", type=Path, help="default: the run's folder under results")
    train.add_argument("--log", type=Path, help="a file that gets the log too")
    train.add_argument("--no-mlflow", action="store_true", help="do not mirror to MLflow")
    runs = commands.add_parser("runs", help="list the runs that the configuration asks for")
    runs.add_argument("--config", type=Path, default=Path("config/config.yaml"))
    options = parser.parse_args(arguments)
    try:
        config = load(options.config)
        if options.command == "runs":
            print("\n".join(run.name for run in config.runs()))
        else:
            run = config.run(options.setting, options.method, options.seed)
            first = os.environ.get("RANK", "0") == "0"  # of several processes, one writes the log
            configure_logging(options.log if first else None)
            _train(config, run, options.output, not options.no_mlflow)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _train(config: Config, run: Run, output: Path | None, mirror: bool) -> None:
    model = config.results / "models" / run.setting.model
    problems = config.results / "problems" / f"{run.setting.problems}.jsonl"
    missing = [str(path) for path in (model, problems) if not path.exists()]
    if missing:
        raise ConfigError(
            f"{run.name} needs {' and '.join(missing)}; make them with: "
            f"snakemake --cores 1 {' '.join(missing)}"
        )
    # Imported late: torch takes seconds, and a wrong option should not.
    from aent.folder import RunFolder
    from aent.tracking import create_store, tracking_uri
    from aent.trainer import train

    uri = tracking_uri(config) if mirror else None
    if uri:
        create_store(uri, config.results / "mlflow" / "artifacts")
    target = output or config.results / run.name
    train(run, model, problems, target, uri)
    RunFolder(target).discard_state()
