"""The checked configuration, paths, and what rules take from them. No rules here."""

import os
import re
import subprocess
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

try:
    from aent.config import ConfigError, parse as parse_study, read
    from aent.config.model import ScratchModel
    from aent.config.revisions import moving
    from aent.inputs import check_inputs
    from aent.tracking import tracking_uri
except ImportError as error:
    raise WorkflowError(
        f"{error}. The package is not installed in {sys.executable}: run `make setup`, then "
        "`. .venv/bin/activate`"
    ) from None


def read_study():
    """The configuration, checked; local problem files and model directories are looked at too."""
    where = ", ".join(str(file) for file in workflow.configfiles) or "config"
    try:
        if workflow.is_main_process:
            for (
                file
            ) in workflow.configfiles:  # Snakemake takes a key's last value, and says nothing
                read(file)
        study = parse_study(config, where)
        if workflow.is_main_process:
            check_inputs(study)
            for sentence in moving(study):
                logger.warning(sentence)
    except ConfigError as error:
        raise WorkflowError(str(error)) from None
    return study


study = read_study()

# Jobs say themselves how far they are; a log file is no place for progress bars.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

RESULTS = str(study.results)
RUNS = study.runs()
SETTINGS = list(dict.fromkeys(run.setting_name for run in RUNS))

# Keys of a setting's evaluation that do not change a score.
UNSCORED_KEYS = {"checkpoints_per_job", "engine", "gpus", "memory_mb", "runtime_minutes"}


def one_of(names):
    """A wildcard's pattern that allows these names and nothing else."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


def methods_of(setting):
    return dict.fromkeys(run.method_name for run in RUNS if run.setting_name == setting)


def folder(run):
    return f"{RESULTS}/{run.name}"


def score_files(runs):
    """Scores of all checkpoints of the runs, and of their settings' base models."""
    settings = dict.fromkeys(run.setting_name for run in runs)
    base = [f"{RESULTS}/{setting}/base/scores/step-0.json" for setting in settings]
    return base + [
        f"{folder(run)}/scores/step-{step}.json"
        for run in runs
        for step in run.setting.trainer.checkpoint_steps
    ]


def metric_files(runs):
    return [f"{folder(run)}/metrics.parquet" for run in runs]


def problem_files(names):
    return [f"{RESULTS}/problems/{name}.jsonl" for name in dict.fromkeys(names)]


def source_of(problems):
    """All that a problem set depends on beside the sets that it is compared with."""
    excluded = {"title": True, "records": True, "cleaning": {"workers"}}
    return study.problems[problems].model_dump(mode="json", exclude=excluded)


def compared_with(problems):
    cleaning = study.cleaning(problems)
    return cleaning.unlike if cleaning else []


def checkers_of(problems):
    cleaning = study.cleaning(problems)
    return cleaning.workers if cleaning else 1


def benchmarks_of(setting):
    return study.settings[setting].evaluation.problem_sets


def batches(setting):
    """Checkpoint steps of the setting's runs, in the portions that one job evaluates."""
    steps = study.settings[setting].trainer.checkpoint_steps
    size = study.settings[setting].evaluation.checkpoints_per_job or len(steps)
    return [steps[i : i + size] for i in range(0, len(steps), size)]


def recipe_of(setting):
    """Function of the wildcards: all that the training's result depends on."""
    return lambda wildcards: study.run(setting, wildcards.method, int(wildcards.seed)).recipe


def memory(megabytes):
    """Function of the attempt: a job that may have run out of memory is tried again with more."""
    return lambda wildcards, attempt: megabytes * (attempt + 1) // 2


def devices(gpus, nodes=1):
    """GPUs of a job by the names that the Slurm plugin knows.

    On several nodes the job's own command starts a launcher on each (aent.launch), which the
    plugin has to be told as if it were MPI; `tasks_per_gpu: 0` keeps it from adding tasks.
    One node is said too: Slurm may spread GPUs that are asked for by number alone.
    """
    if nodes == 1:
        return {"gpu": gpus, "nodes": 1}
    tasks = {"nodes": nodes, "tasks": nodes, "mpi": "srun", "tasks_per_gpu": 0}
    return tasks | {"gres": f"gpu:{gpus // nodes}"}


def training_needs(setting):
    """Resources of a training job."""
    trainer = study.settings[setting].trainer
    return {
        "mem_mb": memory(trainer.memory_mb),
        "runtime": trainer.runtime_minutes,
        **devices(trainer.gpus, trainer.nodes),
    }


def evaluation_needs(setting):
    """Resources of an evaluation job; what the configuration leaves open is the trainer's."""
    trainer, part = study.settings[setting].trainer, study.settings[setting].evaluation
    return {
        "mem_mb": memory(part.memory_mb or trainer.memory_mb),
        "runtime": part.runtime_minutes or trainer.runtime_minutes,
        **devices(study.settings[setting].scoring_gpus),
    }


def evaluation_of(setting):
    """All that a checkpoint's scores depend on, beside the checkpoint and the problems."""
    part = study.settings[setting]
    return {
        "prompt": part.prompt.model_dump(mode="json"),
        "evaluation": part.evaluation.model_dump(mode="json", exclude=UNSCORED_KEYS),
        "engine": part.scoring_engine.model_dump(mode="json"),
        "positions": part.scoring_positions,
        "device": part.trainer.device,
        "dtype": part.trainer.dtype,
    }


def caption(setting):
    trainer = setting.trainer
    return [setting.title, trainer.device, trainer.gpus, trainer.threads]


def captions(runs):
    """Names and numbers that tables, figures and claims take from the configuration."""
    settings = dict.fromkeys(run.setting_name for run in runs)
    benchmarks = dict.fromkeys(name for setting in settings for name in benchmarks_of(setting))
    return {
        "settings": {name: caption(study.settings[name]) for name in settings},
        "methods": {f"{run.setting_name}/{run.method_name}": run.method.title for run in runs},
        "benchmarks": {name: study.problems[name].title for name in benchmarks},
        "sweeps": {name: sweep.label for name, sweep in study.sweeps.items()},
    }


def experiment(wildcards):
    """The table or figure that the wildcards name."""
    if "table" in wildcards.keys():
        return study.tables[wildcards.table]
    return study.figures[wildcards.figure]


def scores_behind(wildcards):
    return score_files(study.runs_of(experiment(wildcards)))


def metrics_behind(wildcards):
    return metric_files(study.runs_of(experiment(wildcards)))


def definition(wildcards):
    """All that decides a table or figure beside its runs' data."""
    drawn = experiment(wildcards)
    return drawn.model_dump(mode="json") | captions(study.runs_of(drawn))


def mdp_files():
    return [f"{RESULTS}/mdp/values.parquet"] if study.mdp else []


def table_files():
    return expand(
        f"{RESULTS}/tables/{{table}}.{{kind}}",
        table=study.tables,
        kind=["csv", "md", "tex"],
    )


def figure_files():
    names = [*(["figure1"] if study.mdp else []), *study.figures]
    return expand(
        f"{RESULTS}/figures/{{figure}}.{{kind}}", figure=names, kind=["svg", "pdf", "png"]
    )


def claim_files():
    return [f"{RESULTS}/claims.{kind}" for kind in ("csv", "md")] if study.claims else []


def tracking_files():
    return [f"{RESULTS}/mlflow/mirrored.json"] if study.tracking.enabled else []


def create_tracking_store():
    """Create MLflow's store before jobs open it: a SQLite store's migration races otherwise.

    Not a rule, because everything trained would depend on its output, and be trained again when
    somebody deletes the store. The store can always be filled anew from the files.
    """
    uri = tracking_uri(study)
    if uri is None:
        return
    command = [sys.executable, f"{workflow.basedir}/workflow/scripts/create_store.py"]
    done = subprocess.run([*command, uri, f"{RESULTS}/mlflow/artifacts", *SETTINGS], check=False)
    if done.returncode:
        logger.warning(f"MLflow's store {uri} could not be created; runs go on without it")
