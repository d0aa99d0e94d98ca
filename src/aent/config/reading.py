"""Configurations from YAML files and nested dictionaries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from aent.config.error import ConfigError, describe
from aent.config.reproduction import Config
from aent.config.size import size_problem
from aent.config.source import read_source


def load(path: Path | str) -> Config:
    """Read and check a YAML configuration file.

    Raises:
        ConfigError: the file is unreadable or wrong; the message names each key.
    """
    return parse(read(path), str(path))


def read(path: Path | str) -> Any:
    """Read a YAML configuration file without a look at what it says.

    Raises:
        ConfigError: the file is unreadable, or a key stands twice in one place.
    """
    try:
        return read_source(path)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from None


def parse(data: Any, where: str = "config") -> Config:
    """Check a configuration given as nested dictionaries.

    Raises:
        ConfigError: as `load`.
    """
    if problem := size_problem(data):
        raise ConfigError(f"{where}: {problem}")
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise ConfigError(describe(error, where)) from None
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
