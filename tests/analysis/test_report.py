import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from aent.analysis.claims import check_claims
from aent.analysis.figures import build_figure, mdp_figure
from aent.analysis.findings import write_claims
from aent.analysis.report import inline_svg, write_report
from aent.analysis.style import save_figure
from aent.config import parse
from aent.mdp import simulate
from aent.problems import Prepared, Problem
from aent.problems.card import describe_problems
from aent.problems.cleaning import Step


@pytest.fixture(scope="module")
def finished(synthetic, tmp_path_factory):
    """The files of a finished reproduction, with made-up numbers."""
    tmp_path = tmp_path_factory.mktemp("results")
    config = parse({**synthetic.config_data(), "results": str(tmp_path)})
    config = config.model_copy(update={"mdp": config.mdp.model_copy(update={"steps": 10})})
    runs = config.runs()
    keys = [(run.method_name, run.seed) for run in runs]
    curves = {key: {10: 0.5 + 0.01 * key[1], 20: 0.6} for key in keys}
    base = synthetic.score_frame(synthetic.score_rows("base", None, {0: (0.3, 0.1, 0.2)}))
    scores = pd.concat([synthetic.scores_of(curves), base], ignore_index=True)
    entropy = {"entropy/full": np.linspace(0.5, 0.1, 20), "entropy/clamped": 0.25}
    metrics = synthetic.metrics_of(dict.fromkeys(keys, entropy), **{"entropy/coefficient": 0.02})
    for run in runs:
        folder = tmp_path / run.name
        folder.mkdir(parents=True)
        own = (metrics["method"] == run.method_name) & (metrics["seed"] == run.seed)
        rows = metrics[own].drop(columns=["setting", "method", "seed"])
        rows.to_parquet(folder / "metrics.parquet", index=False)
        facts = {
            "run": run.model_dump(mode="json"),
            "git_revision": "0123abc",
            "versions": {"torch": "2.13.0", "snakemake": None},
            "hardware": {"machine": "x86_64", "cpu": "A <CPU>", "cores": 2, "gpus": []},
            "threads": 1,
            "started": "2026-01-01T00:00:00Z",
            "finished": "2026-01-01T00:01:00Z",
            "seconds": 60.0,
        }
        (folder / "run.json").write_text(json.dumps(facts))
    scores.to_parquet(tmp_path / "scores.parquet", index=False)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny.json").write_text('{"accuracy/sampled": 0.291, "entropy": 0.45}')
    (tmp_path / "problems").mkdir()
    for name in config.used_problems():
        steps = [Step("read", 90, 0), Step("not in a benchmark", 50, 40, {"easy": 40})]
        prepared = Prepared([Problem("a", "1 + 1 ?", "2")], steps, commit="c0ffee")
        card = describe_problems(config.problems[name], prepared)
        (tmp_path / "problems" / f"{name}.json").write_text(json.dumps(card))
    values = simulate(config.mdp)
    save_figure(mdp_figure(values, config.mdp), tmp_path / "figures" / "figure1")
    for name, figure in config.figures.items():
        drawing = build_figure(config, figure, scores, metrics)
        save_figure(drawing, tmp_path / "figures" / name)
    write_claims(check_claims(config, scores, metrics, values), tmp_path / "claims")
    return config


def test_report_is_one_page_with_everything(finished):
    path = finished.results / "report.html"
    write_report(finished, path)
    page = path.read_text()
    for text in (
        "<b>18</b>",  # training runs: six methods, three seeds
        "18 min",
        "A &lt;CPU&gt;, 2 cores, no GPU",
        "torch 2.13.0",
        'class="verdict reproduced"',
        'class="verdict not-reproduced"',
        'class="verdict inconclusive"',
        "The policy entropy collapses under GRPO",
        "table1: A title",
        "Easy &amp; small",
        "published",
        "accuracy/sampled 0.291",
        "1000 procedural problems",
        "not in a benchmark 50 (dropped 40: easy 40); commit c0ffee",
        "integer 100%",
        "lab/aent-drop0.5/seed2",  # in the plan
        "all 18 runs",
        "validation (Lab_1)",
        "adaptive (initial 0.02, low 0.2",
    ):
        assert text in page, text
    assert page.count("<svg") == page.count("</svg>") == 3
    # self-contained: nothing is loaded from anywhere
    assert not re.search(r'(src|href)="(?!#)', re.sub(r'xlink:href="#[^"]*"', "", page))
    assert "<script" not in page
    assert "@import" not in page
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    write_report(finished, path)
    assert path.read_text() == page


def test_missing_figure_is_named(finished, tmp_path):
    shutil.copytree(finished.results, tmp_path / "results")
    finished = finished.model_copy(update={"results": tmp_path / "results"})
    (finished.results / "figures" / "sweep.svg").unlink()
    with pytest.raises(FileNotFoundError, match=r"sweep\.svg"):
        write_report(finished, finished.results / "report.html")


def test_inlined_figures_keep_their_own_ids():
    svg = (
        '<?xml version="1.0"?>\n<svg><path id="a"/><use xlink:href="#a" clip-path="url(#b)"/></svg>'
    )
    assert inline_svg(svg, "x") == (
        '<svg><path id="x-a"/><use xlink:href="#x-a" clip-path="url(#x-b)"/></svg>'
    )
