"""Write a table as csv, Markdown and LaTeX."""

from pathlib import Path

from aent.analysis.scores import collect_scores, read_metrics
from aent.analysis.tables import build_table, write_table
from aent.config import parse
from aent.logs import configure_logging

configure_logging(snakemake.log[0])
study = parse(snakemake.config)
definition = study.tables[snakemake.wildcards.table]
scores = collect_scores(snakemake.input.scores)
metrics = read_metrics(study, study.runs_of(definition))
table = build_table(study, definition, scores, metrics)
write_table(table, Path(snakemake.output.csv).with_suffix(""))
