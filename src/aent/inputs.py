"""Local inputs that a configuration names, looked at before anything runs."""

from __future__ import annotations

from aent.config import Config, ConfigError, PretrainedModel
from aent.config.data import FileProblems
from aent.config.setting import Prompt


def check_inputs(config: Config) -> None:
    """Read the local problem files and look into the local model directories.

    What lives on the hub is not looked at. Imports are late: without local inputs this is free.

    Raises:
        ConfigError: a file or directory will not do; one line each, with the key that names it.
    """
    found = [*_problem_files(config), *_model_directories(config)]
    if found:
        raise ConfigError("\n".join(found))


def _problem_files(config: Config) -> list[str]:
    files = {k: v for k, v in config.problems.items() if isinstance(v, FileProblems)}
    if not files:
        return []
    from aent.problems import ProblemError
    from aent.problems.prepare import complete
    from aent.problems.source import read_source

    found = []
    for name, source in files.items():
        try:
            complete(read_source(source), source)
        except ProblemError as error:
            found.append(f"problems.{name}.path: {error}")
    return found


def prompts_of(config: Config, model: str) -> list[Prompt]:
    """The prompts that settings write for a base model."""
    return [setting.prompt for setting in config.settings.values() if setting.model == model]


def _model_directories(config: Config) -> list[str]:
    models = {k: v for k, v in config.models.items() if isinstance(v, PretrainedModel)}
    found = []
    for name, model in models.items():
        if model.is_hub_id:
            continue
        from aent.models import ModelError, check_directory, check_tokenizer  # imports torch

        try:
            check_directory(model.path)
            check_tokenizer(model.path, model, prompts_of(config, name))
        except ModelError as error:
            found.append(f"models.{name}.path: {error}")
    return found
