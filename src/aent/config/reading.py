"""Configurations from YAML files and nested dictionaries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from aent.config.error import ConfigError, describe
from aent.config.reproduction import Config
from aent.config.size import size_problem


def load(path: Path | str) -> Config:
    """Read and check a YAML configuration file.

    Raises:
        ConfigError: the file is unreadable or wrong; the message names each key.
    """
    try:
        data = yaml.safe_load(Path(path).read_text())
    # PyYAML lets through what Python says of impossible dates, long numbers and deep nesting.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return parse(data, str(path))


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
