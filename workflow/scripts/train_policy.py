"""Train one run, or finish an interrupted one."""

from pathlib import Path

from aent.config import parse
from aent.logs import configure_logging
from aent.tracking import tracking_uri
from aent.trainer import train

configure_logging(snakemake.log[0])
study = parse(snakemake.config)
where = snakemake.wildcards
run = study.run(snakemake.params.setting, where.method, int(where.seed))
train(
    run,
    Path(snakemake.input.model),
    Path(snakemake.input.problems),
    Path(snakemake.output.metrics).parent,
    tracking_uri(study),
)
