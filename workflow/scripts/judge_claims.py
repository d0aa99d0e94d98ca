"""Judge the paper's claims by our runs."""

from pathlib import Path

import pandas as pd

from aent.analysis.claims import check_claims
from aent.analysis.findings import write_claims
from aent.analysis.scores import collect_scores, read_metrics
from aent.config import parse
from aent.logs import configure_logging

configure_logging(snakemake.log[0])
study = parse(snakemake.config)
scores = collect_scores(snakemake.input.scores)
metrics = read_metrics(study, study.claims_runs())
values = pd.read_parquet(snakemake.input.mdp[0]) if snakemake.input.mdp else None
claims = check_claims(study, scores, metrics, values)
write_claims(claims, Path(snakemake.output.csv).with_suffix(""))
