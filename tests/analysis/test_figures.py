import numpy as np
import pandas as pd
import pytest

from aent.analysis.figures import curves_figure, mdp_figure, smoothing, sweep_figure
from aent.analysis.scores import MissingDataError
from aent.analysis.style import axis_label, lines, save_figure
from aent.config import parse
from aent.mdp import simulate

METHODS = ["grpo", "entreg", "aent"]


@pytest.fixture
def scores(synthetic):
    curves = {(m, s): {10: 0.5 + 0.1 * s, 20: 0.6} for m in METHODS for s in range(3)}
    for place, value in enumerate(["0", "0.25", "0.5"]):
        curves |= {(f"aent-drop{value}", s): {10: 0.5 + 0.02 * place, 20: 0.5} for s in range(3)}
    frame = synthetic.scores_of(curves)
    base = synthetic.score_frame(synthetic.score_rows("base", None, {0: (0.3, 0.1, 0.2)}))
    return pd.concat([frame, base], ignore_index=True)


@pytest.fixture
def metrics(synthetic):
    return synthetic.metrics_of(
        {
            (m, s): {"entropy/clamped": np.linspace(0.5, 0.1, 20) + s}
            for m in METHODS
            for s in range(3)
        },
        **{"entropy/coefficient": 0.02},
    )


def test_curves_show_seeds_means_and_the_base_model(config, scores, metrics):
    figure = curves_figure(config, config.figures["curves"], scores, metrics)
    score, entropy, coefficient = figure.axes
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "average test score",
        "clamped entropy (nats)",
        "entropy coefficient λ",
    ]
    assert score.get_xlabel() == "step"
    # three methods, each three seeds and a mean; then the base model's level
    assert len(score.lines) == 3 * 4 + 1
    mean = score.lines[3]
    assert mean.get_xdata().tolist() == [0, 10, 20]
    assert mean.get_ydata().tolist() == pytest.approx([0.2, 0.6, 0.6])
    # three seeds at 0.5, 1.5 and 2.5 at step 1, a straight line: smoothing changes nothing
    assert entropy.lines[3].get_ydata()[0] == pytest.approx(1.5)
    assert len(coefficient.lines) == 2 * 4  # GRPO has no coefficient


def test_band_and_box_of_the_adaptive_method_are_drawn(config, scores, metrics):
    figure = curves_figure(config, config.figures["curves"], scores, metrics)
    spans = [
        [patch.get_extents().transformed(axes.transData.inverted()) for patch in axes.patches]
        for axes in figure.axes
    ]
    assert [len(found) for found in spans] == [0, 1, 1]
    assert (spans[1][0].y0, spans[1][0].y1) == pytest.approx((0.2, 0.3))
    assert (spans[2][0].y0, spans[2][0].y1) == pytest.approx((0.01, 0.05))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:3] == ["GRPO", "EntReg", "AEnt"]
    assert "box of the adaptive λ" in labels


def test_unknown_metric_is_named(config, scores, metrics):
    broken = config.figures["curves"].model_copy(update={"metrics": ["entropy/fall"]})
    with pytest.raises(MissingDataError, match=r"entropy/fall.*entropy/clamped"):
        curves_figure(config, broken, scores, metrics)


def test_sweep_shows_every_choice_of_checkpoint(config, scores):
    figure = sweep_figure(config, config.figures["sweep"], scores)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "best checkpoint",
        "chosen on validation",
        "last",
    ]
    best, _, last = figure.axes
    assert best.get_xlabel() == "clamping percentage p"
    means = best.containers[0].lines[0]
    assert means.get_xdata().tolist() == [0, 0.25, 0.5]
    assert means.get_ydata().tolist() == pytest.approx([0.5, 0.52, 0.54])
    assert last.containers[0].lines[0].get_ydata().tolist() == pytest.approx([0.5] * 3)
    assert best.lines[0].get_ydata()[0] == pytest.approx((0.6 + 0.6 + 0.7) / 3)  # GRPO's level


def test_sweep_takes_a_settings_own_value_from_the_base_method(synthetic, scores):
    data = synthetic.config_data()
    own = {"methods": {"aent": {"entropy": {"space": {"drop": 0.25}}}}, "title": "Annex"}
    data["settings"]["annex"] = data["settings"]["lab"] | own
    data["figures"]["sweep"]["settings"] = ["lab", "annex"]
    curves = {("aent", s): {10: 0.7, 20: 0.5} for s in range(3)}
    curves |= {("grpo", s): {10: 0.4, 20: 0.4} for s in range(3)}
    curves |= {(f"aent-drop{p}", s): {10: 0.6, 20: 0.5} for p in ("0", "0.5") for s in range(3)}
    there = synthetic.scores_of(curves).assign(setting="annex")
    config = parse(data)
    figure = sweep_figure(config, config.figures["sweep"], pd.concat([scores, there]))
    lab, annex = (figure.axes[row * 3].containers[0].lines[0] for row in range(2))
    assert lab.get_xdata().tolist() == annex.get_xdata().tolist() == [0, 0.25, 0.5]
    assert lab.get_ydata().tolist() == pytest.approx([0.5, 0.52, 0.54])
    assert annex.get_ydata().tolist() == pytest.approx([0.6, 0.7, 0.6])


def test_mdp_figure_has_a_panel_a_problem_and_a_strength(config):
    mdp = config.mdp.model_copy(update={"steps": 20})
    values = simulate(mdp)
    figure = mdp_figure(values, mdp)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        "10 optimal, λ = 0.12",
        "5 optimal, λ = 0.12",
        *(f"after 20 steps, λ = {value}" for value in ("0.06", "0.12", "0.18")),
    ]
    final = values[(values["step"] == 20) & (values["regulariser"] == "none")]
    drawn = figure.axes[2].lines[0].get_ydata()
    assert drawn.tolist() == pytest.approx(
        [final.loc[final["optimal"] == n, "value"].mean() for n in (10, 5)]
    )


def test_a_method_has_one_colour_in_every_figure(config):
    looks = lines(config, "lab")
    assert len({look.color for look in looks.values()}) == len(looks)
    assert list(looks) == [*METHODS, "aent-drop0", "aent-drop0.25", "aent-drop0.5"]
    assert axis_label("response/length_mean") == "response length (tokens)"
    assert axis_label("own/metric") == "own/metric"


def test_smoothing_is_odd_and_small():
    assert [smoothing(steps) for steps in (5, 20, 80, 400)] == [1, 1, 3, 11]


def test_saved_figures_repeat_byte_by_byte(config, scores, metrics, tmp_path):
    for name in ("one", "two"):
        figure = curves_figure(config, config.figures["curves"], scores, metrics)
        save_figure(figure, tmp_path / name / "figure")
    for suffix in ("svg", "pdf", "png"):
        first = (tmp_path / "one" / f"figure.{suffix}").read_bytes()
        assert first == (tmp_path / "two" / f"figure.{suffix}").read_bytes()
    svg = (tmp_path / "one" / "figure.svg").read_text()
    assert "A title" in svg
    assert "dc:date" not in svg
