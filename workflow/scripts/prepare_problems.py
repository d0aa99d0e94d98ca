"""Write a problem set in the record schema, and its data card."""

import json
import logging
from pathlib import Path

from aent.config import parse
from aent.files import replacing
from aent.logs import configure_logging
from aent.problems import prepare_problems, read_problems, write_problems
from aent.problems.card import describe_problems

configure_logging(snakemake.log[0])
source = parse(snakemake.config).problems[snakemake.wildcards.problems]
others = {Path(path).stem: read_problems(Path(path)) for path in snakemake.input}
prepared = prepare_problems(source, others, snakemake.threads)
write_problems(Path(snakemake.output.problems), prepared.problems)
card = describe_problems(source, prepared)
with replacing(Path(snakemake.output.card)) as partial:
    partial.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n")
for step in prepared.steps:
    logging.info("%s: %d left, %d dropped", step.name, step.left, step.dropped)
