"""How figures look: one colour a method in all of them, axes with units, reproducible files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")

from matplotlib import colormaps, rc_context
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from aent.analysis.scores import title
from aent.config import Config
from aent.files import replacing

# Okabe and Ito's colours, told apart by colour-blind readers too; dashes tell the next eight apart.
PALETTE = ["#000000", "#E69F00", "#CC79A7", "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#8B6914"]
DASHES = ["-", "--", ":", "-."]
UNITS = {
    "score/average": "average test score",
    "entropy/full": "policy entropy (nats)",
    "entropy/clamped": "clamped entropy (nats)",
    "entropy/kept_mass": "probability mass of the token space",
    "entropy/coefficient": "entropy coefficient λ",
    "reward/mean": "mean training reward",
    "reward/std": "standard deviation of the reward",
    "reward/unparsed_fraction": "responses without a parsed answer (fraction)",
    "reward/zero_variance_fraction": "groups of equal rewards (fraction)",
    "response/length_mean": "response length (tokens)",
    "response/truncated_fraction": "truncated responses (fraction)",
    "loss/surrogate": "surrogate loss",
    "loss/entropy": "entropy loss",
    "loss/value": "value loss",
    "policy/clip_fraction": "clipped ratios (fraction)",
    "policy/kl_old": "KL from the rollout policy (nats)",
    "grad/norm": "gradient norm",
    "throughput/tokens_per_s": "throughput (tokens/s)",
    "time/rollout_s": "rollout time (s)",
    "time/reward_s": "reward time (s)",
    "time/update_s": "update time (s)",
    "time/step_s": "step time (s)",
}


class Line(NamedTuple):
    """How a method's lines look.

    Attributes:
        label: the method's title.
        color: as matplotlib understands it.
        dash: matplotlib's line style.
    """

    label: str
    color: str
    dash: str


def lines(config: Config, setting: str) -> dict[str, Line]:
    """The look of every method, from its place in the configuration: the same in all figures."""
    looks = {}
    for place, name in enumerate(config.methods):
        dash = DASHES[place // len(PALETTE) % len(DASHES)]
        looks[name] = Line(title(config, setting, name), PALETTE[place % len(PALETTE)], dash)
    for name, sweep in config.sweeps.items():
        shades = colormaps["cividis"]
        for place, swept in enumerate(config.points_of(name, setting)):
            if swept in looks:
                continue
            color = to_hex(shades(0.9 * place / max(1, len(sweep.values) - 1)))
            looks[swept] = Line(title(config, setting, swept), color, "-")
    return looks


def axis_label(metric: str) -> str:
    """The metric with its unit; metrics this module does not know keep their name."""
    return UNITS.get(metric, metric)


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib settings of all figures."""
    with rc_context(
        {
            "figure.dpi": 100,
            "font.size": 9,
            "axes.titlesize": 9.5,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#e4e4e4",
            "grid.linewidth": 0.6,
            "axes.axisbelow": True,
            "legend.frameon": False,
            "lines.solid_capstyle": "round",
            "svg.fonttype": "none",
            "svg.hashsalt": "aent",
            "pdf.fonttype": 42,
            "pdf.compression": 6,
        }
    ):
        yield


def save_figure(figure: Figure, stem: Path | str) -> None:
    """Write `stem.svg`, `stem.pdf` and `stem.png`: the same figure, the same bytes.

    Raises:
        aent.files.StorageError: the disk is full or gone.
    """
    told: dict[str, dict[str, Any]] = {
        "svg": {"metadata": {"Date": None, "Creator": "aent"}},
        "pdf": {"metadata": {"CreationDate": None, "ModDate": None}},
        "png": {"metadata": {"Software": "aent"}, "dpi": 150},
    }
    for kind, options in told.items():
        with house_style(), replacing(Path(f"{stem}.{kind}")) as partial:
            figure.savefig(partial, format=kind, **options)
