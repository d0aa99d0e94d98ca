"""Train one run, or finish an interrupted one."""

import json
import os
from pathlib import Path

from aent.config import parse
from aent.files import replacing
from aent.launch import launch_command
from aent.logs import configure_logging
from aent.tracking import tracking_uri
from aent.trainer import train

configure_logging(snakemake.log[0])
study = parse(snakemake.config)
where = snakemake.wildcards
run = study.run(snakemake.params.setting, where.method, int(where.seed))
trainer = run.setting.trainer
if trainer.processes > 1:
    config = Path(snakemake.log[0]).with_suffix(".json")
    with replacing(config) as partial:
        partial.write_text(json.dumps(snakemake.config))
    options = ["--config", str(config), "--log", snakemake.log[0], "--keep-state"]
    options += ["--setting", run.setting_name, "--method", run.method_name, "--seed", str(run.seed)]
    command = launch_command(
        "aent", ["train", *options], trainer.processes, trainer.nodes, trainer.threads
    )
    os.execvp(command[0], command)  # in this process's place, so that signals reach the launcher
train(
    run,
    Path(snakemake.input.model),
    Path(snakemake.input.problems),
    Path(snakemake.output.metrics).parent,
    tracking_uri(study),
)
