"""Score the checkpoints of a run, or a base model, on the setting's benchmarks."""

import json
from pathlib import Path


from aent.config import parse
from aent.evaluation import evaluate_checkpoint
from aent.logs import configure_logging
from aent.tracking import log_scores, tracking_uri

configure_logging(snakemake.log[0])
study = parse(snakemake.config)
