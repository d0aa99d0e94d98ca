"""Where a result comes from: configuration, code, versions, machine and time."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from aent.config import Run

PACKAGES = ("aent", "torch", "transformers", "lighteval", "mlflow", "math-verify", "snakemake")


def describe_run(run: Run, started: float) -> dict[str, Any]:
    """What run.json says of a run's configuration, code, machine and time.

    Args:
        run: the resolved run.
        started: when this process started training, seconds since the epoch.
    """
    import torch  # late: those who only ask for the revision may lack it, or the time for it

    finished = time.time()
    versions: dict[str, str | None] = {name: _version(name) for name in PACKAGES}
    return {
        "run": run.model_dump(mode="json"),
        "hash": run.hash,
        "git_revision": git_revision(),
        "versions": versions | {"python": platform.python_version()},
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "started": _iso(started),
        "finished": _iso(finished),
        "seconds": round(finished - started, 3),
    }


def digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files with their names."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        total.update(file.name.encode())
        with file.open("rb") as content:
            total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()


def hub_commits(model: Path, problems: Path) -> dict[str, str | None]:
    """Commits on the hub of a run's model and problems, as stands beside them since the fetch.

    None for what was made here or comes from a local file.
    """
    found: dict[str, str | None] = {"model": None, "problems": None}
    for name, card in (
        ("model", model.with_name(f"{model.name}.json")),
        ("problems", problems.with_name(f"{problems.stem}.json")),
    ):
        if card.is_file():
            data = json.loads(card.read_text())
            found[name] = data.get("source", data).get("commit")
    return found


def git_revision() -> str | None:
    """Commit of the code, with `-dirty` where it was changed; None outside a checkout."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def hardware() -> dict[str, Any]:
    """Processor, cores and GPUs of this machine."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"machine": platform.machine(), "cpu": _cpu(), "cores": os.cpu_count(), "gpus": gpus}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
