"""Judge the paper's claims by our runs."""

from pathlib import Path

from snakemake.script import snakemake

from aent.analysis.claims import judge, write_claims
from aent.analysis.scores import collect_scores, read_metrics
from aent.config import parse
from aent.logs import configure_logging

configure_logging(snakemake.log[0])
study = parse(snakemake.config)
scores = collect_scores(snakemake.input.scores)
metrics = read_metrics(study, study.claims_runs())
write_claims(judge(study, scores, metrics), Path(snakemake.output.csv).with_suffix(""))
