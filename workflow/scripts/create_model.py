"""Build a base model from scratch and warm it up on worked solutions."""

import json
import logging
from pathlib import Path

from aent.config import parse
from aent.files import replacing
from aent.logs import configure_logging
from aent.pretrain import warm_start
from aent.problems import read_problems

configure_logging(snakemake.log[0])
model = parse(snakemake.config).models[snakemake.wildcards.model]

problems = read_problems(Path(snakemake.input.problems[0]))
metrics = warm_start(model, problems, Path(snakemake.output.model))
logging.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
with replacing(Path(snakemake.output.metrics)) as partial:
    partial.write_text(json.dumps(metrics, indent=2) + "\n")
