"""Make MLflow hold what the files hold: runs, scores, tables and figures."""

import json
import logging
from pathlib import Path

from aent.logs import configure_logging
from aent.tracking import create_store, log_artifacts, log_scores, mirror_run

configure_logging(snakemake.log[0])
uri, output = snakemake.params.uri, Path(snakemake.output[0])
create_store(uri, output.parent / "artifacts")
done = {}
for path in map(Path, snakemake.input.runs):
    done[str(path.parent)] = mirror_run(uri, path.parent)
for path in map(Path, snakemake.input.scores):
    score = json.loads(path.read_text())
    if score["seed"] is None:
        done[str(path)] = log_scores(uri, None, score)
made = {
    "tables": snakemake.input.tables,
    "figures": snakemake.input.figures,
    "claims": snakemake.input.claims,
    "report": [snakemake.input.report],
}
artifacts = {Path(path): kind for kind, paths in made.items() for path in paths}
done["tables and figures"] = log_artifacts(uri, artifacts)
missing = [name for name, complete in done.items() if not complete]
if missing:
    raise SystemExit(f"MLflow ({uri}) lacks {', '.join(missing)}; see the warnings above")
logging.info("MLflow holds %d runs", len(snakemake.input.runs))
output.write_text(json.dumps({"uri": uri, "mirrored": sorted(done)}, indent=2) + "\n")
