"""Figures 1 to 6: seeds as thin lines, their mean as a thick one, axes with units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from aent.analysis.intervals import student
from aent.analysis.scores import (
    BASE,
    SELECTIONS,
    MissingDataError,
    checkpoint_averages,
    select_checkpoints,
    setting_title,
)
from aent.analysis.style import PALETTE, Line, axis_label, house_style, lines
from aent.config import Config
from aent.config.experiment import CurvesFigure, Mdp, SweepFigure
from aent.config.method import AdaptiveCoefficient

SCORE = "score/average"
SPAN_COLOR = "#56B4E9"
REGULARISERS = {"none": PALETTE[0], "entropy": PALETTE[1]}
CLAMP_COLORS = [PALETTE[3], PALETTE[6], PALETTE[5], PALETTE[2]]


def build_figure(
    config: Config, figure: CurvesFigure | SweepFigure, scores: pd.DataFrame, metrics: pd.DataFrame
) -> Figure:
    """The figure of whichever kind.

    Args:
        config: the configuration.
        figure: its definition.
        scores: as `collect_scores` gives them.
        metrics: as `read_metrics` gives them; curves alone need them.

    Raises:
        MissingDataError: data of a run is missing.
    """
    if isinstance(figure, CurvesFigure):
        return curves_figure(config, figure, scores, metrics)
    return sweep_figure(config, figure, scores)


def curves_figure(
    config: Config, figure: CurvesFigure, scores: pd.DataFrame, metrics: pd.DataFrame
) -> Figure:
    """Metrics over training steps: a row a setting, a panel a metric, a colour a method.

    Raises:
        MissingDataError: no run has a metric, or a run is missing.
    """
    by_setting = {setting: config.expand(figure.methods, setting) for setting in figure.settings}
    with house_style():
        drawing, panels = _curve_panels(figure)
        handles: dict[str, Line2D | Patch] = {}
        for (setting, metric), axes in panels.items():
            looks, methods = lines(config, setting), by_setting[setting]
            handles |= _draw_spans(config, setting, methods, metric, axes)
            frame = _metric(config, figure, setting, metric, scores=scores, metrics=metrics)
            for method in methods:
                own = frame[frame["method"] == method]
                if len(own):
                    handles[method] = _draw_runs(axes, own, looks[method], metric)
            if metric == SCORE:
                _draw_base(config, setting, scores, axes)
            axes.set(xlabel="step", ylabel=axis_label(metric))
            if len(figure.settings) > 1:
                axes.set_title(setting_title(config, setting), loc="left")
        every = dict.fromkeys(method for methods in by_setting.values() for method in methods)
        ordered = [handles.pop(method) for method in every if method in handles]
        _finish(drawing, figure.title, [*ordered, *handles.values(), *_explain(figure, metrics)])
    return drawing


def sweep_figure(config: Config, figure: SweepFigure, scores: pd.DataFrame) -> Figure:
    """Average test score against the swept value: a row a setting, a panel a checkpoint choice.

    Raises:
        MissingDataError: a run is missing.
    """
    sweep = config.sweeps[figure.sweep]
    points = {setting: config.points_of(figure.sweep, setting) for setting in figure.settings}
    everything = {
        setting: select_checkpoints(
            config, setting, [figure.baseline, *points[setting]], figure.seeds, scores
        )
        for setting in figure.settings
    }
    found = {name for chosen in everything.values() for name in chosen["selection"]}
    selections = [name for name in SELECTIONS if name in found]
    with house_style():
        shape = (len(figure.settings), len(selections))
        drawing, grid = _panels(shape, width=3.3, sharey="row")
        for row, (setting, chosen) in enumerate(everything.items()):
            looks = lines(config, setting)
            base, level = looks[sweep.base], looks[figure.baseline]
            for column, selection in enumerate(selections):
                axes = grid[row, column]
                values = chosen[chosen["selection"] == selection]
                by_method = {name: own["average"] for name, own in values.groupby("method")}
                _draw_level(axes, by_method.get(figure.baseline, pd.Series(dtype=float)), level)
                present = [(value, by_method[m]) for m, value in points[setting].items()]
                _draw_sweep(axes, present, base)
                prefix = f"{setting_title(config, setting)}: " if len(figure.settings) > 1 else ""
                axes.set_title(prefix + SELECTIONS[selection], loc="left")
                axes.set_xlabel(sweep.label)
                if column == 0:
                    axes.set_ylabel(axis_label(SCORE))
        first = lines(config, figure.settings[0])
        handles = [
            Line2D(
                [],
                [],
                color=first[sweep.base].color,
                marker="o",
                label=_mean_label(first, sweep.base),
            ),
            Line2D(
                [], [], color=first[sweep.base].color, marker=".", ls="", alpha=0.45, label="seeds"
            ),
            Line2D(
                [],
                [],
                color=first[figure.baseline].color,
                label=_mean_label(first, figure.baseline),
            ),
        ]
        _finish(drawing, figure.title, handles)
    return drawing


def mdp_figure(values: pd.DataFrame, config: Mdp, caption: str | None = None) -> Figure:
    """Figure 1: learning curves by number of optimal actions, and final values by strength.

    Args:
        values: as `aent.mdp.simulate` gives them.
        config: the problem; its first coefficient is drawn in full.
        caption: the figure's title.
    """
    optimal = sorted(config.optimal, reverse=True)
    columns = math.lcm(len(optimal), len(config.coefficients))
    with house_style():
        drawing = Figure(figsize=(11.5, 5.6), layout="constrained")
        grid = drawing.add_gridspec(2, columns)
        width = columns // len(optimal)
        for place, number in enumerate(optimal):
            axes = drawing.add_subplot(grid[0, place * width : (place + 1) * width])
            own = values[values["optimal"] == number]
            for name, look in _regulariser_lines(config).items():
                _draw_runs(axes, _regularised(own, name, config.coefficients[0]), look, "value")
            axes.set_xscale("symlog", linthresh=1)
            ticks = [0, *(10**k for k in range(int(math.log10(config.steps)) + 1))]
            axes.set_xticks(ticks, [str(tick) for tick in ticks])
            axes.minorticks_off()
            axes.set(xlabel="gradient step", ylim=(-0.03, 1.03), xlim=(0, config.steps))
            axes.set_title(f"{number} optimal, λ = {config.coefficients[0]:g}", loc="left")
            if place == 0:
                axes.set_ylabel("expected reward")
            else:
                axes.tick_params(labelleft=False)
        width = columns // len(config.coefficients)
        final = values[values["step"] == values["step"].max()]
        for place, coefficient in enumerate(sorted(config.coefficients)):
            axes = drawing.add_subplot(grid[1, place * width : (place + 1) * width])
            _draw_final(axes, final, config, optimal, coefficient)
            axes.set_title(f"after {config.steps} steps, λ = {coefficient:g}", loc="left")
            if place == 0:
                axes.set_ylabel("expected reward")
            else:
                axes.tick_params(labelleft=False)
        handles = [_handle(look) for look in _regulariser_lines(config).values()]
        text = caption or f"Synthetic decision problem with {config.actions:,} actions"
        _finish(drawing, text, handles)
    return drawing


def _metric(
    config: Config,
    figure: CurvesFigure,
    setting: str,
    metric: str,
    *,
    scores: pd.DataFrame,
    metrics: pd.DataFrame,
) -> pd.DataFrame:
    """Columns method, seed, step, value of one metric in one setting."""
    methods = config.expand(figure.methods, setting)
    if metric == SCORE:
        averages = checkpoint_averages(config, setting, scores)
        base = averages[averages["method"] == BASE]
        frame = averages.rename(columns={"average": "value"})
        starts = [base.assign(method=m, seed=s) for m in methods for s in figure.seeds]
        frame = pd.concat([*(s.rename(columns={"average": "value"}) for s in starts), frame])
    else:
        if metric not in metrics.columns:
            known = sorted(name for name in metrics.columns if "/" in name)
            raise MissingDataError(f"{setting}: no run has {metric!r}; recorded are {known}")
        frame = metrics[metrics["setting"] == setting].rename(columns={metric: "value"})
        if metric == "entropy/coefficient":
            with_term = [m for m in methods if config.method(setting, m).entropy]
            frame = frame[frame["method"].isin(with_term)]
    frame = frame[frame["method"].isin(methods) & frame["seed"].isin(figure.seeds)]
    return frame[["method", "seed", "step", "value"]].dropna()


def _draw_runs(axes: Axes, runs: pd.DataFrame, look: Line, metric: str) -> Line2D:
    """Seeds thin, their mean thick; a long noisy history's mean is smoothed."""
    wide = runs.pivot(index="step", columns="seed", values="value").astype(float)
    axes.plot(wide.index, wide, color=look.color, ls=look.dash, lw=0.7, alpha=0.35)
    mean = wide.mean(axis=1).where(wide.notna().all(axis=1))
    window = smoothing(len(mean)) if "/" in metric and metric != SCORE else 1
    mean = mean.rolling(window, center=True, min_periods=1).mean()
    marker = "o" if metric == SCORE else ""
    axes.plot(mean.index, mean, color=look.color, ls=look.dash, lw=1.8, marker=marker, ms=3.5)
    return _handle(look)


def smoothing(steps: int) -> int:
    """Steps over which a thick line averages: a fortieth of the history, an odd number."""
    return steps // 40 | 1


def _draw_base(config: Config, setting: str, scores: pd.DataFrame, axes: Axes) -> None:
    averages = checkpoint_averages(config, setting, scores)
    for level in averages.loc[averages["method"] == BASE, "average"]:
        axes.axhline(level, color="#888888", lw=0.8, ls=":")
        axes.annotate(
            "base model",
            (1, level),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            color="#777777",
            fontsize=7.5,
        )


def _draw_spans(
    config: Config, setting: str, methods: Sequence[str], metric: str, axes: Axes
) -> dict[str, Patch]:
    """The band of the entropy and the box of lambda of the adaptive methods, where shown."""
    spans = {}
    for method in methods:
        term = config.method(setting, method).entropy
        if term is None or not isinstance(term.coefficient, AdaptiveCoefficient):
            continue
        rule = term.coefficient
        if metric in ("entropy/full", "entropy/clamped"):
            spans[rule.low, rule.high] = "band of the adaptive rule (clamped entropy)"
        elif metric == "entropy/coefficient":
            spans[rule.min, rule.max] = "box of the adaptive λ"
    handles = {}
    for (low, high), label in spans.items():
        color = SPAN_COLOR if label.startswith("band") else "#999999"
        axes.axhspan(low, high, color=color, alpha=0.16, lw=0)
        handles[label] = Patch(color=color, alpha=0.25, lw=0, label=label)
    return handles


def _draw_level(axes: Axes, values: pd.Series, look: Line) -> None:
    interval = student(values)
    axes.axhline(interval.mean, color=look.color, lw=1.4)
    if interval.number > 1:
        axes.axhspan(interval.low, interval.high, color=look.color, alpha=0.10, lw=0)


def _draw_sweep(axes: Axes, values: list[tuple[float | int, pd.Series]], look: Line) -> None:
    intervals = [student(scores) for _, scores in values]
    x = [value for value, _ in values]
    half = [0.0 if math.isnan(interval.half) else interval.half for interval in intervals]
    means = [interval.mean for interval in intervals]
    axes.errorbar(x, means, half, color=look.color, marker="o", ms=4.5, lw=1.4, capsize=3)
    for value, scores in values:
        axes.plot([value] * len(scores), scores, ".", color=look.color, alpha=0.45, ms=6)


def _draw_final(
    axes: Axes, final: pd.DataFrame, config: Mdp, optimal: list[int], coefficient: float
) -> None:
    places = np.arange(len(optimal))
    for name, look in _regulariser_lines(config).items():
        own = _regularised(final, name, coefficient)
        wide = own.pivot(index="optimal", columns="seed", values="value").loc[optimal]
        axes.plot(
            places, wide.mean(axis=1), color=look.color, ls=look.dash, lw=1.8, marker="o", ms=4
        )
        axes.plot(places, wide, ".", color=look.color, alpha=0.45, ms=5)
    axes.set_xticks(places, [str(number) for number in optimal])
    axes.set(xlabel="optimal actions", ylim=(-0.03, 1.03))


def _regulariser_lines(config: Mdp) -> dict[tuple[str, float | None], Line]:
    """The look of (regulariser, keep)."""
    looks: dict[tuple[str, float | None], Line] = {
        ("none", None): Line("no regularisation", REGULARISERS["none"], "-"),
        ("entropy", None): Line("entropy", REGULARISERS["entropy"], "-"),
    }
    for place, keep in enumerate(config.keep):
        color = CLAMP_COLORS[place % len(CLAMP_COLORS)]
        looks["clamped", keep] = Line(f"clamped entropy, top {100 * keep:g}% kept", color, "--")
    return looks


def _regularised(
    values: pd.DataFrame, name: tuple[str, float | None], coefficient: float
) -> pd.DataFrame:
    kind, keep = name
    own = values[values["regulariser"] == kind]
    if kind != "none":
        own = own[own["coefficient"] == coefficient]
    return own if keep is None else own[own["keep"] == keep]


def _curve_panels(figure: CurvesFigure) -> tuple[Figure, dict[tuple[str, str], Axes]]:
    """A row a setting; the metrics of a single setting wrap into rows of at most three."""
    keys = [(setting, metric) for setting in figure.settings for metric in figure.metrics]
    columns = len(figure.metrics)
    if len(figure.settings) == 1:
        columns = math.ceil(columns / math.ceil(columns / 3))
    rows = math.ceil(len(keys) / columns)
    drawing, grid = _panels((rows, columns), width=3.9 if columns > 1 else 5.4)
    for spare in grid.flat[len(keys) :]:
        spare.remove()
    return drawing, dict(zip(keys, grid.flat, strict=False))


def _explain(figure: CurvesFigure, metrics: pd.DataFrame) -> list[Line2D]:
    """Legend entries that say what thin and thick lines are."""
    window = smoothing(int(metrics["step"].max())) if set(figure.metrics) - {SCORE} else 1
    smooth = f", over {window} steps" if window > 1 else ""
    return [
        Line2D([], [], color="#666666", lw=0.7, alpha=0.6, label="one seed"),
        Line2D([], [], color="#666666", lw=1.8, label=f"mean over seeds{smooth}"),
    ]


def _panels(
    shape: tuple[int, int], width: float, sharey: Literal["none", "row"] = "none"
) -> tuple[Figure, np.ndarray]:
    rows, columns = shape
    drawing = Figure(figsize=(width * columns, 2.7 * rows + 0.5), layout="constrained")
    return drawing, drawing.subplots(rows, columns, squeeze=False, sharey=sharey)


def _finish(drawing: Figure, text: str, handles: Sequence[Line2D | Patch]) -> None:
    drawing.suptitle(text, x=0.01, ha="left", fontsize=11)
    rows = _add_legend(drawing, list(handles))
    drawing.set_figheight(drawing.get_figheight() + 0.2 * rows)


def _add_legend(drawing: Figure, handles: list[Line2D | Patch]) -> int:
    """Put a legend of as many columns as fit below the panels; returns its number of rows."""
    for columns in range(len(handles), 0, -1):
        legend = drawing.legend(handles=handles, loc="outside lower center", ncols=columns)
        if legend.get_window_extent().width <= drawing.bbox.width or columns == 1:
            return math.ceil(len(handles) / columns)
        legend.remove()
    return 0


def _handle(look: Line) -> Line2D:
    return Line2D([], [], color=look.color, ls=look.dash, lw=1.8, label=look.label)


def _mean_label(looks: dict[str, Line], method: str) -> str:
    return f"{looks[method].label}, mean and 95% interval"
