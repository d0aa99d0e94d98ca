"""Pinning: the commits at which the hub's models and data sets stand now, asked for once."""

from __future__ import annotations

from pathlib import Path

from aent.config import Config, ConfigError
from aent.config.revisions import Repository, repositories, with_commits
from aent.files import replacing
from aent.hub import Kind, commit_of, explain

KINDS: dict[str, Kind] = {"problems": "dataset", "models": "model"}


def pin(config: Config, path: Path) -> dict[Repository, str]:
    """Write into a configuration file the commit of everything that it takes from the hub.

    Commits that stand there are asked for too, so that a wrong one is told here and not by a job.

    Args:
        config: what the file says.
        path: the file; it is replaced when all commits are known, and only if one is new.

    Returns:
        The commit of each repository.

    Raises:
        ConfigError: the hub does not give a commit, or the file cannot be edited; a line each.
    """
    commits: dict[Repository, str] = {}
    refused = []
    for found in repositories(config):
        kind = KINDS[found.part]
        try:
            commits[found] = commit_of(found.id, found.revision, kind)
        except OSError as error:
            refused.append(f"{found.key}: {explain(error, found.id, found.revision, kind)}")
    if refused:
        raise ConfigError("\n".join(refused))
    new = {found: commit for found, commit in commits.items() if found.revision != commit}
    if new:
        text = with_commits(path.read_text(), new)
        with replacing(path) as fresh:
            fresh.write_text(text)
    return commits
