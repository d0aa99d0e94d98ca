"""Draw Figure 1."""

from pathlib import Path

import pandas as pd

from aent.analysis.figures import mdp_figure
from aent.analysis.style import save_figure
from aent.config import parse
from aent.logs import configure_logging

configure_logging(snakemake.log[0])
values = pd.read_parquet(snakemake.input.values)
save_figure(
    mdp_figure(values, parse(snakemake.config).mdp), Path(snakemake.output.svg).with_suffix("")
)
