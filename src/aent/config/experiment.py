"""Experiments: which runs feed which table, figure and claim."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from aent.config.base import MOST, Name, Seed, Strict, Text, Unique, Uri


class Sweep(Strict):
    """Methods that differ in one key; `aent-drop` over 0.25 makes `aent-drop0.25`.

    In a setting whose base method has a value anyway, the base method stands for that value.
    """

    base: Name
    """Method to vary."""
    key: str = Field(pattern=r"^[a-z_]+(\.[a-z_]+)*$")
    """Dotted path of the key inside the method, such as `entropy.space.drop`."""
    values: Annotated[list[float | int], Unique] = Field(min_length=1, max_length=MOST)
    """Values of the key."""
    label: Text = "value"
    """What the key is called on an axis."""


class Runs(Strict):
    """Settings x methods x seeds."""

    title: Text
    """Caption."""
    settings: Annotated[list[Name], Unique] = Field(min_length=1, max_length=MOST)
    """Settings, a block or a panel each."""
    methods: Annotated[list[Name], Unique] = Field(min_length=1, max_length=MOST)
    """Methods and sweeps, in order."""
    seeds: Annotated[list[Seed], Unique] = Field(min_length=1, max_length=MOST)
    """Seeds of every run."""


class ScoresTable(Runs):
    """Scores a benchmark: best, validation-chosen and last checkpoint, mean and interval."""

    kind: Literal["scores"]
    published: dict[Name, dict[Name, dict[Name, float]]] = {}
    """Published numbers to print beside ours: setting -> method -> benchmark -> score."""


class TimeTable(Runs):
    """Time an update, and total time to the baseline's and to the own highest score."""

    kind: Literal["time"]
    baseline: Name
    """Method whose highest score is the target."""
    published: dict[Name, dict[Name, dict[Literal["update", "to_baseline", "to_own"], float]]] = {}
    """Published hours: setting -> method -> column -> hours."""


class CurvesFigure(Runs):
    """Metrics over training steps, a panel a metric, a line a method."""

    kind: Literal["curves"]
    metrics: Annotated[list[Text], Unique] = Field(min_length=1, max_length=MOST)
    """Recorded metrics, or `score/average` for the average test score of the checkpoints."""


class SweepFigure(Runs):
    """The average test score against a swept value, with the baseline as a level."""

    kind: Literal["sweep"]
    sweep: Name
    """The sweep on the x axis; it must be among the methods."""
    baseline: Name
    """Method drawn as a level; it must be among the methods."""


Table = Annotated[ScoresTable | TimeTable, Field(discriminator="kind")]
Figure = Annotated[CurvesFigure | SweepFigure, Field(discriminator="kind")]


class Claims(Strict):
    """The paper's claims, checked on these runs."""

    settings: Annotated[list[Name], Unique] = Field(min_length=1, max_length=MOST)
    """Settings to check, one after the other."""
    baseline: Name
    """The method without an entropy term."""
    plain: Name
    """The method with a constant, full-vocabulary bonus."""
    proposed: Name
    """The paper's method."""
    sweep: Name | None = None
    """The sweep of the clamping percentage; no claim about it when absent."""
    sweep_settings: Annotated[list[Name], Unique] | None = Field(
        default=None, min_length=1, max_length=MOST
    )
    """Those of the settings that have the sweep; all of them when absent."""
    seeds: Annotated[list[Seed], Unique] = Field(min_length=2, max_length=MOST)
    """Seeds the claims rest on."""

    @model_validator(mode="after")
    def _sweep_has_settings(self) -> Claims:
        if self.sweep is None and self.sweep_settings is not None:
            raise ValueError("sweep_settings: there is no sweep to judge in them; name it in sweep")
        strangers = sorted(set(self.sweep_settings or []) - set(self.settings))
        if strangers:
            raise ValueError(
                f"sweep_settings: {strangers} are not among the settings {self.settings}"
            )
        return self

    def sweep_in(self, setting: str) -> str | None:
        """The sweep that is judged in a setting, if any."""
        here = self.settings if self.sweep_settings is None else self.sweep_settings
        return self.sweep if setting in here else None

    def methods_in(self, setting: str) -> list[str]:
        """Methods, and the sweep if any, that the claims about a setting rest on."""
        sweep = self.sweep_in(setting)
        return [self.baseline, self.plain, self.proposed, *([sweep] if sweep else [])]


class Mdp(Strict):
    """The one-state decision problem of Figure 1 with a tabular softmax policy."""

    actions: int = Field(default=100_000, ge=10)
    """Number of actions."""
    optimal: list[int] = Field(default=[15, 10, 5, 3, 1], min_length=1)
    """Numbers of optimal actions (reward 1), a panel each."""
    decoys: int = Field(default=50, ge=0)
    """Actions with reward 0.5 that the prior prefers."""
    prior_std: float = Field(default=3.0, gt=0)
    """Standard deviation of the prior logits."""
    optimal_ranks: tuple[int, int] = (20, 999)
    """Range of prior ranks, below the decoys, at which optimal actions lie."""
    coefficients: list[float] = Field(default=[0.12, 0.06, 0.18], min_length=1)
    """Regularisation strengths lambda; the first one is drawn in full."""
    keep: list[float] = Field(default=[0.02, 0.67], min_length=1)
    """Fractions of actions that the clamped regularisation keeps."""
    learning_rate: float = Field(default=30.0, gt=0)
    """Step size of the exact policy gradient."""
    steps: int = Field(default=1500, ge=1)
    """Gradient steps."""
    seeds: Annotated[list[Seed], Unique] = Field(default=[0, 1], min_length=1, max_length=MOST)
    """Seeds of the prior and of the optimal actions' places."""
    threads: int = Field(default=1, ge=1)
    """CPU threads."""

    @model_validator(mode="after")
    def _places(self) -> Mdp:
        low, high = self.optimal_ranks
        if not 0 <= low <= high < self.actions - self.decoys:
            raise ValueError(
                f"optimal_ranks {[low, high]} must rise within the {self.actions - self.decoys} "
                "actions below the decoys, ranks from 0"
            )
        if not 1 <= min(self.optimal) <= max(self.optimal) <= high - low + 1:
            raise ValueError(
                f"optimal {self.optimal} must lie between 1 and the {high - low + 1} optimal_ranks"
            )
        if not 0 < min(self.keep) <= max(self.keep) <= 1:
            raise ValueError(f"keep {self.keep} must lie in (0, 1]")
        if min(self.coefficients) <= 0:
            raise ValueError(f"coefficients {self.coefficients} must be positive")
        return self


class Tracking(Strict):
    """The MLflow mirror of what the files hold."""

    enabled: bool = True
    """Mirror runs to MLflow."""
    uri: Uri | None = None
    """Tracking URI, without a password; a SQLite store under the results folder when absent."""
