"""Collect the scores of all checkpoints in one table."""

from aent.analysis.scores import collect_scores
from aent.logs import configure_logging

configure_logging(snakemake.log[0])
collect_scores(snakemake.input.scores).to_parquet(snakemake.output[0], index=False)
