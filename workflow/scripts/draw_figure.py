"""Draw a figure as SVG and PDF."""

from pathlib import Path

from aent.analysis.figures import build_figure
from aent.analysis.scores import collect_scores, read_metrics
from aent.analysis.style import save_figure
from aent.config import parse
from aent.logs import configure_logging

configure_logging(snakemake.log[0])
study = parse(snakemake.config)
definition = study.figures[snakemake.wildcards.figure]
scores = collect_scores(snakemake.input.scores)
metrics = read_metrics(study, study.runs_of(definition))
figure = build_figure(study, definition, scores, metrics)
save_figure(figure, Path(snakemake.output.svg).with_suffix(""))
