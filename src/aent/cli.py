"""`aent`: the parts of the pipeline by hand."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from aent.config import Config, ConfigError, Run, load
from aent.lease import LeaseError
from aent.logs import configure_logging, discreet


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
    train.add_argument("--keep-state", action="store_true", help="also when the run is complete")
    evaluate = commands.add_parser("evaluate", help="score checkpoints of a run, or a base model")
    evaluate.add_argument("--config", type=Path, default=Path("config/config.yaml"))
    evaluate.add_argument("--setting", required=True, help="a name under settings")
    evaluate.add_argument("--method", help="the run's; the base model is scored when absent")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument(
        "--steps", type=int, nargs="+", help="of a run's checkpoints; all of them when absent"
    )
    evaluate.add_argument("--log", type=Path, help="a file that gets the log too")
    runs = commands.add_parser("runs", help="list the runs that the configuration asks for")
    runs.add_argument("--config", type=Path, default=Path("config/config.yaml"))
    plan = commands.add_parser("plan", help="estimate memory, GPU hours and disk of every run")
    plan.add_argument("--config", type=Path, default=Path("config/config.yaml"))
    plan.add_argument(
        "--assume",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="another assumption, such as response_share=0.5 or gpus.A100.memory_gb=40; "
        "config/README.md lists them under `plan`",
    )
    pins = commands.add_parser("pin", help="write the hub's commits into the configuration")
    pins.add_argument("--config", type=Path, default=Path("config/config.yaml"))
    fill = commands.add_parser("sync", help="fill what MLflow lacks of the finished runs")
    fill.add_argument("--config", type=Path, default=Path("config/config.yaml"))
    options = parser.parse_args(arguments)
    try:
        config = load(options.config)
        if options.command == "runs":
            print("\n".join(run.name for run in config.runs()))
        elif options.command == "plan":
            print(_plan(config, options.assume))
        elif options.command == "pin":
            _pin(config, options.config)
        elif options.command == "sync":
            return _sync(config)
        elif options.command == "evaluate":
            _evaluate(config, options)
        else:
            run = config.run(options.setting, options.method, options.seed)
            _train(config, run, options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except LeaseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _plan(config: Config, assumed: list[str]) -> str:
    from aent.plan import PlanError, assume, make_plan, render

    try:
        return render(make_plan(config.model_copy(update={"plan": assume(config.plan, assumed)})))
    except PlanError as error:
        raise ConfigError(str(error)) from None


def _pin(config: Config, path: Path) -> None:
    from aent.pin import pin

    pinned = pin(config, path)
    if not pinned:
        print(f"{path} takes nothing from the hub")
    for found, commit in pinned.items():
        was = "" if found.pinned else f", was {found.revision}"
        print(f"{found.key}: {found.id} at {commit}{was}")


def _sync(config: Config) -> int:
    from aent.store import StoreError
    from aent.tracking import sync

    configure_logging()
    try:
        done = sync(config)
    except StoreError as error:  # a server may have repeated the token that it refuses
        print(discreet(str(error)), file=sys.stderr)
        return 1
    for name, filled in done.items():
        said = "still lacks points" if filled is None else f"{filled} points filled"
        print(f"{name}: {said if filled != 0 else 'complete'}")
    if not done:
        print("no finished run, or tracking is off")
    return int(None in done.values())


def _train(config: Config, run: Run, options: argparse.Namespace) -> None:
    model = config.results / "models" / run.setting.model
    problems = config.results / "problems" / f"{run.setting.problems}.jsonl"
    missing = [str(path) for path in (model, problems) if not path.exists()]
    if missing:
        raise ConfigError(
            f"{run.name} needs {' and '.join(missing)}; make them with: "
            f"snakemake {' '.join(missing)} --cores 1 --configfile {options.config}"
        )
    first = _is_first()
    configure_logging(options.log if first else None)
    # Imported late: torch takes seconds, and a wrong option should not.
    from aent.folder import RunFolder
    from aent.tracking import ensure_store, tracking_uri
    from aent.trainer import train

    uri = None if options.no_mlflow else tracking_uri(config)
    if uri and first:
        ensure_store(uri, config.results / "mlflow" / "artifacts")
    target = options.output or config.results / run.name
    train(run, model, problems, target, uri)
    if first and not options.keep_state:
        RunFolder(target).discard_state()


def _evaluate(config: Config, options: argparse.Namespace) -> None:
    """Score checkpoints that are where the workflow puts them."""
    if options.setting not in config.settings:
        raise ConfigError(f"unknown setting {options.setting!r}; allowed {sorted(config.settings)}")
    if options.steps and options.method is None:
        raise ConfigError(
            f"--steps {' '.join(map(str, options.steps))} are checkpoints of a run: add its "
            "--method, or leave --steps out to score the base model"
        )
    setting = config.settings[options.setting]
    configure_logging(options.log if _is_first() else None)
    # Imported late, as above.
    from aent.evaluation.runner import Checkpoint, evaluate_checkpoints

    if options.method is None:
        folder, method, seed = config.results / options.setting / "base", "base", None
        paths = {0: config.results / "models" / setting.model}
    else:
        run = config.run(options.setting, options.method, options.seed)
        folder, method, seed = config.results / run.name, run.method_name, run.seed
        steps = options.steps or run.setting.trainer.checkpoint_steps
        paths = {step: folder / "checkpoints" / f"step-{step}" for step in steps}
    trusts = config.trusts(options.setting)
    checkpoints = [
        Checkpoint(options.setting, method, seed, step, path, trusts)
        for step, path in paths.items()
    ]
    folders = config.results / "problems"
    problems = {name: folders / f"{name}.jsonl" for name in setting.evaluation.problem_sets}
    missing = [str(path) for path in [*paths.values(), *problems.values()] if not path.exists()]
    if missing:
        raise ConfigError(f"not there yet: {', '.join(missing)}; make them with Snakemake")
    evaluate_checkpoints(
        checkpoints, setting, problems, lambda step: folder / "scores" / f"step-{step}.json"
    )


def _is_first() -> bool:
    """Whether this is the process that writes, of those that a launcher started."""
    return os.environ.get("RANK", "0") == "0"
