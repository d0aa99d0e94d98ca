"""Pretrained base models: links to a local directory, or a snapshot from the hub."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

from aent.config import PretrainedModel
from aent.hub import explain, known_commit, reaching
from aent.models import ModelError, check_directory, name_pad_token

log = logging.getLogger(__name__)

# What the Auto classes open; weights as safetensors, because pickles run what they hold.
WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
CODE = ["*.py"]  # of models that the configuration trusts


def fetch_model(model: PretrainedModel, output: Path) -> str | None:
    """Make `output` a directory that opens as the model.

    A local directory's files are linked, not copied. Where the configuration names a pad token, the
    directory's tokenizer names it from then on.

    Returns:
        The hub's commit; None for a local directory.

    Raises:
        aent.models.ModelError: the hub does not give it, or what is there is no model directory.
    """
    commit = None
    shutil.rmtree(output, ignore_errors=True)
    if model.is_hub_id:
        commit = _download(model, output)
    else:
        source = Path(model.path).resolve()
        check_directory(source)
        output.mkdir(parents=True)
        for item in source.iterdir():
            (output / item.name).symlink_to(item)
        log.info("%s links to %s", output, source)
    check_directory(output)
    if model.pad_token is not None:
        name_pad_token(output, model.pad_token)
    return commit


def _download(model: PretrainedModel, output: Path) -> str:
    import huggingface_hub as hub

    wanted = WANTED + CODE if model.trust_remote_code else WANTED
    try:
        commit = known_commit(model.path, model.revision, "model")
        with reaching():
            hub.snapshot_download(
                model.path, revision=commit, local_dir=output, allow_patterns=wanted
            )
    except OSError as error:
        raise ModelError(explain(error, model.path, model.revision, "model")) from None
    shutil.rmtree(output / ".cache", ignore_errors=True)  # download times, which differ each time
    log.info("%s is %s at %s, commit %s", output, model.path, model.revision, commit)
    return commit
