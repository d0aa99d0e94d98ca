"""Pretrained base models: links to a local directory, or a snapshot from the hub."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from aent.config import PretrainedModel
from aent.models import check_directory

log = logging.getLogger(__name__)

# What the Auto classes open; weights in other formats only where there are no safetensors.
WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
OLD_WEIGHTS = ["pytorch_model*.bin"]


def fetch_model(model: PretrainedModel, output: Path) -> None:
    """Make `output` a directory that opens as the model.

    A local directory's files are linked, not copied.

    Raises:
        aent.models.ModelError: what is there is no model directory.
        huggingface_hub.errors.HfHubHTTPError, OSError: the hub does not give the model.
    """
    shutil.rmtree(output, ignore_errors=True)
    if model.is_hub_id:
        _download(model, output)
    else:
        source = Path(model.path).resolve()
        check_directory(source)
        output.mkdir(parents=True)
        for item in source.iterdir():
            (output / item.name).symlink_to(item)
        log.info("%s links to %s", output, source)
    check_directory(output)


def _download(model: PretrainedModel, output: Path) -> None:
    import huggingface_hub as hub

    files = hub.list_repo_files(model.path, revision=model.revision)
    has_safetensors = any(name.endswith(".safetensors") for name in files)
    wanted = WANTED if has_safetensors else WANTED + OLD_WEIGHTS
    hub.snapshot_download(
        model.path, revision=model.revision, local_dir=output, allow_patterns=wanted
    )
    shutil.rmtree(output / ".cache", ignore_errors=True)  # download times, which differ each time
    log.info("%s is %s at %s", output, model.path, model.revision)
