"""One self-contained HTML page: what was run, claims, tables, figures, data and models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel

from aent.analysis.cards import card_table
from aent.analysis.scores import read_metrics, setting_title, title
from aent.analysis.tables import Table, build_table
from aent.config import Config, PretrainedModel, ScratchModel
from aent.config.data import FileProblems, HubProblems, SyntheticProblems
from aent.files import replacing
from aent.plan import PlanError, make_plan, notes, plan_table

MDP_FIGURE = "figure1"
MDP_CAPTION = (
    "Synthetic decision problem: expected reward while learning, by number of optimal actions, and "
    "at the end, by strength of the regularisation."
)


def render_report(
    config: Config,
    *,
    tables: Mapping[str, Table],
    figures: Mapping[str, str],
    claims: pd.DataFrame | None,
    models: Mapping[str, Mapping[str, Any]],
    cards: Mapping[str, Mapping[str, Any]],
    runs: list[dict[str, Any]],
) -> str:
    """The report as one HTML page without external resources.

    Args:
        config: the configuration.
        tables: by name.
        figures: SVG texts by name.
        claims: as `check_claims` gives them, or None.
        models: warm-start metrics of models built from scratch, commits of fetched ones, by name.
        cards: data cards, by problem set.
        runs: what each run's run.json holds.
    """
    drawn = [(name, _caption(config, name), inline_svg(svg, name)) for name, svg in figures.items()]
    environment = Environment(
        loader=PackageLoader("aent", "analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        tiles=_tiles(runs, claims),
        settings=_settings(config, runs),
        methods=_methods(config),
        provenance=_provenance(runs),
        claims=None if claims is None else _by_setting(claims),
        tables=list(tables.items()),
        figures=drawn,
        problems=[_problem_card(config, name) for name in config.problems],
        cards=card_table(config, cards),
        plan=_plan(config),
        models=[_model_card(config, name, models.get(name, {})) for name in config.models],
    )


def write_report(config: Config, path: Path | str) -> None:
    """Read a finished reproduction below `config.results` and write its report.

    Raises:
        OSError: a table's data, a figure or the claims are not there.
        aent.files.StorageError: the disk is full or gone.
        MissingDataError: scores or metrics of a run are missing.
    """
    results = config.results
    scores = pd.read_parquet(results / "scores.parquet")
    tables = {
        name: build_table(config, table, scores, read_metrics(config, config.runs_of(table)))
        for name, table in config.tables.items()
    }
    names = [*([MDP_FIGURE] if config.mdp else []), *config.figures]
    figures = {name: (results / "figures" / f"{name}.svg").read_text() for name in names}
    claims = pd.read_csv(results / "claims.csv") if config.claims else None
    models = {n: _read_json(results / "models" / f"{n}.json") for n in config.used_models()}
    cards = {n: _read_json(results / "problems" / f"{n}.json") for n in config.used_problems()}
    runs = [_read_json(results / run.name / "run.json") for run in config.runs()]
    text = render_report(
        config,
        tables=tables,
        figures=figures,
        claims=claims,
        models=models,
        cards=cards,
        runs=runs,
    )
    with replacing(Path(path)) as partial:
        partial.write_text(text, encoding="utf-8")


def inline_svg(svg: str, prefix: str) -> str:
    """An SVG file's text to put into HTML: no prolog, and ids that no other figure has."""
    text = svg[svg.index("<svg") :]
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r"url\(#", f"url(#{prefix}-", text)
    return re.sub(r'href="#', f'href="#{prefix}-', text)


def _tiles(runs: list[dict[str, Any]], claims: pd.DataFrame | None) -> list[tuple[str, str]]:
    hours = sum(run["seconds"] for run in runs) / 3600
    tiles = [
        ("training runs", str(len(runs))),
        ("training time, all runs together", _duration(hours)),
    ]
    if claims is not None:
        counts = claims["verdict"].value_counts()
        tiles += [(f"claims {verdict}", str(count)) for verdict, count in counts.items()]
    return tiles


def _settings(config: Config, runs: list[dict[str, Any]]) -> dict[str, Any]:
    columns = ["Setting", "Base model", "Training problems", "Steps", "Prompts x samples a step"]
    columns += ["Optimiser", "Benchmarks", "Runs", "Training time"]
    rows = []
    for name, setting in config.settings.items():
        own = [run for run in runs if run["run"]["setting_name"] == name]
        trainer, evaluation = setting.trainer, setting.evaluation
        benchmarks = [config.problems[b].title or b for b in evaluation.benchmarks]
        rows.append(
            [
                setting_title(config, name),
                setting.model,
                setting.problems,
                trainer.steps,
                f"{trainer.prompts} x {trainer.samples}, {trainer.minibatches} minibatches",
                f"AdamW, learning rate {trainer.learning_rate:g}",
                f"{', '.join(benchmarks)}; {evaluation.samples} samples a problem",
                len(own),
                _duration(sum(run["seconds"] for run in own) / 3600),
            ]
        )
    return {"columns": columns, "rows": rows}


def _methods(config: Config) -> dict[str, Any]:
    rows = []
    for setting in config.settings:
        used = {run.method_name: run for run in config.runs() if run.setting_name == setting}
        for name, run in used.items():
            method = run.method
            term = method.entropy
            entropy = [_spell(term.space), _spell(term.coefficient)] if term else ["none", ""]
            estimator = [_spell(method.advantage), _spell(method.surrogate)]
            names = [setting_title(config, setting), title(config, setting, name)]
            rows.append([*names, *estimator, *entropy])
    columns = ["Setting", "Method", "Advantage", "Surrogate", "Entropy over", "Coefficient"]
    return {"columns": columns, "rows": rows}


def _provenance(runs: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What differs between runs is listed with all its values."""
    facts: dict[str, dict[str, None]] = {}
    for run in runs:
        machine = run["hardware"]
        gpus = ", ".join(machine["gpus"]) or "no GPU"
        versions = [f"{name} {version}" for name, version in run["versions"].items() if version]
        for label, value in (
            ("Hardware", f"{machine['cpu']}, {machine['cores']} cores, {gpus}"),
            ("Threads a process", str(run["threads"])),
            ("Software", ", ".join(versions)),
            ("Code revision", str(run["git_revision"] or "unknown")),
        ):
            facts.setdefault(label, {})[value] = None
    found = [(label, "; ".join(values)) for label, values in facts.items()]
    if runs:
        period = f"{min(r['started'] for r in runs)} to {max(r['finished'] for r in runs)}"
        found.append(("Trained", period))
    return found


def _by_setting(claims: pd.DataFrame) -> list[tuple[str, list[Any]]]:
    return [
        (str(setting), list(rows.itertuples()))
        for setting, rows in claims.groupby("setting", sort=False)
    ]


def _problem_card(config: Config, name: str) -> tuple[str, str, str]:
    problems = config.problems[name]
    source = ""
    if isinstance(problems, SyntheticProblems):
        tiers = ", ".join(map(str, problems.tiers))
        source = (
            f"{problems.count} procedural problems ({', '.join(problems.families)}; tiers {tiers}; "
            f"{problems.split} split, seed {problems.seed})"
        )
    elif isinstance(problems, FileProblems):
        source = f"file {problems.path}"
    elif isinstance(problems, HubProblems):
        source = f"Hugging Face {problems.id}, split {problems.split}, revision {problems.revision}"
    return problems.title or name, source, ", ".join(_uses(config, name)) or "none"


def _uses(config: Config, name: str) -> Iterable[str]:
    for key, setting in config.settings.items():
        heading = setting_title(config, key)
        if setting.problems == name:
            yield f"training ({heading})"
        if name in setting.evaluation.benchmarks:
            yield f"test ({heading})"
        if name in setting.evaluation.validation:
            yield f"validation ({heading})"
    for key, model in config.models.items():
        if isinstance(model, ScratchModel) and model.warm_start.problems == name:
            yield f"warm start of {key}"


def _plan(config: Config) -> dict[str, Any]:
    """What was estimated beforehand, or why nothing could be."""
    try:
        plan = make_plan(config)
    except PlanError as error:
        return {"columns": [], "rows": [], "notes": [f"No estimate: {error}."], "warnings": []}
    columns, rows = plan_table(plan)
    return {"columns": columns, "rows": rows, "notes": notes(plan), "warnings": plan.warnings}


def _model_card(config: Config, name: str, metrics: Mapping[str, Any]) -> tuple[str, str, str]:
    model = config.models[name]
    if isinstance(model, PretrainedModel):
        commit = f", commit {metrics['commit']}" if metrics.get("commit") else ""
        return name, f"pretrained, {model.path}, revision {model.revision}{commit}", ""
    warm = model.warm_start
    origin = (
        f"built here: Qwen2 layout, {model.layers} layers of width {model.hidden}, vocabulary "
        f"{model.vocabulary}; supervised warm start of {warm.steps} x {warm.batch} demonstrations "
        f"from {warm.problems}"
    )
    return name, origin, ", ".join(f"{key} {value:.4g}" for key, value in metrics.items())


def _caption(config: Config, name: str) -> str:
    return config.figures[name].title if name in config.figures else MDP_CAPTION


def _spell(part: BaseModel) -> str:
    """A configuration's part in a line: its kind and values."""
    values = part.model_dump(exclude_none=True)
    kind = str(values.pop("kind")).replace("_", " ")
    spelt = ", ".join(f"{key} {value}" for key, value in values.items())
    return f"{kind} ({spelt})" if spelt else kind


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.1f} h"


def _read_json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))
