"""Configuration: typed once, checked as a whole before anything runs.

`Config` describes one reproduction. `load` reads it from YAML and reports every problem with the
key's path, what was given and what is allowed. `Run` is one resolved training run.
"""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from aent.config.base import Name, SafePath, Strict
from aent.config.data import Cleaning, Problems, SyntheticProblems
from aent.config.experiment import Claims, Figure, Mdp, Runs, Sweep, SweepFigure, Table, Tracking
from aent.config.method import Method
from aent.config.model import Model, PretrainedModel, ScratchModel
from aent.config.plan import Assumptions
from aent.config.setting import Setting
from aent.config.size import printable, size_problem
from aent.config.source import read_source
from aent.logs import discreet

# Folders under results/ that a setting's name must not shadow.
FOLDERS = {"problems", "models", "mdp", "tables", "figures", "mlflow", "logs", "benchmarks"}
# Files there, and MLflow's experiment of the tables and figures.
RESERVED = FOLDERS | {"claims.csv", "claims.md", "report.html", "scores.parquet", "summary"}

# Keys of a setting's trainer that do not change what is learned.
UNTRAINED_KEYS = {
    *("memory_mb", "runtime_minutes", "state_every"),
    *("gpus", "nodes", "strategy", "compile"),
}


MOST_RUNS = 10_000  # of a table, a figure or the claims


class ConfigError(ValueError):
    """The configuration is wrong; the message names each key."""


class Run(Strict):
    """One training run with everything it depends on."""

    name: str
    """`setting/method/seed`, the folder below results/."""
    setting_name: Name
    method_name: Name
    seed: int
    setting: Setting
    method: Method
    trust_remote_code: bool = False
    """Run the Python code that comes with the base model."""

    @property
    def recipe(self) -> dict[str, Any]:
        """All that the training's result depends on beside its input files.

        Left out are names, titles, how checkpoints are scored, and what only the scheduler, the
        frequency of saved states or the division among processes cares about: changing those
        trains nothing again, and an interrupted run goes on with other processes.
        """
        setting = self.setting.model_dump(
            mode="json", exclude={"title": True, "evaluation": True, "trainer": UNTRAINED_KEYS}
        )
        method = self.method.model_dump(mode="json", exclude={"title"})
        return {"setting": setting, "method": method, "seed": self.seed}

    @property
    def hash(self) -> str:
        """Twelve hex digits of the recipe: equal hashes, equal training."""
        text = json.dumps(self.recipe, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class Config(Strict):
    """A whole reproduction: problems, models, settings, methods, and what to draw from them."""

    results: SafePath = Path("results")
    """Folder of everything that is produced."""
    problems: dict[Name, Problems] = Field(min_length=1)
    """Problem sets by name, for training, validation and test."""
    models: dict[Name, Model] = Field(min_length=1)
    """Base models by name."""
    settings: dict[Name, Setting] = Field(min_length=1)
    """Settings by name."""
    methods: dict[Name, dict[str, Any]] = Field(min_length=1)
    """Methods by name."""
    sweeps: dict[Name, Sweep] = {}
    """Sweeps by name."""
    tables: dict[Name, Table] = {}
    """Tables by name."""
    figures: dict[Name, Figure] = {}
    """Figures by name."""
    claims: Claims | None = None
    """The claims sheet; none when absent."""
    mdp: Mdp | None = None
    """The decision problem of Figure 1; none when absent."""
    tracking: Tracking = Tracking()
    """MLflow."""
    plan: Assumptions = Assumptions()
    """Assumptions of `aent plan`; no result depends on them."""

    @model_validator(mode="after")
    def _names_resolve(self) -> Config:
        problems = [
            *self._cleaning_problems(),
            *self._setting_problems(),
            *self._name_problems(),
        ]
        # What follows relies on those.
        problems = problems or self._experiment_problems() or self._size_problems()
        if problems:
            raise ValueError("\n".join(problems))
        for run in self.runs():  # resolves, and so validates, every method of every setting
            assert run.name
        return self

    def cleaning(self, name: str) -> Cleaning | None:
        """How a problem set is cleaned; None for one that is not."""
        return getattr(self.problems[name], "cleaning", None)

    def _cleaning_problems(self) -> list[str]:
        found = []
        for name in self.problems:
            others = cleaning.unlike if (cleaning := self.cleaning(name)) else []
            key = f"problems.{name}.cleaning.unlike"
            found += _known(key, others, [other for other in self.problems if other != name])
            found += [
                f"{key}: {other!r} is itself compared with other sets; name one that is not"
                for other in others
                if other != name and other in self.problems
                if (theirs := self.cleaning(other)) and theirs.unlike
            ]
        return found

    def _setting_problems(self) -> list[str]:
        found = []
        for name, model in self.models.items():
            if isinstance(model, ScratchModel):
                key = f"models.{name}.warm_start.problems"
                found += _known(key, [model.warm_start.problems], self.problems)
        for name, setting in self.settings.items():
            key = f"settings.{name}"
            if name in RESERVED:
                found.append(f"{key}: the name is reserved; reserved are {sorted(RESERVED)}")
            found += _known(f"{key}.model", [setting.model], self.models)
            found += _known(f"{key}.problems", [setting.problems], self.problems)
            for part in ("benchmarks", "validation"):
                names = getattr(setting.evaluation, part)
                found += _known(f"{key}.evaluation.{part}", names, self.problems)
            found += _known(f"{key}.methods", list(setting.methods), self.methods)
        for name, sweep in self.sweeps.items():
            found += _known(f"sweeps.{name}.base", [sweep.base], self.methods)
            if name in self.methods:
                found.append(f"sweeps.{name}: a method has the same name")
        return found

    def _name_problems(self) -> list[str]:
        """Names that are taken, or would give two things one path."""
        found = []
        if "base" in self.methods:
            found.append("methods.base: the name stands for the base model")
        if self.mdp and "figure1" in self.figures:
            found.append("figures.figure1: mdp draws a figure of this name")
        for name in self.models:
            if name.removesuffix(".json") != name and name.removesuffix(".json") in self.models:
                found.append(f"models.{name}: the metrics of another model have this path")
        if any(sweep.base not in self.methods for sweep in self.sweeps.values()):
            return found
        owners: dict[str, str] = {}
        for sweep, base in ((name, sweep.base) for name, sweep in self.sweeps.items()):
            for method, value in self._points(sweep):
                key = f"sweeps.{sweep}.values: {value!r} makes the method {method!r:.100}, "
                if len(method) > 64 or "+" in method:
                    found.append(f"{key}which is too long or not of A-Z a-z 0-9 . _ -")
                if method in self.methods and method != base:
                    found.append(f"{key}which stands below methods")
                if (owner := owners.setdefault(method, sweep)) != sweep and method != base:
                    found.append(f"{key}as does {owner}")
            names = [method for method, _ in self._points(sweep)]
            for method in {name for name in names if names.count(name) > 1}:
                found.append(f"sweeps.{sweep}.values: two values make the method {method!r}")
        return found

    def _size_problems(self) -> list[str]:
        counts = {
            key: len(runs.settings) * len(self.expand(runs.methods)) * len(runs.seeds)
            for key, runs in self._experiments()
        }
        if self.claims:
            points = len(self.expand([self.claims.sweep])) + 3
            counts["claims"] = len(self.claims.settings) * points * len(self.claims.seeds)
        return [
            f"{key}: needs {count} runs; at most {MOST_RUNS} are allowed"
            for key, count in counts.items()
            if count > MOST_RUNS
        ]

    def _experiment_problems(self) -> list[str]:
        found = []
        allowed = {**self.methods, **self.sweeps, **dict.fromkeys(self.swept_methods())}
        for key, runs in self._experiments():
            found += _known(f"{key}.settings", runs.settings, self.settings)
            found += _known(f"{key}.methods", runs.methods, allowed)
            if isinstance(runs, SweepFigure):
                found += _known(f"{key}.sweep", [runs.sweep], set(self.sweeps) & set(runs.methods))
            if (baseline := getattr(runs, "baseline", None)) is not None:
                found += _known(f"{key}.baseline", [baseline], runs.methods)
        if self.claims:
            found += _known("claims.settings", self.claims.settings, self.settings)
            for part in ("baseline", "plain", "proposed"):
                found += _known(f"claims.{part}", [getattr(self.claims, part)], self.methods)
            found += _known("claims.sweep", [self.claims.sweep], self.sweeps)
        return found

    def _experiments(self) -> list[tuple[str, Runs]]:
        tables = [(f"tables.{name}", table) for name, table in self.tables.items()]
        figures = [(f"figures.{name}", figure) for name, figure in self.figures.items()]
        return [*tables, *figures]

    def points_of(self, sweep: str) -> dict[str, float | int]:
        """Methods of a sweep, in its order, with the value of each.

        The value that the base method has in every setting anyway is the base method: its runs
        serve the sweep too.
        """
        return dict(self._points(sweep))

    def _points(self, sweep: str) -> list[tuple[str, float | int]]:
        base = self.sweeps[sweep].base
        variants = [self.methods[base]] + [
            _merge(self.methods[base], setting.methods.get(base, {}))
            for setting in self.settings.values()
        ]
        held = [_get(variant, self.sweeps[sweep].key) for variant in variants]
        return [
            (base if all(own == value for own in held) else f"{sweep}{value:g}", value)
            for value in self.sweeps[sweep].values
        ]

    def swept_methods(self) -> dict[str, tuple[str, float | int]]:
        """Generated method names -> (sweep, value)."""
        return {
            method: (sweep, value)
            for sweep in self.sweeps
            for method, value in self.points_of(sweep).items()
            if method not in self.methods
        }

    def expand(self, methods: list[Name]) -> list[str]:
        """Method names with each sweep replaced by its methods, without repeats."""
        names: list[str] = []
        for name in methods:
            names += self.points_of(name) if name in self.sweeps else [name]
        return list(dict.fromkeys(names))

    def method(self, setting: str, name: str) -> Method:
        """The method as it holds in the setting: base, the setting's changes, the swept value.

        Raises:
            ConfigError: the result is not a valid method.
        """
        sweep, value = self.swept_methods().get(name, (None, None))
        base = self.sweeps[sweep].base if sweep else name
        data = _merge(self.methods[base], self.settings[setting].methods.get(base, {}))
        where = f"methods.{base} in settings.{setting}"
        if sweep:
            where = f"sweeps.{sweep} (value {value:g}) in settings.{setting}"
            data.pop("title", None)
            _set(data, self.sweeps[sweep].key, value, where)
        try:
            return Method.model_validate(data)
        except ValidationError as error:
            raise ConfigError(describe(error, where)) from None

    def run(self, setting: str, method: str, seed: int) -> Run:
        """One resolved run.

        Raises:
            ConfigError: there is no such setting or method, or the method is invalid there.
        """
        found = _known("setting", [setting], self.settings)
        found += _known("method", [method], {**self.methods, **dict.fromkeys(self.swept_methods())})
        if found:
            raise ConfigError("\n".join(found))
        return Run(
            name=f"{setting}/{method}/seed{seed}",
            setting_name=setting,
            method_name=method,
            seed=seed,
            setting=self.settings[setting].model_copy(update={"methods": {}}),
            method=self.method(setting, method),
            trust_remote_code=self.trusts(setting),
        )

    def trusts(self, setting: str) -> bool:
        """Whether the Python code that comes with the setting's base model may be run."""
        model = self.models[self.settings[setting].model]
        return isinstance(model, PretrainedModel) and model.trust_remote_code

    def runs_of(self, experiment: Runs) -> list[Run]:
        """The runs an experiment rests on."""
        return [
            self.run(setting, method, seed)
            for setting in experiment.settings
            for method in self.expand(experiment.methods)
            for seed in experiment.seeds
        ]

    def runs(self) -> list[Run]:
        """All runs that tables, figures and claims need, each once."""
        runs = [run for _, experiment in self._experiments() for run in self.runs_of(experiment)]
        return list({run.name: run for run in [*runs, *self.claims_runs()]}.values())

    def used_models(self) -> list[str]:
        """Base models of the runs."""
        return list(dict.fromkeys(run.setting.model for run in self.runs()))

    def used_problems(self) -> list[str]:
        """Problem sets that the runs need: to train, to score, to warm up, to be compared with."""
        names: list[str] = []
        for run in self.runs():
            evaluation = run.setting.evaluation
            names += [run.setting.problems, *evaluation.benchmarks, *evaluation.validation]
            if isinstance(model := self.models[run.setting.model], ScratchModel):
                names.append(model.warm_start.problems)
        for name in dict.fromkeys(names):
            names += cleaning.unlike if (cleaning := self.cleaning(name)) else []
        return list(dict.fromkeys(names))

    def claims_runs(self) -> list[Run]:
        """The runs behind the claims sheet; none without one."""
        if (c := self.claims) is None:
            return []
        methods = self.expand([c.baseline, c.plain, c.proposed, c.sweep])
        return [self.run(s, m, k) for s in c.settings for m in methods for k in c.seeds]


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


def describe(error: ValidationError, where: str) -> str:
    """A validation error as one line a problem: key, what is allowed, what was given."""
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join(printable(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        given = problem["input"]
        shown = "" if problem["type"] == "missing" or not key else f" (given: {given!r:.200})"
        lines.append(f"{where}: {key + ': ' if key else ''}{message}{shown}")
    return discreet("\n".join(lines))  # a URI's password is refused, and not repeated


def _known(key: str, names: list[str], allowed: Any) -> list[str]:
    missing = [name for name in names if name not in allowed]
    return [f"{key}: unknown {name!r}; allowed are {sorted(allowed)}" for name in missing]


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A deep copy of `base` with `changes` laid over it; a changed `kind` replaces the whole."""
    merged = copy.deepcopy(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = copy.deepcopy(value)
        if isinstance(old, dict) and isinstance(value, dict):
            kind = old.get("kind")
            if value.get("kind", kind) == kind:
                merged[key] = _merge(old, value)
    return merged


def _get(data: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        if not isinstance(data, dict) or part not in data:
            return None
        data = data[part]
    return data


def _set(data: dict[str, Any], key: str, value: Any, where: str) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(data.get(parent), dict):
            raise ConfigError(f"{where}: the method has no {parent!r} on the way to {key!r}")
        data = data[parent]
    data[last] = value


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
