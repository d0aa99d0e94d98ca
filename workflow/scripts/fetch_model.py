"""Put a pretrained model in its place: links to a local directory, or a download from the hub."""

from pathlib import Path

from aent.config import parse
from aent.fetch import fetch_model
from aent.logs import configure_logging

configure_logging(snakemake.log[0])
model = parse(snakemake.config).models[snakemake.wildcards.model]
fetch_model(model, Path(snakemake.output.model))
