"""Put a pretrained model in its place: links to a local directory, or a download from the hub."""

import json
from pathlib import Path

from aent.config import parse
from aent.fetch import fetch_model
from aent.files import replacing
from aent.inputs import prompts_of
from aent.logs import configure_logging
from aent.models import check_tokenizer

configure_logging(snakemake.log[0])
study, name = parse(snakemake.config), snakemake.wildcards.model
output = Path(snakemake.output.model)
model = study.models[name]
commit = fetch_model(model, output)
check_tokenizer(output, model, prompts_of(study, name))
with replacing(Path(snakemake.output.source)) as partial:
    partial.write_text(json.dumps({"commit": commit}, indent=2) + "\n")
