"""Simulate the synthetic decision problem of Figure 1."""

from aent.config import parse
from aent.logs import configure_logging
from aent.mdp import simulate

configure_logging(snakemake.log[0])
simulate(parse(snakemake.config).mdp).to_parquet(snakemake.output[0], index=False)
