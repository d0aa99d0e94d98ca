"""Names that a configuration gives and uses: each is known, and no two things have one path."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aent.config.experiment import SweepFigure
from aent.config.model import ScratchModel

if TYPE_CHECKING:
    from aent.config.reproduction import Config

# Folders under results/ that a setting's name must not shadow.
FOLDERS = {"problems", "models", "mdp", "tables", "figures", "mlflow", "logs", "benchmarks"}
# Files there, and MLflow's experiment of the tables and figures.
RESERVED = FOLDERS | {"claims.csv", "claims.md", "report.html", "scores.parquet", "summary"}
MOST_RUNS = 10_000  # of a table, a figure or the claims


def naming_problems(config: Config) -> list[str]:
    """What is wrong with a configuration's names, a line each; empty when nothing is."""
    found = [
        *_cleaning_problems(config),
        *_setting_problems(config),
        *_path_problems(config),
    ]
    # What follows relies on those.
    return found or _experiment_problems(config) or _size_problems(config)


def unknown(key: str, names: list[str], allowed: Any) -> list[str]:
    """A line for each name below a key that is not among the allowed ones."""
    missing = [name for name in names if name not in allowed]
    return [f"{key}: unknown {name!r}; allowed are {sorted(allowed)}" for name in missing]


def _cleaning_problems(config: Config) -> list[str]:
    found = []
    for name in config.problems:
        others = cleaning.unlike if (cleaning := config.cleaning(name)) else []
        key = f"problems.{name}.cleaning.unlike"
        found += unknown(key, others, [other for other in config.problems if other != name])
        found += [
            f"{key}: {other!r} is itself compared with other sets; name one that is not"
            for other in others
            if other != name and other in config.problems
            if (theirs := config.cleaning(other)) and theirs.unlike
        ]
    return found


def _setting_problems(config: Config) -> list[str]:
    found = []
    for name, model in config.models.items():
        if isinstance(model, ScratchModel):
            key = f"models.{name}.warm_start.problems"
            found += unknown(key, [model.warm_start.problems], config.problems)
    for name, setting in config.settings.items():
        key = f"settings.{name}"
        if name in RESERVED:
            found.append(f"{key}: the name is reserved; reserved are {sorted(RESERVED)}")
        found += unknown(f"{key}.model", [setting.model], config.models)
        found += unknown(f"{key}.problems", [setting.problems], config.problems)
        for part in ("benchmarks", "validation"):
            names = getattr(setting.evaluation, part)
            found += unknown(f"{key}.evaluation.{part}", names, config.problems)
        found += unknown(f"{key}.methods", list(setting.methods), config.methods)
    for name, sweep in config.sweeps.items():
        found += unknown(f"sweeps.{name}.base", [sweep.base], config.methods)
        if name in config.methods:
            found.append(f"sweeps.{name}: a method has the same name")
    return found


def _path_problems(config: Config) -> list[str]:
    """Names that are taken, or would give two things one path."""
    found = []
    if "base" in config.methods:
        found.append("methods.base: the name stands for the base model")
    if config.mdp and "figure1" in config.figures:
        found.append("figures.figure1: mdp draws a figure of this name")
    for name in config.models:
        if name.removesuffix(".json") != name and name.removesuffix(".json") in config.models:
            found.append(f"models.{name}: the metrics of another model have this path")
    if any(sweep.base not in config.methods for sweep in config.sweeps.values()):
        return found
    for setting in config.settings:
        found += _sweep_problems(config, setting)
    return list(dict.fromkeys(found))  # what is wrong in several settings is said once


def _sweep_problems(config: Config, setting: str) -> list[str]:
    """Methods that sweeps make in a setting, and whose names are taken or no names."""
    found = []
    owners: dict[str, str] = {}
    for sweep, base in ((name, sweep.base) for name, sweep in config.sweeps.items()):
        points = config.sweep_points(sweep, setting)
        for method, value in points:
            key = f"sweeps.{sweep}.values: {value!r} makes the method {method!r:.100}, "
            if len(method) > 64 or "+" in method:
                found.append(f"{key}which is too long or not of A-Z a-z 0-9 . _ -")
            if method in config.methods and method != base:
                found.append(f"{key}which stands below methods")
            if (owner := owners.setdefault(method, sweep)) != sweep and method != base:
                found.append(f"{key}as does {owner}")
        names = [method for method, _ in points]
        for method in sorted({name for name in names if names.count(name) > 1}):
            found.append(f"sweeps.{sweep}.values: two values make the method {method!r}")
    return found


def _size_problems(config: Config) -> list[str]:
    counts = {
        key: sum(len(config.expand(runs.methods, s)) for s in runs.settings) * len(runs.seeds)
        for key, runs in config.experiments()
    }
    if claims := config.claims:
        methods = sum(len(config.expand(claims.methods_in(s), s)) for s in claims.settings)
        counts["claims"] = methods * len(claims.seeds)
    return [
        f"{key}: needs {count} runs; at most {MOST_RUNS} are allowed"
        for key, count in counts.items()
        if count > MOST_RUNS
    ]


def _experiment_problems(config: Config) -> list[str]:
    found = []
    swept = {setting: config.swept_methods(setting) for setting in config.settings}
    generated = {name: sweep for made in swept.values() for name, (sweep, _) in made.items()}
    allowed = {**config.methods, **config.sweeps, **generated}
    for key, runs in config.experiments():
        found += unknown(f"{key}.settings", runs.settings, config.settings)
        found += unknown(f"{key}.methods", runs.methods, allowed)
        found += [
            f"{key}.methods: {name!r} is {config.sweeps[generated[name]].base!r} itself in "
            f"settings.{setting}; name that, or the sweep {generated[name]!r}"
            for setting in runs.settings
            for name in runs.methods
            if name in generated and setting in swept and name not in swept[setting]
        ]
        if isinstance(runs, SweepFigure):
            found += unknown(f"{key}.sweep", [runs.sweep], set(config.sweeps) & set(runs.methods))
        if (baseline := getattr(runs, "baseline", None)) is not None:
            found += unknown(f"{key}.baseline", [baseline], runs.methods)
    if config.claims:
        found += unknown("claims.settings", config.claims.settings, config.settings)
        for part in ("baseline", "plain", "proposed"):
            found += unknown(f"claims.{part}", [getattr(config.claims, part)], config.methods)
        if config.claims.sweep is not None:
            found += unknown("claims.sweep", [config.claims.sweep], config.sweeps)
    return found
