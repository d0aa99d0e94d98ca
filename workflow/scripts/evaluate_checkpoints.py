"""Score the checkpoints of a run, or a base model, on the setting's benchmarks."""

import json
import subprocess
from pathlib import Path

from aent.config import parse
from aent.evaluation.runner import Checkpoint, evaluate_checkpoints
from aent.files import replacing
from aent.folder import RunFolder
from aent.launch import launch_command
from aent.logs import configure_logging
from aent.tracking import log_scores, tracking_uri

configure_logging(snakemake.log[0])
study = parse(snakemake.config)
where, params = snakemake.wildcards, snakemake.params
method = where.get("method", "base")
seed = int(where.seed) if where.get("seed") else None
checkpoints = [
    Checkpoint(params.setting, method, seed, step, Path(path), study.trusts(params.setting))
    for step, path in zip(params.steps, snakemake.input.checkpoints, strict=True)
]
outputs = dict(zip(params.steps, map(Path, snakemake.output.scores), strict=True))
problems = {Path(path).stem: Path(path) for path in snakemake.input.problems}
setting = study.settings[params.setting]
if setting.scoring_processes > 1:
    config = Path(snakemake.log[0]).with_suffix(".json")
    with replacing(config) as partial:
        partial.write_text(json.dumps(snakemake.config))
    options = ["--config", str(config), "--log", snakemake.log[0], "--setting", params.setting]
    if seed is not None:  # of a run, not of the base model
        options += ["--method", method, "--seed", str(seed), "--steps", *map(str, params.steps)]
    processes, threads = setting.scoring_processes, setting.trainer.threads
    command = launch_command("aent", ["evaluate", *options], processes, threads=threads)
    subprocess.run(command, check=True)
else:
    evaluate_checkpoints(checkpoints, setting, problems, outputs.__getitem__)

run_file, uri = snakemake.input.get("run"), tracking_uri(study)
if run_file:  # Snakemake has accepted the training run, so that nothing will go on from its state
    RunFolder(Path(run_file).parent).discard_state()
run_id = json.loads(Path(run_file).read_text())["mlflow_run_id"] if run_file else None
if uri and (run_id or method == "base"):  # a run that MLflow missed is filled in at the end
    for path in outputs.values():
        if log_scores(uri, run_id, json.loads(path.read_text())) is None:
            break  # MLflow is gone: neither must the other scores wait for it
