"""Tables 1 to 3: numbers for programs (csv), readers (Markdown) and papers (LaTeX).

A table's `data` is long and numeric; its `blocks` are what people read, one a setting. Nothing is
bold: whether a difference is more than noise is the claims sheet's matter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from aent.analysis.intervals import Interval, student
from aent.analysis.scores import (
    BASE,
    SELECTIONS,
    MissingDataError,
    benchmark_scores,
    select_checkpoints,
    setting_title,
    title,
)
from aent.analysis.times import device, run_times
from aent.config import Config
from aent.config.experiment import ScoresTable, TimeTable
from aent.files import replacing

AVERAGE = "average"
NOT_AVAILABLE = "n/a"
TIME_COLUMNS = {
    "update": "Update a step",
    "to_baseline": "To {baseline}'s best score",
    "to_own": "To own best score",
}


@dataclass(frozen=True)
class Table:
    """A finished table.

    Attributes:
        title: caption.
        data: long and tidy, a number a row, with its interval and the published value (NaN: n/a).
        blocks: (heading, text cells) a setting.
        notes: sentences to print below.
    """

    title: str
    data: pd.DataFrame
    blocks: list[tuple[str, pd.DataFrame]]
    notes: list[str] = field(default_factory=list)


def build_table(
    config: Config, table: ScoresTable | TimeTable, scores: pd.DataFrame, metrics: pd.DataFrame
) -> Table:
    """The table of whichever kind.

    Args:
        config: the configuration.
        table: its definition.
        scores: as `collect_scores` gives them.
        metrics: as `read_metrics` gives them; time tables alone need them.

    Raises:
        MissingDataError: data of a run is missing.
    """
    if isinstance(table, ScoresTable):
        return scores_table(config, table, scores)
    return time_table(config, table, scores, metrics)


def scores_table(config: Config, table: ScoresTable, scores: pd.DataFrame) -> Table:
    """Scores a benchmark of the best, the validation-chosen and the last checkpoint.

    Raises:
        MissingDataError: a run or the base model was not scored.
    """
    parts = [_setting_scores(config, table, setting, scores) for setting in table.settings]
    data = pd.concat([part[0] for part in parts], ignore_index=True)
    notes = [
        "Mean ± half of the 95% confidence interval over seeds (Student t); the mean alone where "
        "there is one seed. The base model has no seeds.",
        "The best checkpoint is chosen by its test scores, as in the paper, and so is flattered; "
        "the one chosen on validation and the last one are not.",
        *(note for part in parts for note in part[2]),
    ]
    blocks = [
        (setting_title(config, setting), part[1])
        for setting, part in zip(table.settings, parts, strict=True)
    ]
    return Table(table.title, data, blocks, notes)


def _setting_scores(
    config: Config, table: ScoresTable, setting: str, scores: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Rows, text cells and notes of one setting."""
    methods = config.expand(table.methods, setting)
    wide = benchmark_scores(config, setting, "benchmarks", scores)
    names = [*config.settings[setting].evaluation.benchmarks, AVERAGE]
    wide[AVERAGE] = wide[names[:-1]].mean(axis=1)
    base = wide[wide["method"] == BASE]
    if base.empty:
        raise MissingDataError(f"{setting}/{BASE}: no scores")
    chosen = select_checkpoints(config, setting, methods, table.seeds, scores)
    picked = chosen[["method", "seed", "selection", "step"]].merge(
        wide, on=["method", "seed", "step"], validate="many_to_one"
    )
    published = table.published.get(setting, {})

    groups = [(BASE, BASE, base)]
    groups += [
        (
            method,
            selection,
            picked[(picked["method"] == method) & (picked["selection"] == selection)],
        )
        for method in methods
        for selection in SELECTIONS
        if selection in set(picked["selection"])
    ]
    rows, cells = [], []
    for method, selection, group in groups:
        intervals = {name: student(group[name]) for name in names}
        known = published.get(method, {}) if selection in (BASE, "best") else {}
        for name in names:
            rows.append(
                {
                    "setting": setting,
                    "method": method,
                    "checkpoint": selection,
                    "benchmark": name,
                    **_numbers(intervals[name]),
                    "step": group["step"].mean(),
                    "published": known.get(name, math.nan),
                }
            )
        first = [title(config, setting, method), SELECTIONS.get(selection, "-")]
        cells.append([*first, *(intervals[name].show() for name in names)])
        if any(name in known for name in names):
            shown = [_show(known.get(name, math.nan), 3) for name in names]
            cells.append([first[0], "published", *shown])
    columns = ["Method", "Checkpoint", *(_benchmark_title(config, name) for name in names)]
    return (
        pd.DataFrame(rows),
        pd.DataFrame(cells, columns=columns),
        _published_elsewhere(config, setting, published, names),
    )


def time_table(
    config: Config, table: TimeTable, scores: pd.DataFrame, metrics: pd.DataFrame
) -> Table:
    """Time of an update, to the baseline's best score, and to the own best score.

    Raises:
        MissingDataError: a run's scores or metrics are missing.
    """
    rows, blocks, notes = [], [], []
    for setting in table.settings:
        methods = config.expand(table.methods, setting)
        times = run_times(
            config,
            setting,
            methods,
            table.seeds,
            baseline=table.baseline,
            scores=scores,
            metrics=metrics,
        )
        published = table.published.get(setting, {})
        kind = device(config, setting)
        unit, factor = _time_unit(times[list(TIME_COLUMNS)])
        cells = []
        for method in methods:
            own = times[times["method"] == method]
            known = {str(key): value for key, value in published.get(method, {}).items()}
            shown = [title(config, setting, method), f"{kind} {unit}"]
            for column in TIME_COLUMNS:
                reached = own.loc[np.isfinite(own[column]), column]
                hours = student(reached)
                rows.append(
                    {
                        "setting": setting,
                        "method": method,
                        "time": column,
                        **_numbers(hours),
                        "reached": len(reached) / len(own),
                        "published": known.get(column, math.nan),
                    }
                )
                shown.append(_show_times(student(reached * factor), len(own)))
            cells.append(shown)
            if known:
                values = [_show(known.get(column, math.nan)) for column in TIME_COLUMNS]
                cells.append([f"{shown[0]}, published", "GPU hours", *values])
        heading, baseline = setting_title(config, setting), title(config, setting, table.baseline)
        labels = [label.format(baseline=baseline) for label in TIME_COLUMNS.values()]
        blocks.append((heading, pd.DataFrame(cells, columns=["Method", "Unit", *labels])))
        counts = " or ".join(f"{count:.3g}" for count in sorted(times["devices"].unique()))
        notes.append(f"{heading}: a run occupied {counts} {kind}(s).")
        if not published:
            notes.append(f"{heading}: published numbers are not available (n/a).")
    data = pd.DataFrame(rows).rename(
        columns={key: f"{key}_hours" for key in ("mean", "low", "high", "published")}
    )
    return Table(table.title, data, blocks, [*_time_notes(), *notes])


def write_table(table: Table, stem: Path | str) -> None:
    """Write `stem.csv`, `stem.md` and `stem.tex`.

    Raises:
        aent.files.StorageError: the disk is full or gone.
    """
    with replacing(Path(f"{stem}.csv")) as partial:
        table.data.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n")
    with replacing(Path(f"{stem}.md")) as partial:
        partial.write_text(markdown(table))
    with replacing(Path(f"{stem}.tex")) as partial:
        partial.write_text(latex(table))


def markdown(table: Table) -> str:
    """The table as GitHub Markdown."""
    lines = [f"# {table.title}", ""]
    for heading, cells in table.blocks:
        lines += [f"## {heading}", "", *markdown_rows(cells), ""]
    lines += [f"- {note}" for note in table.notes]
    return "\n".join(lines) + "\n"


def markdown_rows(cells: pd.DataFrame) -> list[str]:
    """A frame of texts as the lines of a Markdown table."""
    rows = [
        list(cells.columns),
        ["---"] * len(cells.columns),
        *cells.astype(str).to_numpy().tolist(),
    ]
    return ["| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |" for row in rows]


def latex(table: Table) -> str:
    """The table as a LaTeX float for the booktabs package, a tabular a setting."""
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering"]
    lines += [rf"\caption{{{_escape(table.title)}}}"]
    for heading, cells in table.blocks:
        columns = "ll" + "r" * (len(cells.columns) - 2)
        lines += [rf"\par\smallskip\textit{{{_escape(heading)}}}\par\smallskip"]
        lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
        lines += [_latex_row(list(cells.columns)), r"\midrule"]
        previous = None
        for row in cells.to_numpy().tolist():
            if previous is not None and row[0] != previous and "Checkpoint" in cells.columns:
                lines.append(r"\addlinespace")
            previous = row[0]
            lines.append(_latex_row(row))
        lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\footnotesize {_escape(note)}" for note in table.notes]
    return "\n".join([*lines, r"\end{table}", ""])


def _numbers(interval: Interval) -> dict[str, float]:
    return {
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "seeds": interval.number,
    }


def _show(value: float, digits: int | None = None) -> str:
    if math.isnan(value):
        return NOT_AVAILABLE
    return f"{value:g}" if digits is None else f"{value:.{digits}f}"


def _show_times(times: Interval, seeds: int) -> str:
    if times.number == 0:
        return "not reached"
    digits = 3 if times.mean < 1 else 2 if times.mean < 10 else 1
    missed = "" if times.number == seeds else f" (reached by {times.number} of {seeds} seeds)"
    return times.show(digits) + missed


def _time_unit(hours: pd.DataFrame) -> tuple[str, float]:
    """The unit in which the longest time reads well, and how many of it an hour has."""
    values = hours.to_numpy(dtype=float)
    if values[np.isfinite(values)].max() < 0.2:
        return "seconds", 3600.0
    return "hours", 1.0


def _time_notes() -> list[str]:
    return [
        "Device time: wall-clock time multiplied by the number of devices that a run occupied in "
        "each step, a vLLM server's not counted; mean ± half of the 95% confidence interval over "
        "seeds (Student t).",
        "An update is forward and backward of one step. The times to a score add whole training "
        "steps, evaluation apart, up to the first checkpoint that reaches it; scores are known at "
        "checkpoints only. The baseline's score is that of its run with the same seed. Where some "
        "seeds never reach it, the mean is over those that do, and flatters.",
    ]


def _published_elsewhere(
    config: Config, setting: str, published: dict[str, dict[str, float]], names: list[str]
) -> list[str]:
    """The published numbers of benchmarks that the setting does not have, as notes."""
    values = [
        f"{title(config, setting, method)} {benchmark} {value:.3f}"
        for method, known in published.items()
        for benchmark, value in known.items()
        if benchmark not in names
    ]
    where = f"{setting_title(config, setting)}: published"
    if not published:
        return [f"{where} numbers are not available (n/a)."]
    if not values:
        return []
    return [f"{where} for benchmarks that are not evaluated here: {', '.join(values)}."]


def _benchmark_title(config: Config, name: str) -> str:
    return "Average" if name == AVERAGE else config.problems[name].title or name


def _latex_row(cells: list[str]) -> str:
    return " & ".join(_escape(cell) for cell in cells) + r" \\"


def _escape(text: str) -> str:
    special = {c: f"\\{c}" for c in "&%$#_{}"}
    special |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"±": r"$\pm$", "<": r"$<$", ">": r"$>$"}
    return "".join(special.get(character, character) for character in text)
