"""Configuration: typed once, checked as a whole before anything runs.

`Config` describes one reproduction. `load` reads it from YAML and reports every problem with the
key's path, what was given and what is allowed. `Run` is one resolved training run.
"""

from aent.config.data import Problems, SyntheticProblems
from aent.config.error import ConfigError, describe
from aent.config.method import Method
from aent.config.model import Model, PretrainedModel, ScratchModel
from aent.config.reading import load, parse, read
from aent.config.reproduction import Config
from aent.config.run import Run
from aent.config.setting import Setting

__all__ = [
    "Config",
    "ConfigError",
    "Method",
    "Model",
    "PretrainedModel",
    "Problems",
    "Run",
    "ScratchModel",
    "Setting",
    "SyntheticProblems",
    "describe",
    "load",
    "parse",
    "read",
]
