"""Write one page with the tables, the figures and the claims."""

from pathlib import Path

from aent.analysis.report import write_report
from aent.config import parse
from aent.logs import configure_logging

configure_logging(snakemake.log[0])
write_report(parse(snakemake.config), Path(snakemake.output[0]))
