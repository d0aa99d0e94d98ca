"""`Config`: a whole reproduction, and the runs that it comes down to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from aent.config.base import Name, SafePath, Strict
from aent.config.data import Cleaning, Problems
from aent.config.error import ConfigError, describe
from aent.config.experiment import Claims, Figure, Mdp, Runs, Sweep, Table, Tracking
from aent.config.method import Method
from aent.config.model import Model, PretrainedModel, ScratchModel
from aent.config.names import naming_problems, unknown
from aent.config.nested import merge, put_at, value_at
from aent.config.plan import Assumptions
from aent.config.run import Run
from aent.config.setting import Setting


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
    """Assumptions of `aent plan`; of the results only the report shows them."""

    @model_validator(mode="after")
    def _names_resolve(self) -> Config:
        if problems := naming_problems(self):
            raise ValueError("\n".join(problems))
        for run in self.runs():  # resolves, and so validates, every method of every setting
            assert run.name
        return self

    def cleaning(self, name: str) -> Cleaning | None:
        """How a problem set is cleaned; None for one that is not."""
        return getattr(self.problems[name], "cleaning", None)

    def experiments(self) -> list[tuple[str, Runs]]:
        """Tables and figures by their keys."""
        tables = [(f"tables.{name}", table) for name, table in self.tables.items()]
        figures = [(f"figures.{name}", figure) for name, figure in self.figures.items()]
        return [*tables, *figures]

    def points_of(self, sweep: str, setting: str) -> dict[str, float | int]:
        """Methods of a sweep in a setting, in the sweep's order, with the value of each.

        The value that the base method has there anyway is the base method: its runs serve the
        sweep too.
        """
        return dict(self.sweep_points(sweep, setting))

    def sweep_points(self, sweep: str, setting: str) -> list[tuple[str, float | int]]:
        """As `points_of`, also where two values make one method."""
        base = self.sweeps[sweep].base
        own = value_at(self._composed(base, setting), self.sweeps[sweep].key)
        return [
            (base if value == own else f"{sweep}{value:g}", value)
            for value in self.sweeps[sweep].values
        ]

    def swept_methods(self, setting: str) -> dict[str, tuple[str, float | int]]:
        """Method names that sweeps generate in a setting -> (sweep, value)."""
        return {
            method: (sweep, value)
            for sweep in self.sweeps
            for method, value in self.points_of(sweep, setting).items()
            if method not in self.methods
        }

    def expand(self, methods: list[Name], setting: str) -> list[str]:
        """Method names with each sweep replaced by its methods there, without repeats."""
        names: list[str] = []
        for name in methods:
            names += self.points_of(name, setting) if name in self.sweeps else [name]
        return list(dict.fromkeys(names))

    def _composed(self, method: str, setting: str) -> dict[str, Any]:
        """A method of the configuration with the setting's changes, as plain data."""
        return merge(self.methods[method], self.settings[setting].methods.get(method, {}))

    def method(self, setting: str, name: str) -> Method:
        """The method as it holds in the setting: base, the setting's changes, the swept value.

        Raises:
            ConfigError: the result is not a valid method.
        """
        sweep, value = self.swept_methods(setting).get(name, (None, None))
        base = self.sweeps[sweep].base if sweep else name
        data = self._composed(base, setting)
        where = f"methods.{base} in settings.{setting}"
        if sweep:
            key = self.sweeps[sweep].key
            where = (
                f"sweeps.{sweep} (base {base}, key {key}, values {value:g}) in settings.{setting}"
            )
            data.pop("title", None)
            put_at(data, key, value, where)
        try:
            return Method.model_validate(data)
        except ValidationError as error:
            raise ConfigError(describe(error, where)) from None

    def run(self, setting: str, method: str, seed: int) -> Run:
        """One resolved run.

        Raises:
            ConfigError: there is no such setting or method, or the method is invalid there.
        """
        found = unknown("setting", [setting], self.settings)
        if not found:
            methods = {**self.methods, **self.swept_methods(setting)}
            found = unknown("method", [method], methods)
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
            for method in self.expand(experiment.methods, setting)
            for seed in experiment.seeds
        ]

    def runs(self) -> list[Run]:
        """All runs that tables, figures and claims need, each once."""
        runs = [run for _, experiment in self.experiments() for run in self.runs_of(experiment)]
        return list({run.name: run for run in [*runs, *self.claims_runs()]}.values())

    def used_models(self) -> list[str]:
        """Base models of the runs."""
        return list(dict.fromkeys(run.setting.model for run in self.runs()))

    def used_problems(self) -> list[str]:
        """Problem sets that the runs need: to train, to score, to warm up, to be compared with."""
        names: list[str] = []
        for run in self.runs():
            names += [run.setting.problems, *run.setting.evaluation.problem_sets]
            if isinstance(model := self.models[run.setting.model], ScratchModel):
                names.append(model.warm_start.problems)
        for name in dict.fromkeys(names):
            names += cleaning.unlike if (cleaning := self.cleaning(name)) else []
        return list(dict.fromkeys(names))

    def claims_runs(self) -> list[Run]:
        """The runs behind the claims sheet; none without one."""
        if (claims := self.claims) is None:
            return []
        return [
            self.run(setting, method, seed)
            for setting in claims.settings
            for method in self.expand(claims.methods_in(setting), setting)
            for seed in claims.seeds
        ]
