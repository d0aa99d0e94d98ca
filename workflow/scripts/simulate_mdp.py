"""Simulate the synthetic decision problem of Figure 1."""

from pathlib import Path

from aent.config import parse
from aent.files import replacing
from aent.logs import configure_logging
from aent.mdp import simulate

configure_logging(snakemake.log[0])
values = simulate(parse(snakemake.config).mdp)
with replacing(Path(snakemake.output[0])) as partial:
    values.to_parquet(partial, index=False)
