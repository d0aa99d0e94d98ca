"""Write a problem set in the record schema."""

import logging
from pathlib import Path

from aent.config import parse
from aent.logs import configure_logging
from aent.problems import load_problems, write_problems

configure_logging(snakemake.log[0])
source = parse(snakemake.config).problems[snakemake.wildcards.problems]
problems = load_problems(source)
write_problems(Path(snakemake.output[0]), problems)
logging.info("%d problems", len(problems))
