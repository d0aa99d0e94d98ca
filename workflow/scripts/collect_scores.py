"""Collect the scores of all checkpoints in one table."""

from pathlib import Path

from aent.analysis.scores import collect_scores
from aent.files import replacing
from aent.logs import configure_logging

configure_logging(snakemake.log[0])
scores = collect_scores(snakemake.input.scores)
with replacing(Path(snakemake.output[0])) as partial:
    scores.to_parquet(partial, index=False)
