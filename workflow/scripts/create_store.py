"""Create MLflow's store and its experiments: `create_store.py URI ARTIFACTS EXPERIMENT...`."""

import sys
from pathlib import Path

from aent.logs import configure_logging
from aent.tracking import create_store

configure_logging()
uri, artifacts, *experiments = sys.argv[1:]
create_store(uri, Path(artifacts), experiments)
