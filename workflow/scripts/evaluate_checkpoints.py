"""Score the checkpoints of a run, or a base model, on the setting's benchmarks."""

from pathlib import Path

from aent.config import parse
from aent.evaluation.runner import Checkpoint, evaluate_checkpoints
from aent.logs import configure_logging

configure_logging(snakemake.log[0])
study = parse(snakemake.config)
where, params = snakemake.wildcards, snakemake.params
method = where.get("method", "base")
seed = int(where.seed) if "seed" in where.keys() else None
checkpoints = [
    Checkpoint(params.setting, method, seed, step, Path(path))
    for step, path in zip(params.steps, snakemake.input.checkpoints, strict=True)
]
outputs = dict(zip(params.steps, map(Path, snakemake.output.scores), strict=True))
problems = {Path(path).stem: Path(path) for path in snakemake.input.problems}
evaluate_checkpoints(checkpoints, study.settings[params.setting], problems, outputs.__getitem__)
