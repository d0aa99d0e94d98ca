"""Make MLflow hold what the files hold: runs, scores, tables and figures."""

import json
import logging
from pathlib import Path

from aent.config import parse
from aent.files import replacing
from aent.logs import configure_logging
from aent.tracking import log_artifacts, sync

configure_logging(snakemake.log[0])
uri, output = snakemake.params.uri, Path(snakemake.output[0])
done = sync(parse(snakemake.config))
made = {
    "tables": snakemake.input.tables,
    "figures": snakemake.input.figures,
    "claims": snakemake.input.claims,
    "report": [snakemake.input.report],
}
artifacts = {Path(path): kind for kind, paths in made.items() for path in paths}
done["tables and figures"] = 0 if log_artifacts(uri, artifacts) else None
missing = [name for name, filled in done.items() if filled is None]
if missing:
    raise SystemExit(f"MLflow ({uri}) lacks {', '.join(missing)}; see the warnings above")
logging.info("MLflow holds %d runs", len(snakemake.input.runs))
with replacing(output) as partial:
    partial.write_text(json.dumps({"uri": uri, "mirrored": sorted(done)}, indent=2) + "\n")
