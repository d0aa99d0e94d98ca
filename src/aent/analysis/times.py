"""Device time of a run: an update, and the way to a given score."""

from __future__ import annotations

import math

import pandas as pd

from aent.analysis.scores import MissingDataError, checkpoint_averages, select_checkpoints
from aent.config import Config
from aent.launch import threads_each

SECONDS_AN_HOUR = 3600.0


def device(config: Config, setting: str) -> str:
    """What a run's time is counted on: GPUs where it has them, else CPU threads."""
    return "GPU" if config.settings[setting].trainer.gpus else "CPU thread"


def devices(config: Config, setting: str, run: pd.DataFrame) -> pd.Series:
    """Devices that a run occupied in each step: a GPU or, without any, its threads a process.

    They are those that were there: an interrupted run may go on with another number. Where that was
    not recorded yet, the configured number counts.

    Args:
        config: the configuration.
        setting: the run's.
        run: its metrics.
    """
    trainer = config.settings[setting].trainer
    recorded = run.reindex(columns=["time/processes"])["time/processes"]
    processes = recorded.fillna(trainer.processes).astype(int)
    if trainer.gpus:
        return processes
    return processes * [threads_each(trainer.threads, count) for count in processes]


def run_times(
    config: Config,
    setting: str,
    methods: list[str],
    seeds: list[int],
    *,
    baseline: str,
    scores: pd.DataFrame,
    metrics: pd.DataFrame,
) -> pd.DataFrame:
    """Device time of each run (Table 2 of arXiv 2509.03493).

    A score counts as reached at the first checkpoint whose average test score is at least that
    high; the time is that of all training steps up to it, without evaluation.

    Returns:
        method, seed, and in device hours: update (forward and backward of one step), to_baseline
        (to the best score of the baseline's run with the same seed; infinite where it is never
        reached), to_own (to the run's own best score), total (all steps), and devices (on average).

    Raises:
        MissingDataError: scores or metrics of a run are missing.
    """
    every = list(dict.fromkeys([*methods, baseline]))
    chosen = select_checkpoints(config, setting, every, seeds, scores)
    best = chosen[chosen["selection"] == "best"].set_index(["method", "seed"])["average"]
    averages = checkpoint_averages(config, setting, scores)
    rows = []
    for method in methods:
        for seed in seeds:
            run = _of_run(metrics[metrics["setting"] == setting], method, seed)
            if run.empty:
                raise MissingDataError(f"{setting}/{method}/seed{seed}: no metrics")
            run = run.set_index("step")
            count = devices(config, setting, run)
            hours = (run["time/step_s"] * count).cumsum() / SECONDS_AN_HOUR
            curve = _of_run(averages, method, seed).sort_values("step")
            rows.append(
                {
                    "method": method,
                    "seed": seed,
                    "update": (run["time/update_s"] * count).mean() / SECONDS_AN_HOUR,
                    "to_baseline": _hours_to(best[baseline, seed], curve, hours),
                    "to_own": _hours_to(best[method, seed], curve, hours),
                    "total": hours.iloc[-1],
                    "devices": count.mean(),
                }
            )
    return pd.DataFrame(rows)


def _of_run(frame: pd.DataFrame, method: str, seed: int) -> pd.DataFrame:
    return frame[(frame["method"] == method) & (frame["seed"] == seed).fillna(False)]


def _hours_to(target: float, curve: pd.DataFrame, hours: pd.Series) -> float:
    reached = curve.loc[curve["average"] >= target, "step"]
    return float(hours[reached.iloc[0]]) if len(reached) else math.inf
