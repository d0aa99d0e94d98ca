"""Revisions of models and data sets on the hub: which of them may move, and writing commits in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import yaml

from aent.config.data import HubProblems
from aent.config.error import ConfigError
from aent.config.model import PretrainedModel
from aent.config.reading import parse
from aent.config.reproduction import Config
from aent.hub import is_commit

_KEYS = {"problems": "id", "models": "path"}


@dataclass(frozen=True)
class Repository:
    """A repository on the hub that a configuration takes from."""

    part: Literal["problems", "models"]
    """Where it is named."""
    name: str
    """Its name there."""
    id: str
    """`owner/name` on the hub."""
    revision: str
    """Commit, tag or branch."""

    @property
    def key(self) -> str:
        """Of the configuration."""
        return f"{self.part}.{self.name}"

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit."""
        return is_commit(self.revision)


def repositories(config: Config) -> list[Repository]:
    """All that a configuration takes from the hub."""
    problems = [
        Repository("problems", name, source.id, source.revision)
        for name, source in config.problems.items()
        if isinstance(source, HubProblems)
    ]
    models = [
        Repository("models", name, model.path, model.revision)
        for name, model in config.models.items()
        if isinstance(model, PretrainedModel) and model.is_hub_id
    ]
    return [*problems, *models]


def moving(config: Config) -> list[str]:
    """A sentence for each repository that the runs need at a revision that may move."""
    used = {"problems": config.used_problems(), "models": config.used_models()}
    return [
        f"{found.key}: revision {found.revision!r} of {found.id} may be another one tomorrow; "
        "`aent pin --config FILE` asks the hub for its commit and writes it into the file"
        for found in repositories(config)
        if not found.pinned and found.name in used[found.part]
    ]


def with_commits(text: str, commits: dict[Repository, str]) -> str:
    """A configuration file's text with commits as revisions, and all else as it was.

    Args:
        text: YAML.
        commits: what to write for which repository.

    Raises:
        ConfigError: the file spells a source in a way that cannot be edited here.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    edits = {_edit(text, _below(root, found), found, commit) for found, commit in commits.items()}
    changed = text
    for start, end, written in sorted(edits, reverse=True):
        changed = changed[:start] + written + changed[end:]
    after = {found.key: found.revision for found in repositories(parse(yaml.safe_load(changed)))}
    lacking = {f.key: commit for f, commit in commits.items() if after.get(f.key) != commit}
    if lacking:
        raise ConfigError(f"write these below `revision` by hand: {lacking}")
    return changed


def _below(root: yaml.Node | None, found: Repository) -> yaml.MappingNode:
    node = root
    for key in (found.part, found.name):
        node = next((value for name, value in _items(node) if name.value == key), None)
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{found.key} is not spelled out in the file; write its revision by hand")
    return node


def _items(node: yaml.Node | None) -> list[tuple[yaml.Node, yaml.Node]]:
    return node.value if isinstance(node, yaml.MappingNode) else []


def _edit(
    text: str, source: yaml.MappingNode, found: Repository, commit: str
) -> tuple[int, int, str]:
    """First and last place of what is replaced in the text, and by what."""
    spelled = yaml.safe_dump(commit).splitlines()[0]  # in quotes where it would be a number
    keys = {key.value: (key, value) for key, value in _items(source)}
    if "revision" in keys:
        _, old = keys["revision"]
        return old.start_mark.index, old.end_mark.index, spelled
    if _KEYS[found.part] not in keys:
        raise ConfigError(f"{found.key} is not spelled out in the file; write its revision by hand")
    key, value = keys[_KEYS[found.part]]
    end = value.end_mark.index
    if source.flow_style:
        return end, end, f", revision: {spelled}"
    line = text.find("\n", end)
    end = len(text) if line < 0 else line
    return end, end, f"\n{' ' * key.start_mark.column}revision: {spelled}"
